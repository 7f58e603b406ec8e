"""The Zarr side of feature grids: the layout of the arrays, and zarr's errors in our own words.

Every chunk ends in its crc32c, which finds any single flipped bit; nothing is compressed, since float16 features
hardly shrink. Chunks equal to the fill value are written too: zarr would leave them out, and a lost one looks the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from features.files import storage_errors
from features.header import GridHeader
from features.journal import PIECE_ROWS, Piece
from features.manifest import ChunkRecord, altered, damaged
from tiling.grid import TileGrid

CHUNK_ROWS = PIECE_ROWS
SHARD_CHUNKS = 8
SHARD_ROWS = CHUNK_ROWS * SHARD_CHUNKS  # rows to a file, 8 MiB of float16 at 512 dimensions, once a slide has more


def write_arrays(folder: Path, header: GridHeader, grid: TileGrid, pieces: Iterable[Piece]) -> None:
    """Writes a whole grid into the new folder `folder`, holding SHARD_ROWS rows in memory at a time.

    The same header, grid and pieces give the same bytes in every file. Two writers never meet in a shard: there is one.
    """
    group = zarr.create_group(_OwnStore(folder), attributes=header.attributes())
    features = _create_features(group, len(grid), header)
    status, flags = np.empty(len(grid), np.uint8), np.empty(len(grid), np.uint8)
    row = 0
    for shard in _batched(pieces, SHARD_CHUNKS):
        end = row + sum(len(piece.status) for piece in shard)
        features[row:end] = np.concatenate([piece.features for piece in shard])
        status[row:end] = np.concatenate([piece.status for piece in shard])
        flags[row:end] = np.concatenate([piece.flags for piece in shard])
        row = end
    _create(group, "coords", grid.coords, ("tile", "xy"))
    _create(group, "keep", grid.keep, ("row", "col"))
    _create(group, "tissue_fraction", grid.tissue_fraction, ("tile",))
    _create(group, "read_status", status, ("tile",))
    if header.tile_spec.quality:
        _create(group, "quality", flags, ("tile",))


class StoredArrays:
    """The arrays of a finished grid, open for reading. Not shared between processes: reopen by path."""

    def __init__(self, folder: Path, records: list[ChunkRecord], header: GridHeader) -> None:
        self._folder = folder
        self._records = records
        names = ("features", "keep", "tissue_fraction", "read_status", *(["quality"] * header.tile_spec.quality))
        self._arrays = {name: self._open(name) for name in names}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._arrays[name].dtype

    def read(self, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[Any]:
        """Rows of an array: a forward slice, or indices in any order.

        Raises GridDamaged naming the chunk where a checksum fails, StorageError where the disk does.
        """
        try:
            with storage_errors(self._folder):
                array = self._arrays[name] if name in self._arrays else self._open(name)
                return np.asarray(array[rows] if isinstance(rows, slice) else array.oindex[rows])
        except ValueError as error:
            raise self._blame(name) from error

    def file_of(self, row: int) -> str:
        """The file that a row of features lies in."""
        array = self._arrays["features"]
        return f"features/c/{row // (array.shards or array.chunks)[0]}/0"

    def _open(self, name: str) -> zarr.Array[Any]:
        try:
            with storage_errors(self._folder):
                return zarr.open_array(self._folder / name, mode="r")
        except ValueError as error:
            raise self._blame(name) from error

    def _blame(self, name: str) -> Exception:
        """Zarr says that a checksum differs, not whose: the recorded digests tell."""
        own = [record for record in self._records if record.path.startswith(f"{name}/")]
        return damaged(self._folder, next(altered(self._folder, own), f"the array {name} cannot be read"))


class _OwnStore(LocalStore):
    """A folder of one writer. Zarr's guard against others needs hard links, and exFAT and SMB have none."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)


def _create_features(group: zarr.Group, rows: int, header: GridHeader) -> zarr.Array[Any]:
    dim = header.encoder_spec.dim
    return group.create_array(
        "features",
        shape=(rows, dim),
        dtype=header.dtype,
        chunks=(CHUNK_ROWS, dim),
        shards=(SHARD_ROWS, dim) if rows > SHARD_ROWS else None,
        fill_value=float("nan"),  # a chunk that vanishes while a grid is open reads as NaN, never as a feature
        dimension_names=("tile", "feature"),
        **_layout(np.dtype(header.dtype)),
    )


def _create(group: zarr.Group, name: str, values: NDArray[Any], dimensions: tuple[str, ...]) -> None:
    """A small array as a single chunk."""
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, length) for length in values.shape),
        dimension_names=dimensions,
        **_layout(values.dtype),
    )
    array[...] = values


def _layout(dtype: np.dtype[Any]) -> dict[str, Any]:
    return {
        "filters": None,
        "serializer": BytesCodec() if dtype.itemsize == 1 else BytesCodec(endian="little"),
        "compressors": Crc32cCodec(),
        "config": {"write_empty_chunks": True},
    }


def _batched(pieces: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    rest = iter(pieces)
    while batch := list(islice(rest, size)):
        yield batch
