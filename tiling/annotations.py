"""Areas that people drew, from GeoJSON as QuPath writes it. A broken or hostile file ends in one sentence.

What is no area is left out and told in a note, never dropped in silence. Classes: QuPath ignores those whose name
ends in `*` (its own are Ignore* and Region*), so an area of such a class is cut out of the tissue, and so is one
called Exclude, Ignore, Artefact or Background without it. Region* marks where to work, and is tissue as any other.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiling.areas import Areas, Polygons, invalid

MAX_BYTES = 200 * 2**20  # a thousand times what people draw; parsed, it takes some GB of the reader's memory
CUT_OUT = ("exclude", "ignore", "artefact", "artifact", "background")
_TISSUE = "region"  # of the names that end in *
_NO_ANNOTATIONS = ("detection", "tile", "cell", "tmacore", "root")  # QuPath's other kinds of objects


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The areas of a file, in its own frame: QuPath's, level-0 px from the corner of the slide's bounds."""

    path: Path
    tissue: Polygons  # (n,) valid shapely polygons; they may overlap
    cut_out: Polygons  # (m,) the same
    digest: str  # SHA-256 of the areas as drawn: no matter their order, names, colours, or when the file was written
    sha256: str  # of the file's bytes as they were read
    notes: tuple[str, ...]  # what was mended and what was left out, in sentences


def read_annotations(path: Path | str) -> Annotations:
    """The areas of a GeoJSON file: a FeatureCollection, a list of features, one feature or one geometry.

    Rings that do not close are closed and polygons that cross themselves are mended (shapely's `make_valid`), with a
    note. Raises TissueInvalid where the file cannot be read, is no GeoJSON, is beyond all limits, or holds objects
    but no area of tissue. A file without any object says that there is no tissue.
    """
    areas = Areas(Path(path))
    raw = _read(areas.path)
    try:
        for feature in _features(_loaded(areas.path, raw), areas.path):
            _take(feature, areas)
    except RecursionError:
        raise invalid(areas.path, "it is nested deeper than any drawing") from None
    tissue, cut_out = areas.valid(cut_out=False), areas.valid(cut_out=True)
    notes = areas.notes()
    if not len(tissue) and (len(cut_out) or notes):
        held = [note.removeprefix(f"{areas.path.name}: ").rstrip(".") for note in notes]
        held = [*([f"areas to cut out: {len(cut_out)}"] if len(cut_out) else []), *held]
        raise invalid(areas.path, f"it holds no area of tissue ({'; '.join(held)})")
    return Annotations(areas.path, tissue, cut_out, areas.digest(), hashlib.sha256(raw).hexdigest(), notes)


def check_size(path: Path) -> None:
    """Raises TissueInvalid for a file that is gone, no file, or too long to be a drawing."""
    try:
        length = path.stat().st_size
    except OSError as error:
        raise invalid(path, f"it cannot be read ({error.strerror})") from None
    if not path.is_file():
        raise invalid(path, "it is no file")
    if length > MAX_BYTES:
        raise invalid(path, f"it has {length >> 20:,} MiB, more than {MAX_BYTES >> 20}")


def _read(path: Path) -> bytes:
    check_size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(path, f"it cannot be read ({error.strerror})") from None


def _loaded(path: Path, raw: bytes) -> Any:
    if path.suffix.lower() == ".xml" or raw[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise invalid(path, "XML annotations are not read", "Open them in QuPath and export them as GeoJSON.")
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise invalid(path, "it is no UTF-8 text") from None
    except ValueError as error:
        raise invalid(path, f"it is no sound JSON ({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key[:40]!r} is there twice in one object")
    return found


def _features(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise invalid(path, "it holds no list of features")
    for item in content:
        if not isinstance(item, dict):
            raise invalid(path, f"a {type(item).__name__} stands where a feature is to be")
        yield item if item.get("type") == "Feature" else {"geometry": item}


def _take(feature: dict[str, Any], areas: Areas) -> None:
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise invalid(areas.path, "the properties of a feature are no object")
    if kind := _other_kind(feature, properties):
        areas.left_out[kind] += 1
    else:
        areas.add(feature.get("geometry"), _is_cut_out(properties))


def _other_kind(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """The kind of a QuPath object that is no annotation, "" of all others. Old versions had it in the id."""
    identity = feature.get("id")
    old = identity if isinstance(identity, str) and identity.startswith("Path") else ""
    said = str(properties.get("objectType") or properties.get("object_type") or old).lower()
    kind = said.removeprefix("path").removesuffix("object")
    return kind if kind in _NO_ANNOTATIONS else ""


def _is_cut_out(properties: dict[str, Any]) -> bool:
    said = properties.get("classification")
    if isinstance(said, dict):
        said = said.get("names") or said.get("name")
    names = said if isinstance(said, list) else str(said or "").split(":")  # QuPath joins the names of a class so
    return any(_cuts(str(name).strip().lower()) for name in names)


def _cuts(name: str) -> bool:
    plain = name.rstrip("*")
    return plain in CUT_OUT or (name.endswith("*") and plain != _TISSUE)
