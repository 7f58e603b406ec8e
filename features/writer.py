"""Writing a feature grid so that a kill at any moment costs seconds of work and never a wrong result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.files import (
    aside_of,
    asides_of,
    fsync_tree,
    old_path,
    remove_tree,
    storage_errors,
    swap_folder,
    write_atomic,
)
from features.grid import FeatureGrid
from features.header import GridHeader, SlideFacts
from features.journal import PIECE_ROWS, Journal, Piece
from features.manifest import ChunkRecord, write_manifest
from features.spec import EncoderSpec
from features.store import write_arrays
from tiling.grid import READ_FAILED, TileGrid
from wsi.errors import FeaturesInvalid, GridDamaged, UsageError
from wsi.identity import canonical_json

_STAGING = "partial"  # ending of a staging folder's name
_LABEL = "grid.json"  # in it: which grid its rows are of


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Features of consecutive kept tiles, in grid order."""

    features: NDArray[np.float32]  # (B, D), not normalised unless the encoder's spec says so
    status: NDArray[np.uint8]  # (B,) READ_OK, READ_PADDED or READ_FAILED
    flags: NDArray[np.uint8] | None = None  # (B,) see `tiling.quality`; None: none is raised

    def __len__(self) -> int:
        return len(self.status)


class GridWriter:
    """Takes rows in grid order and makes of them the feature grid `dest`.

    Rows gather in a staging folder beside `dest`. A new writer for an equal header and grid takes up what a killed one
    left there: `rows_done` says from which row to continue. A staging folder of anything else is discarded. However
    often a run was cut, the grid has the same bytes in the end. The commit needs room on the disk for the rows a
    second time.

    One writer at a time: the caller sees to that. Should an older one still be at work, or wake up, it writes nothing
    more: its staging folder has been renamed, and a commit is one rename out of that folder.
    """

    def __init__(self, dest: Path, header: GridHeader, grid: TileGrid) -> None:
        """`header` as from `GridHeader.of(slide, grid, ...)`. Raises NoSpace, StorageError."""
        self._dest, self._header, self._grid = Path(dest), header, grid
        self._staging = aside_of(self._dest, _STAGING)
        self._features = np.empty((PIECE_ROWS, header.encoder_spec.dim), header.dtype)
        self._status, self._flags = np.empty(PIECE_ROWS, np.uint8), np.empty(PIECE_ROWS, np.uint8)
        self._waiting = 0  # rows in the three buffers, not yet a piece
        with storage_errors(self._dest):
            self._claim_staging()
            self._journal = Journal(self._staging / "rows", header.encoder_spec.dim, header.dtype)
            self._kept = self._journal.recover()

    @property
    def rows_done(self) -> int:
        """Rows that survive a kill now: a multiple of 1,024, or all of them where only the commit is left."""
        return self._kept

    def append(self, rows: FeatureRows) -> None:
        """Adds the next rows. Those of unreadable tiles are stored as NaN, whatever they hold.

        Raises FeaturesInvalid where another row holds NaN or infinity, or a value too large for float16; UsageError for
        the wrong width or more rows than tiles; NoSpace and StorageError.
        """
        self._check(rows)
        features = self._stored(rows)
        taken = 0
        while taken < len(rows):
            count = min(PIECE_ROWS - self._waiting, len(rows) - taken)
            here, there = slice(self._waiting, self._waiting + count), slice(taken, taken + count)
            self._features[here], self._status[here] = features[there], rows.status[there]
            self._flags[here] = 0 if rows.flags is None else rows.flags[there]
            self._waiting, taken = self._waiting + count, taken + count
            if self._waiting == PIECE_ROWS or self._next_row == len(self._grid):
                self._flush()

    def commit(self) -> list[ChunkRecord]:
        """Builds the grid, waits until the disk has it, and puts it in the place of `dest`, replacing an older one.

        Returns every file of the grid with its size and digest. Raises UsageError while rows are missing or if a newer
        writer has taken them up, GridDamaged if staged rows have changed on disk, NoSpace and StorageError.
        """
        if self._next_row != len(self._grid):
            raise UsageError(
                f"{self._dest}: {self._next_row} rows were given for {len(self._grid)} tiles.",
                hint="Append the rows of every kept tile before the commit.",
            )
        with storage_errors(self._dest), self._own():
            built = self._staging / "grid"
            remove_tree(built)
            write_arrays(built, self._header, self._grid, self._journal)
            records = write_manifest(built)
            fsync_tree(built)
            # Zarr makes folders that it misses, so half a grid may lie here without the label. With it, all is here,
            # or the rename fails.
            self._check_own()
            swap_folder(built, self._dest)
            clear_leftovers(self._dest)
        return records

    @property
    def _next_row(self) -> int:
        return self._kept + self._waiting

    def _claim_staging(self) -> None:
        wanted = _label(self._header, self._grid)
        for left in staged_beside(self._dest):
            label = left / _LABEL
            if label.is_file() and label.read_bytes() == wanted and not self._staging.exists():
                with suppress(FileNotFoundError):  # another writer was faster
                    left.rename(self._staging)
            else:
                remove_tree(left)
        if not self._staging.exists():
            self._staging.mkdir(parents=True)
            write_atomic(self._staging / _LABEL, wanted)

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Says of files that are gone whose they are now."""
        try:
            yield
        except (FileNotFoundError, GridDamaged):
            self._check_own()
            raise

    def _check_own(self) -> None:
        if not (self._staging / _LABEL).is_file():
            raise UsageError(
                f"{self._dest}: another process is writing this grid, and has taken up the rows of this one.",
                hint="Let one process at a time write a grid.",
            )

    def _check(self, rows: FeatureRows) -> None:
        dim = self._header.encoder_spec.dim
        if rows.features.shape != (len(rows), dim):
            raise UsageError(
                f"features of shape {rows.features.shape} do not fit {len(rows)} tiles x {dim} dimensions."
            )
        if self._next_row + len(rows) > len(self._grid):
            raise UsageError(f"{self._next_row + len(rows)} rows were given for {len(self._grid)} tiles.")
        bad = np.flatnonzero(~np.isfinite(rows.features).all(axis=1) & (rows.status != READ_FAILED))
        if len(bad):
            hint = "Try precision float32; if the row stays so, the weights are damaged: fetch them again."
            raise self._bad_row(int(bad[0]), "are not finite", hint)

    def _stored(self, rows: FeatureRows) -> NDArray[np.floating]:
        """The rows in the type on disk."""
        with np.errstate(over="ignore"):
            features = rows.features.astype(self._header.dtype)
        failed = rows.status == READ_FAILED
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1) & ~failed)
        if len(bad):
            raise self._bad_row(int(bad[0]), "exceed 65504, the largest float16", 'Store them with dtype="float32".')
        features[failed] = np.nan
        return features

    def _bad_row(self, offset: int, what: str, hint: str) -> FeaturesInvalid:
        row = self._next_row + offset
        cell = int(self._grid.cells[row])
        message = f"{self._header.slide_id}: features of row {row} (cell {cell}) {what}."
        return FeaturesInvalid(message, hint=hint, slide_id=self._header.slide_id, row=row, cell=cell)

    def _flush(self) -> None:
        with storage_errors(self._staging), self._own():
            n = self._waiting
            self._journal.append(Piece(self._features[:n], self._status[:n], self._flags[:n]))
        self._kept, self._waiting = self._next_row, 0


def write_feature_grid(
    dest: Path,
    slide: SlideFacts,
    grid: TileGrid,
    encoder_spec: EncoderSpec,
    rows: Iterable[FeatureRows],
    *,
    tissue: Any = None,
    slide_id: str | None = None,
    dtype: str = "float16",
) -> FeatureGrid:
    """Writes all rows of a slide, from the first, and opens the result. Bounded memory: `rows` may be lazy.

    `dest` is the grid's folder if its name ends in .zarr, else a folder to put it in under its `grid_name`.
    Raises what `GridWriter` raises.
    """
    header = GridHeader.of(slide, grid, encoder_spec, tissue=tissue, slide_id=slide_id, dtype=dtype)
    path = grid_path(dest, header)
    with storage_errors(path):
        clear_leftovers(path)
    writer = GridWriter(path, header, grid)
    for batch in rows:
        writer.append(batch)
    writer.commit()
    return FeatureGrid.open(path)


def grid_path(dest: Path, header: GridHeader) -> Path:
    """`dest` itself if its name ends in .zarr, else the place below it that the header names."""
    dest = Path(dest)
    return dest if dest.suffix == ".zarr" else dest / header.name


def staged_beside(dest: Path) -> list[Path]:
    """The folders beside `dest`, on the same file system, where its rows gather: one a writer."""
    return asides_of(dest, _STAGING)


def clear_leftovers(dest: Path) -> None:
    """Removes what a killed writer left beside `dest`: staged rows, and the old grid it was replacing."""
    for left in (*staged_beside(dest), old_path(dest)):
        remove_tree(left)


def _label(header: GridHeader, grid: TileGrid) -> bytes:
    """Which grid the staged rows belong to, to the last kept cell."""
    sha = hashlib.sha256(np.packbits(grid.keep).tobytes() + grid.tissue_fraction.tobytes()).hexdigest()
    label = {"header": header.attributes(), "shape": list(grid.keep.shape), "tiles_sha256": sha}
    return canonical_json(label).encode()
