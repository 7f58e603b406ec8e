"""Tissue and tiles as QuPath reads and writes them: GeoJSON in the frame of QuPath's image.

QuPath crops a slide to its declared bounds, so its (0, 0) is the corner of the bounds: they are taken off on the way
out and put back on the way in. A class without a colour, or a ring that does not close, makes its import fail.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.affinity import translate

from features.files import storage_errors
from tiling.grid import TileGrid
from wsi.errors import UsageError
from wsi.geometry import Region

TOOL = "wsi-toolkit"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, TOOL)

# Nine colours that every kind of colour vision tells apart: P. Tol, "Colour schemes" (2021), "muted".
CLASS_COLOURS = (
    (51, 34, 136), (136, 204, 238), (68, 170, 153), (17, 119, 51), (153, 153, 51),
    (221, 204, 119), (204, 102, 119), (136, 34, 85), (170, 68, 153),
)  # fmt: skip

# What a person draws stays far below these; beyond them a file is a mistake or an attack.
MAX_BYTES = 64 * 2**20  # of JSON, after unpacking
MAX_VERTICES = 5_000_000
MAX_COORDINATE = 1e8  # px
_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")


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
    """One locked QuPath annotation named Tissue for each piece of the outline (level-0 px), holes as inner rings."""
    for i, piece in enumerate(outline.geoms):
        rings = [_ring(np.asarray(ring.coords)[:, :2], bounds) for ring in (piece.exterior, *piece.interiors)]
        properties = {"objectType": "annotation", "name": "Tissue", "isLocked": True, "metadata": {"tool": TOOL}}
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
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path), open(aside, "wb") as raw:
            count = _stream(raw, features, packed=path.suffix == ".gz")
        with storage_errors(path):
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return count


def read_geojson_polygons(path: Path | str, bounds: Region) -> MultiPolygon:
    """The area of all polygons in a file as QuPath writes it, as one valid MultiPolygon in level-0 px.

    Takes a FeatureCollection, a Feature, a list of them or a bare geometry, .geojson or .geojson.gz. Self-crossing
    drawings are repaired and points and lines left out, each with a logged warning.
    Raises UsageError where the file cannot be read, is beyond the limits above, or holds no area.
    """
    path = Path(path)
    hint = "Export the annotations again from QuPath (File > Export objects as GeoJSON)."
    try:
        polygons = list(_polygons(json.loads(_unpacked(path)), path))
        vertices = sum(shapely.get_num_coordinates(p) for p in polygons)
        if vertices > MAX_VERTICES:
            raise ValueError(f"it has {vertices} vertices; {MAX_VERTICES} is the limit")
        area = _areas(shapely.union_all(polygons))
    except RecursionError:
        raise UsageError(f"{path}: it is nested too deeply to be a drawing.", hint=hint, path=str(path)) from None
    except (OSError, EOFError, zlib.error, shapely.errors.ShapelyError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as GeoJSON: {error}.", hint=hint, path=str(path)) from error
    if not area:
        raise UsageError(f"{path}: holds no polygon with an area.", hint=hint, path=str(path))
    return translate(MultiPolygon(area), bounds.x, bounds.y)


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


def _unpacked(path: Path) -> bytes:
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        source: IO[bytes] | io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
        data = source.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB")
    return data


def _polygons(node: Any, path: Path) -> Iterator[Polygon | MultiPolygon]:
    """Every polygon below a node of the JSON tree, made valid."""
    if isinstance(node, list):
        for child in node:
            yield from _polygons(child, path)
        return
    kind = node.get("type") if isinstance(node, dict) else None
    match kind:
        case "FeatureCollection":
            yield from _polygons(_members(node, "features"), path)
        case "Feature":
            if node.get("geometry") is not None:
                yield from _polygons(node["geometry"], path)
        case "GeometryCollection":
            yield from _polygons(_members(node, "geometries"), path)
        case "Polygon":
            yield _polygon(_members(node, "coordinates"), path)
        case "MultiPolygon":
            for rings in _members(node, "coordinates"):
                yield _polygon(rings, path)
        case kind if kind in _NO_AREA:
            logging.getLogger(__name__).warning("%s: a %s has no area and is left out", path, kind)
        case _:
            raise ValueError(f"there is something in it of type {kind!r}, which is none of GeoJSON's")


def _members(node: dict[str, Any], key: str) -> list[Any]:
    found = node.get(key)
    if not isinstance(found, list):
        raise ValueError(f"the {key} of a {node['type']} are no list")
    return found


def _polygon(rings: Any, path: Path) -> Polygon | MultiPolygon:
    if not isinstance(rings, list):
        raise ValueError("a polygon in it is no list of rings")
    shell, *holes = [_points(ring) for ring in rings or [[]]]
    polygon = Polygon(shell, holes)
    if polygon.is_valid:
        return polygon
    logging.getLogger(__name__).warning("%s: repaired (%s)", path, shapely.is_valid_reason(polygon))
    return MultiPolygon(_areas(shapely.make_valid(polygon)))


def _points(ring: Any) -> NDArray[np.float64]:
    try:
        points = np.array([point[:2] for point in ring], np.float64).reshape(len(ring), 2)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise ValueError("a ring in it is no list of [x, y] pairs") from None
    if not (np.abs(points) <= MAX_COORDINATE).all():  # NaN too fails this comparison
        raise ValueError(f"a coordinate in it is no number, or beyond {MAX_COORDINATE:.0e} px")
    return points


def _areas(geometry: shapely.Geometry) -> list[Polygon]:
    """The polygons in what GEOS returns, which may mix them with points and lines."""
    if isinstance(geometry, Polygon):
        return [] if geometry.is_empty else [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _areas(part)]
