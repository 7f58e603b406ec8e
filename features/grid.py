"""Reading feature grids: checked when opened, lazy in the features, loud about damage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.header import GridHeader
from features.manifest import ChunkRecord, altered, damaged, missing, read_manifest
from features.spec import EncoderSpec
from features.store import SHARD_ROWS, StoredArrays
from tiling.grid import READ_FAILED, TileGrid, TileSpec


class LazyFeatures:
    """Features (N, D), read from disk as they are indexed; `np.asarray` reads them all.

    Rows are picked as in numpy: a number, a slice, a mask, indices in any order. Further indices apply to what
    was read. Raises GridDamaged naming the chunk where the disk no longer holds what was written.
    """

    ndim = 2

    def __init__(self, arrays: StoredArrays, failed: NDArray[np.bool_], folder: Path) -> None:
        self._arrays = arrays
        self._failed = failed
        self._folder = folder
        self.shape = arrays.shape("features")
        self.dtype = arrays.dtype("features")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = np.arange(len(self))[first]
        found = self._read(np.ravel(rows)).reshape(*np.shape(rows), self.shape[1])
        return found[(slice(None),) * np.ndim(rows) + tuple(rest)] if rest else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("features lie on disk: an array of them is always a copy")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        if not len(rows):
            return np.empty((0, self.shape[1]), self.dtype)
        run = len(rows) == 1 or bool((np.diff(rows) == 1).all())
        found = self._arrays.read("features", slice(int(rows[0]), int(rows[-1]) + 1) if run else rows)
        # Zarr reads a chunk that has gone as the fill value, NaN; only unreadable tiles may be so.
        gone = rows[np.isnan(found[:, 0]) & ~self._failed[rows]]
        if len(gone):
            raise damaged(self._folder, f"{self._arrays.file_of(int(gone[0]))} is missing")
        return found


@dataclass(frozen=True, eq=False)
class FeatureGrid:
    """The features of one slide under one encoder, and where on the slide each row lies."""

    path: Path
    header: GridHeader
    grid: TileGrid  # N == grid.keep.sum()
    features: LazyFeatures  # (N, D) float16 or float32, lazy; NaN where read_status is READ_FAILED
    read_status: NDArray[np.uint8]  # (N,) READ_OK, READ_PADDED or READ_FAILED
    records: tuple[ChunkRecord, ...]  # every file, with size and digest
    quality: NDArray[np.uint8] | None = None  # (N,) flags, see `tiling.quality`; None where they were not asked for

    @classmethod
    def open(cls, path: str | Path) -> FeatureGrid:
        """Opens a grid and checks that it is whole: every file at full length, metadata as written, shapes agreeing.

        Features are checked chunk by chunk as they are read, all of them by `verify`. Raises ArtefactError for
        something else than a feature grid or a newer version, GridDamaged where it is not as it was written.
        """
        path = Path(path)
        header = GridHeader.from_attributes(_attributes(path), path)
        records = read_manifest(path)
        metadata = [record for record in records if record.path.endswith("zarr.json")]
        for fault in (*missing(path, records), *altered(path, metadata)):
            raise damaged(path, fault)
        arrays = StoredArrays(path, records, header)
        fraction, keep = arrays.read("tissue_fraction"), arrays.read("keep")
        grid = TileGrid(header.tile_spec, header.origin, header.span_px, header.stride_px, keep, fraction)
        status = arrays.read("read_status")
        quality = arrays.read("quality") if header.tile_spec.quality else None
        rows, dim = arrays.shape("features")
        lengths = {rows, len(status), len(fraction), len(status if quality is None else quality)}
        if lengths != {len(grid)} or dim != header.encoder_spec.dim:
            raise damaged(path, f"its arrays do not have the {len(grid)} rows of its lattice")
        features = LazyFeatures(arrays, status == READ_FAILED, path)
        return cls(path, header, grid, features, status, tuple(records), quality)

    def __len__(self) -> int:
        """Number of tiles, N; 0 on a slide without tissue."""
        return len(self.grid)

    @property
    def slide_id(self) -> str:
        return self.header.slide_id

    @property
    def encoder(self) -> EncoderSpec:
        return self.header.encoder_spec

    @property
    def tile_spec(self) -> TileSpec:
        return self.header.tile_spec

    @property
    def coords(self) -> NDArray[np.int64]:
        """(N, 2) level-0 (x, y) of the top-left corner of every tile."""
        return self.grid.coords

    @property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """(N,) share of every tile that is tissue, 0..1."""
        return self.grid.tissue_fraction

    def to_dense(self) -> NDArray[np.float32]:
        """(rows, cols, D) float32, NaN where no tile was kept or read. The whole lattice in memory."""
        dense = np.full((*self.grid.keep.shape, self.features.shape[1]), np.nan, np.float32)
        for start in range(0, len(self), SHARD_ROWS):
            cells = self.grid.cells[start : start + SHARD_ROWS]
            dense.reshape(-1, dense.shape[2])[cells] = self.features[start : start + SHARD_ROWS]
        return dense

    def verify(self) -> list[str]:
        """Reads every file and compares it with its recorded digest. One sentence for each fault; none: all is well."""
        return [f"{self.slide_id}: {fault}." for fault in altered(self.path, self.records)]


def _attributes(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((path / "zarr.json").read_bytes())["attributes"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(path, "there is none here" if not path.exists() else "its zarr.json is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, "its zarr.json cannot be read") from error
