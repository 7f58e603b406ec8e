"""What is wrong with a stored grid: files against their digests, rows against their status, all against the lattice.

Finds more than opening does, tells all of it and raises nothing for damage. Reads only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.grid import FeatureGrid
from features.manifest import ChunkRecord, manifest_bytes, manifest_path, read_manifest
from features.store import SHARD_ROWS, StoredArrays
from tiling.grid import READ_FAILED, READ_OK, READ_PADDED
from wsi.errors import ArtefactError, GridDamaged, StorageError
from wsi.identity import file_sha256


@dataclass(frozen=True, slots=True)
class GridFault:
    """One fault. `code` is stable: see `pipeline.audit.findings`, which has them all."""

    code: str
    path: Path  # the file, or the grid's folder
    message: str  # half a sentence


@dataclass(frozen=True, slots=True, eq=False)
class AuditedGrid:
    """A grid gone through; `grid` is None where it cannot be opened."""

    faults: tuple[GridFault, ...]
    strangers: tuple[Path, ...]  # files in its folder that its list does not have: not a fault
    grid: FeatureGrid | None


def audit_grid(folder: Path, pool: Executor) -> AuditedGrid:
    """Goes through the grid `folder`. Files are hashed in `pool`; features pass through memory SHARD_ROWS at a time."""
    if not folder.is_dir():
        return AuditedGrid((GridFault("grid_missing", folder, "this feature grid is not there"),), (), None)
    try:
        records = read_manifest(folder)
    except (GridDamaged, OSError) as error:
        return AuditedGrid((GridFault("grid_unreadable", manifest_path(folder), _said(error)),), (), None)
    faults = list(_file_faults(folder, records, pool))
    strangers = tuple(_strangers(folder, records))
    if faults:
        return AuditedGrid(tuple(faults), strangers, None)
    try:
        grid = FeatureGrid.open(folder)
        return AuditedGrid(tuple(_inner_faults(grid)), strangers, grid)
    except (GridDamaged, StorageError, OSError, ValueError) as error:
        return AuditedGrid((GridFault("grid_unreadable", folder, _said(error)),), strangers, None)
    except ArtefactError as error:
        return AuditedGrid((GridFault("grid_older", folder, _said(error)),), strangers, None)


def _file_faults(folder: Path, records: list[ChunkRecord], pool: Executor) -> Iterator[GridFault]:
    if manifest_path(folder).read_bytes() != manifest_bytes(records):
        yield GridFault("manifest_altered", manifest_path(folder), "the list of its files is not as it was written")
    for fault in pool.map(_file_fault, [folder] * len(records), records):
        if fault is not None:
            yield fault


def _file_fault(folder: Path, record: ChunkRecord) -> GridFault | None:
    path = folder / record.path
    try:
        if not path.is_file():
            return GridFault("chunk_missing", path, "it is missing")
        length = path.stat().st_size
        if length == 0 < record.bytes:
            return GridFault("chunk_emptied", path, f"it is empty; {record.bytes} bytes were written")
        if length != record.bytes:
            return GridFault("chunk_truncated", path, f"it has {length} bytes instead of {record.bytes}")
        if file_sha256(path) != record.sha256:
            return GridFault("chunk_altered", path, "it is not as it was written: its SHA-256 differs")
    except (OSError, ValueError) as error:  # the latter: a damaged list may name a path that cannot be
        return GridFault("chunk_unreadable", path, f"it cannot be read ({error})")
    return None


def _strangers(folder: Path, records: Iterable[ChunkRecord]) -> Iterator[Path]:
    known = {folder / record.path for record in records} | {manifest_path(folder)}
    for where, _, names in os.walk(folder):
        yield from (path for name in sorted(names) if (path := Path(where, name)) not in known)


def _inner_faults(grid: FeatureGrid) -> Iterator[GridFault]:
    """Of a grid whose files are as they were written: then it was written wrongly, or somebody listed them anew."""
    folder, header = grid.path, grid.header
    if header.name != folder.name:
        yield GridFault("grid_misnamed", folder, f"by its settings and encoder it is {header.name}")
    arrays = StoredArrays(folder, list(grid.records), header)
    if not np.array_equal(arrays.read("coords"), grid.coords):
        yield GridFault("lattice_differs", folder, "its coordinates are not those of its lattice")
    share = grid.tissue_fraction
    if not (np.isfinite(share).all() and (share >= 0).all() and (share <= 1 + 1e-6).all()):
        yield GridFault("lattice_differs", folder, "shares of tissue are not between 0 and 1")
    if grid.features.dtype != np.dtype(header.dtype):
        yield GridFault("lattice_differs", folder, f"its features are {grid.features.dtype}, not {header.dtype}")
    status = grid.read_status
    if not np.isin(status, (READ_OK, READ_PADDED, READ_FAILED)).all():
        yield GridFault("status_invalid", folder, "read statuses are other than 0, 1 and 2")
    yield from _row_faults(folder, arrays, status == READ_FAILED)


def _row_faults(folder: Path, arrays: StoredArrays, failed: NDArray[np.bool_]) -> Iterator[GridFault]:
    broken, unmarked = [], []
    for start in range(0, len(failed), SHARD_ROWS):
        rows = arrays.read("features", slice(start, min(start + SHARD_ROWS, len(failed))))
        finite, unread = np.isfinite(rows), failed[start : start + SHARD_ROWS]
        broken += (start + np.flatnonzero(~finite.all(axis=1) & ~unread)).tolist()
        unmarked += (start + np.flatnonzero(finite.any(axis=1) & unread)).tolist()
    if broken:
        rows_told = f"{len(broken)} rows of tiles that were read, row {broken[0]} first"
        yield GridFault("rows_not_finite", folder, f"NaN or infinity in {rows_told}")
    if unmarked:
        rows_told = f"{len(unmarked)} rows of tiles that could not be read, row {unmarked[0]} first"
        yield GridFault("rows_unmarked", folder, f"numbers in {rows_told}")


def _said(error: Exception) -> str:
    return error.message.removesuffix(".") if isinstance(error, ArtefactError | StorageError) else str(error)
