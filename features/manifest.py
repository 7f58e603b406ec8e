"""The list of files that make a grid whole: zarr reads a chunk that is missing as the fill value, without a word.

The list is kept as the attributes of an empty Zarr group, `manifest/zarr.json`, for any file that is not Zarr's own
makes zarr warn everyone who lists the group.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from features.files import write_atomic
from wsi.errors import GridDamaged
from wsi.identity import file_sha256

_MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One file of a grid: a chunk, a shard, or the metadata of an array."""

    path: str  # below the grid's folder, with forward slashes: features/c/0/0
    bytes: int
    sha256: str


def write_manifest(folder: Path) -> list[ChunkRecord]:
    """Records every file below `folder`, in the order of their paths, and writes the list beside them."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    records = [ChunkRecord(name, (folder / name).stat().st_size, file_sha256(folder / name)) for name in names]
    (folder / _MANIFEST).mkdir()
    write_atomic(manifest_path(folder), manifest_bytes(records))
    return records


def manifest_path(folder: Path) -> Path:
    return folder / _MANIFEST / "zarr.json"


def manifest_bytes(records: Iterable[ChunkRecord]) -> bytes:
    """The list as it is on disk: by this it proves itself, since a bit flipped in it gives other bytes or records."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"files": [asdict(record) for record in records]}}
    return json.dumps(group, indent=1).encode()


def read_manifest(folder: Path) -> list[ChunkRecord]:
    """The list that `write_manifest` wrote. Raises GridDamaged where it is missing or not readable."""
    try:
        files = json.loads(manifest_path(folder).read_bytes())["attributes"]["files"]
        return [ChunkRecord(**record) for record in files]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(folder, f"its list of files, {_MANIFEST}/zarr.json, is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"its list of files, {_MANIFEST}/zarr.json, cannot be read") from error


def missing(folder: Path, records: Iterable[ChunkRecord]) -> Iterator[str]:
    """Half-sentences about files that are not there or not as long as recorded. Reads no contents."""
    for record in records:
        path = folder / record.path
        if not path.is_file():
            yield f"{record.path} is missing"
        elif path.stat().st_size != record.bytes:
            yield f"{record.path} has {path.stat().st_size} bytes instead of {record.bytes}"


def altered(folder: Path, records: Iterable[ChunkRecord]) -> Iterator[str]:
    """Half-sentences about files that are missing, cut, or whose contents are not as recorded. Reads them all."""
    for record in records:
        lost = list(missing(folder, [record]))
        yield from lost
        if not lost and file_sha256(folder / record.path) != record.sha256:
            yield f"{record.path} is not as it was written (its SHA-256 differs)"


def damaged(folder: Path, what: str) -> GridDamaged:
    """The error for a grid that is not as it was written; the caller raises it."""
    hint = "Run the extraction of this slide again: a damaged grid is replaced."
    return GridDamaged(f"{folder}: this feature grid is damaged: {what}.", hint=hint, path=str(folder))
