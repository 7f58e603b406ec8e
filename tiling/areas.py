"""GeoJSON geometries as valid polygons: what is broken is mended or refused, and both are told."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.errors import TissueInvalid
from wsi.wording import number_of

MAX_VERTICES = 2_000_000  # a whole section outlined at 2 um has 100,000
MAX_COORDINATE = 1e7  # five times the side of the largest slide
_NO_AREAS = ("Point", "MultiPoint", "LineString", "MultiLineString")
_DECIMALS = 2  # that QuPath writes

Polygons = NDArray[np.object_]


def invalid(path: Path, what: str, hint: str = "") -> TissueInvalid:
    """The refusal of a file of which `what` is said."""
    hint = hint or "Export it from QuPath again as GeoJSON, or take it away to have the tissue detected."
    return TissueInvalid(f"{path}: {what}.", hint=hint, path=str(path))


@dataclass
class Areas:
    """Collects the geometries of one file; raises TissueInvalid for those that no drawing has."""

    path: Path
    drawn: dict[bool, list[Any]] = field(default_factory=lambda: {False: [], True: []})  # by: is it cut out
    left_out: Counter[str] = field(default_factory=Counter)  # what it is -> how many
    opened: int = 0
    crossed: int = 0
    flat: int = 0
    vertices: int = 0

    def add(self, geometry: Any, cut_out: bool) -> None:
        """Takes the polygons of a GeoJSON geometry, and counts what is none."""
        if geometry is None:
            self.left_out["feature without a place"] += 1
            return
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if kind in _NO_AREAS:
            self.left_out[str(kind)] += 1
        elif kind == "GeometryCollection":
            for part in self._list(geometry.get("geometries")):
                self.add(part, cut_out)
        elif kind in ("Polygon", "MultiPolygon"):
            found = self._list(geometry.get("coordinates"))
            for rings in found if kind == "MultiPolygon" else [found]:
                self._polygon(self._list(rings), self.drawn[cut_out])
        else:
            raise invalid(self.path, f"it holds a geometry of an unknown kind ({str(kind)[:40]!r})")

    def valid(self, cut_out: bool) -> Polygons:
        """The areas of either sort as valid polygons; those that cross themselves are mended, and counted."""
        import shapely

        polygons = np.array(self.drawn[cut_out], dtype=object)
        sound = shapely.is_valid(polygons).astype(bool)
        made = shapely.make_valid(polygons[~sound], method="structure", keep_collapsed=False)
        nothing = shapely.is_empty(made).astype(bool)
        self.crossed += int((~nothing).sum())
        self.flat += int(nothing.sum())
        return shapely.get_parts(np.concatenate([polygons[sound], made[~nothing]]))

    def digest(self) -> str:
        """SHA-256 of all areas as they were drawn, whatever their order, and where their rings begin."""
        import shapely

        sha = hashlib.sha256()
        for polygons in self.drawn.values():
            ordered = shapely.normalize(shapely.multipolygons(np.array(polygons, dtype=object)))
            wkb = bytes(shapely.to_wkb(ordered, byte_order=1))
            sha.update(len(wkb).to_bytes(8, "little") + wkb)
        return sha.hexdigest()

    def notes(self) -> tuple[str, ...]:
        """What was mended and what was left out, in sentences; complete once both sorts were asked for."""
        name = self.path.name
        mended = {"open rings were closed": self.opened, "polygons that cross themselves were mended": self.crossed}
        left_out = dict(self.left_out) | ({"ring without area": self.flat} if self.flat else {})
        notes = [f"{name}: {n} {what}." for what, n in mended.items() if n]
        if left_out:
            several = {what: "s ".join(what.split(" ", 1)) if " " in what else f"{what}s" for what in left_out}
            listed = ", ".join(number_of(n, what, several[what]) for what, n in left_out.items())
            notes.append(f"{name}: left out, as they are no drawn areas: {listed}.")
        return tuple(notes)

    def _polygon(self, rings: list[Any], into: list[Any]) -> None:
        from shapely import Polygon

        exterior, *holes = [self._ring(ring) for ring in rings] or [None]
        if exterior is not None:
            into.append(Polygon(exterior, [hole for hole in holes if hole is not None]))

    def _ring(self, points: Any) -> NDArray[np.float64] | None:
        """The closed ring (n, 2), None if it encloses nothing."""
        xy = self._points(self._list(points))
        self.vertices += len(xy)
        if self.vertices > MAX_VERTICES:
            raise invalid(self.path, f"it has more than {MAX_VERTICES:,} points")
        others = xy[(xy != xy[:1]).any(axis=1)]
        if not (others != others[:1]).any():  # at most two different points
            self.flat += 1
            return None
        if (xy[0] == xy[-1]).all():
            return xy
        self.opened += 1
        return np.concatenate([xy, xy[:1]])

    def _points(self, points: list[Any]) -> NDArray[np.float64]:
        try:
            xy = np.asarray(points or np.zeros((0, 2)))
        except ValueError:
            xy = np.zeros(0)
        if xy.dtype.kind not in "iuf" or xy.ndim != 2 or xy.shape[1] < 2:
            raise invalid(self.path, "the points of a ring are no pairs of numbers")
        if not (np.abs(xy) <= MAX_COORDINATE).all():  # NaN is not
            raise invalid(self.path, f"it has coordinates beyond {MAX_COORDINATE:,.0f} px or that are no numbers")
        # no -0.0: it would have a digest of its own
        return np.asarray(np.round(xy[:, :2].astype(np.float64), _DECIMALS) + 0.0, np.float64)

    def _list(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise invalid(self.path, "the coordinates of a geometry are no list")
        return value
