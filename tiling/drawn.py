"""Tissue as a person drew it, on the same raster as tissue that was detected."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.annotations import Annotations, read_annotations
from tiling.areas import Polygons, invalid
from tiling.grid import TissueMask
from tiling.tissue import TissueConfig
from wsi.geometry import Region, Size, pixels_along
from wsi.limits import check_overview

_DEFAULT = TissueConfig()
MAX_CROSSINGS = 50_000_000  # of outlines with centre lines: a ragged section at 8 um has 100,000
_EDGES_AT_ONCE = 1024  # of which each may cross every row: bounds memory whatever the polygon


@dataclass(frozen=True, slots=True)
class DrawnTissue:
    """Stands for a TissueConfig in the identity of features: nothing of how tissue is detected matters."""

    digest: str  # of the areas, `Annotations.digest`
    mpp: float  # um per mask px, as TissueConfig.mpp


def tissue_from_geojson(slide: Any, path: Path | str, config: TissueConfig = _DEFAULT) -> TissueMask:
    """The tissue that a GeoJSON file outlines on `slide` (anything with `.mpp`, `.bounds` and `.path`).

    Coordinates are QuPath's: level-0 px from the corner of the slide's bounds. What lies inside the polygons is
    tissue and nothing else, less areas of a class that is cut out (`tiling.annotations`). The mask has `config.mpp`
    um per px, or the slide's own where that is coarser; a mask px is tissue if its centre is. What was mended or left
    out comes as UserWarning. Raises TissueInvalid for a file that cannot be used, and where all of it, or most, lies
    outside the slide.
    """
    mask, notes = drawn_mask(slide, read_annotations(path), config)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return mask


def drawn_mask(slide: Any, drawn: Annotations, config: TissueConfig) -> tuple[TissueMask, tuple[str, ...]]:
    """The mask, and what a person should know of it; see `tissue_from_geojson`."""
    bounds = slide.bounds
    px = max(config.mpp, slide.mpp) / slide.mpp
    (width, across), (height, down) = (pixels_along(side, px) for side in (bounds.width, bounds.height))
    check_overview(slide.path, Size(across, down), slide.mpp)
    beyond = _beyond(drawn, bounds, px)
    lines = _Lines(drawn.path, px, (height, width))
    inside = lines.covered(drawn.tissue) & ~lines.covered(drawn.cut_out)
    empty = () if len(drawn.tissue) else (f"{drawn.path.name} holds no area: nothing is tissue.",)
    return TissueMask.within(inside, px, bounds), (*empty, *drawn.notes, *beyond)


def _beyond(drawn: Annotations, bounds: Region, px: float) -> tuple[str, ...]:
    """A note where part of the tissue lies outside the slide. Raises TissueInvalid where more than half does."""
    import shapely

    def share_beyond(width: float, height: float) -> float:
        held = float(shapely.area(shapely.clip_by_rect(drawn.tissue, 0, 0, width, height)).sum())
        return 1 - held / area if area else 0.0

    area = float(shapely.area(drawn.tissue).sum())
    outside = share_beyond(bounds.width, bounds.height)
    if outside > 0.5:
        raise invalid(
            drawn.path,
            f"{outside:.0%} of its tissue lies outside the slide of {bounds.width} x {bounds.height} px",
            "It belongs to another slide, or its coordinates are not in pixels of the finest level.",
        )
    # The outline of a mask ends with its last px, which may reach beyond the slide: not worth a word.
    far = share_beyond(bounds.width + px, bounds.height + px) > 0.001
    return (f"{drawn.path.name}: {outside:.1%} of its tissue lies outside the slide.",) if far else ()


class _Lines:
    """The centre lines of a mask's rows, and where they enter and leave polygons."""

    def __init__(self, path: Path, px: float, shape: tuple[int, int]) -> None:
        self.path, self.px, self.shape = path, px, shape

    def covered(self, polygons: Polygons) -> NDArray[np.bool_]:
        """bool (h, w): mask px whose centre lies in one of the polygons (level-0 px from the mask's corner).

        A row's centre line enters a polygon at some edges and leaves it at others; summed along the row, entries
        less exits are the number of polygons around each px. Exact, where OpenCV's fill adds the px of the outline.
        """
        import shapely

        height, width = self.shape
        turns = np.zeros((height, width + 1), np.int32)
        rings = shapely.get_rings(shapely.orient_polygons(polygons))
        points, ring = shapely.get_coordinates(rings, return_index=True)
        points = points / self.px - 0.5  # a centre is then a whole number
        edges = np.flatnonzero(ring[1:] == ring[:-1])
        rows = np.ceil(points[:, 1]).clip(0, height).astype(np.int64)  # the first at or below each point
        if np.abs(rows[edges + 1] - rows[edges]).sum() > MAX_CROSSINGS:
            raise invalid(self.path, "its outlines are longer than any drawing's")
        for part in np.split(edges, range(_EDGES_AT_ONCE, len(edges), _EDGES_AT_ONCE)):
            self._count(turns, points[part], points[part + 1])
        return np.cumsum(turns, axis=1, out=turns)[:, :width] > 0

    def _count(self, turns: NDArray[np.int32], a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
        """Adds the edges from `a` to `b`, each (n, 2): 1 where a line enters a polygon, -1 where it leaves it."""
        height, width = self.shape
        first, after = (np.ceil(y).clip(0, height).astype(np.int64) for y in np.sort([a[:, 1], b[:, 1]], axis=0))
        times = after - first
        edge = np.repeat(np.arange(len(a)), times)
        row = np.arange(len(edge)) - np.repeat(times.cumsum() - times, times) + first[edge]
        share = (row - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
        column = np.ceil(a[edge, 0] + share * (b[edge, 0] - a[edge, 0])).clip(0, width).astype(np.int64)
        np.add.at(turns, (row, column), np.where(a[edge, 1] < b[edge, 1], -1, 1))
