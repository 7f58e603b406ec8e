"""Tissue and tiles as QuPath reads them: GeoJSON in the frame of QuPath's image.

QuPath crops a slide to its declared bounds, so its (0, 0) is the corner of the bounds: they are taken off. A class
without a colour, or a ring that does not close, makes its import fail.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon

from features.files import aside_of, storage_errors
from tiling.grid import TileGrid
from wsi.geometry import Region

TOOL = "wsi-toolkit"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, TOOL)

# Nine colours that every kind of colour vision tells apart: P. Tol, "Colour schemes" (2021), "muted".
CLASS_COLOURS = (
    (51, 34, 136), (136, 204, 238), (68, 170, 153), (17, 119, 51), (153, 153, 51),
    (221, 204, 119), (204, 102, 119), (136, 34, 85), (170, 68, 153),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TileLayer:
    """What is known of each tile of a slide. Every array is (N,), in the order of `grid.cells`."""

    slide_id: str
    name: str  # of the layer; layers of the same tiles get other object ids
    grid: TileGrid
    measurements: Mapping[str, NDArray[Any]]  # name -> numbers; NaN where a tile has none
    class_names: tuple[str, ...] = ()  # in the same order for every slide: the order chooses the colours
    classes: NDArray[np.integer] | None = field(default=None)  # index into class_names, -1 for none

    def __post_init__(self) -> None:
        arrays = {**self.measurements, **({} if self.classes is None else {"classes": self.classes})}
        for name, values in arrays.items():
            if np.shape(values) != (len(self.grid),):
                raise ValueError(f"{name}: {np.shape(values)} values for {len(self.grid)} tiles")


def tissue_features(outline: MultiPolygon, bounds: Region, slide_id: str) -> Iterator[dict[str, Any]]:
    """One QuPath annotation named Tissue for each piece of the outline (level-0 px), holes as inner rings.

    Not locked, for it is there to be edited; and nothing of it beyond the bounds, where a mask's last px may reach.
    """
    import shapely

    frame = shapely.box(bounds.x, bounds.y, bounds.x + bounds.width, bounds.bottom)
    within = shapely.get_parts(
        [p if shapely.covers(frame, p) else shapely.intersection(p, frame) for p in outline.geoms]
    )
    for i, piece in enumerate(part for part in within if part.geom_type == "Polygon"):
        rings = [_ring(np.asarray(ring.coords)[:, :2], bounds) for ring in (piece.exterior, *piece.interiors)]
        properties = {"objectType": "annotation", "name": "Tissue", "isLocked": False, "metadata": {"tool": TOOL}}
        yield _feature(f"{slide_id}/tissue/{i}", rings, properties)


def tile_features(
    layer: TileLayer, bounds: Region, *, top: int | None = None, by: str = ""
) -> Iterator[dict[str, Any]]:
    """One QuPath tile per kept tile of the grid, in grid order, with its measurements and its class.

    With `top`, only the `top` tiles highest in the measurement `by` (ties: the earlier tile; NaN last), which each
    tile's metadata says. Raises ValueError if `by` is no measurement of the layer.
    """
    chosen, metadata = _chosen(layer, top, by)
    grid, columns = layer.grid, layer.grid.keep.shape[1]
    span = grid.span_px
    square = np.array([(0, 0), (span, 0), (span, span), (0, span)])
    for i, cell in zip(chosen.tolist(), grid.cells[chosen].tolist(), strict=True):
        region = grid.region(cell)
        corner = np.array((region.x, region.y))
        properties = {"objectType": "tile", "name": f"r{cell // columns}_c{cell % columns}", "isLocked": True}
        if layer.classes is not None and layer.classes[i] >= 0:
            properties["classification"] = _classification(layer.class_names, int(layer.classes[i]))
        properties["measurements"] = {name: _number(values[i]) for name, values in layer.measurements.items()}
        properties["metadata"] = metadata
        identity = f"{layer.slide_id}/{layer.name}/{region.x},{region.y},{span}"
        yield _feature(identity, [_ring(square + corner, bounds)], properties)


def write_geojson(path: Path, features: Iterable[dict[str, Any]]) -> int:
    """Writes a FeatureCollection, packed if the name ends in .gz; returns the number of features.

    Features go to disk one by one, so that a million tiles need no more memory than one. The file appears whole or
    not at all. Raises NoSpace or StorageError where the disk refuses.
    """
    aside = aside_of(path)
    try:
        with storage_errors(path), open(aside, "wb") as raw:
            count = _stream(raw, features, packed=path.suffix == ".gz")
        with storage_errors(path):
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def _feature(identity: str, rings: list[list[list[float]]], properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, identity)),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": properties,
    }


def _ring(points: NDArray[Any], bounds: Region) -> list[list[float]]:
    """Level-0 points (n, 2) in QuPath's frame, closed, with the two decimals that QuPath itself writes."""
    shifted = np.round(points - (bounds.x, bounds.y), 2).tolist()
    return shifted if shifted[0] == shifted[-1] else [*shifted, shifted[0]]


def _chosen(layer: TileLayer, top: int | None, by: str) -> tuple[NDArray[np.int64], dict[str, str]]:
    n = len(layer.grid)
    metadata = {"tool": TOOL, "layer": layer.name}
    if top is None:
        return np.arange(n), metadata
    if by not in layer.measurements:
        raise ValueError(f"no measurement {by!r} to choose the highest by; there are {', '.join(layer.measurements)}")
    if top < n:
        metadata["selection"] = f"the {top} of {n} tiles highest in {by}"
    values = np.nan_to_num(np.asarray(layer.measurements[by], float), nan=-np.inf)
    return np.sort(np.argsort(-values, kind="stable")[:top]), metadata


def _classification(names: tuple[str, ...], index: int) -> dict[str, Any]:
    return {"name": names[index], "color": list(CLASS_COLOURS[index % len(CLASS_COLOURS)])}


def _number(value: Any) -> float | str:
    """JSON has no NaN; QuPath reads these three words as the numbers they name."""
    number = float(value)
    if np.isfinite(number):
        return number
    return "NaN" if np.isnan(number) else "inf" if number > 0 else "-inf"


def _stream(raw: IO[bytes], features: Iterable[dict[str, Any]], *, packed: bool) -> int:
    # No name and no time in the packed header: same features, same bytes.
    out = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if packed else raw
    out.write(b'{"type":"FeatureCollection","features":[')
    count = 0
    for count, feature in enumerate(features, start=1):
        out.write(b",\n" if count > 1 else b"\n")
        out.write(json.dumps(feature, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    out.write(b"\n]}\n")
    if packed:
        out.close()
    return count
