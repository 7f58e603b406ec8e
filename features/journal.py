"""Rows already encoded, kept on disk until the grid is complete, in pieces that prove themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.files import write_atomic
from wsi.errors import GridDamaged

PIECE_ROWS = 1024

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some rows in grid order: PIECE_ROWS of them, fewer only at the end of a slide."""

    features: NDArray[np.floating]  # (B, D), as stored
    status: NDArray[np.uint8]  # (B,)
    flags: NDArray[np.uint8]  # (B,)


class Journal:
    """Numbered pieces in a folder. Each file is the SHA-256 of its payload, then the payload.

    A piece comes into being by one rename and carries its own proof, so no list of pieces can disagree with them,
    and a kill or a power cut at any moment costs at most the rows that were not yet a piece.
    """

    def __init__(self, folder: Path, dim: int, dtype: str) -> None:
        self._folder = folder
        self._dim = dim
        self._dtype = np.dtype(dtype).newbyteorder("<")
        folder.mkdir(parents=True, exist_ok=True)
        self._count = 0

    def recover(self) -> int:
        """Takes up the unbroken run of good pieces from the start, none beyond it; returns the number of their rows."""
        self._count = 0
        rows = 0
        while (piece := self._read(self._count)) is not None:
            self._count, rows = self._count + 1, rows + len(piece.status)
        return rows

    def append(self, piece: Piece) -> None:
        """Adds a piece. Not synced to the disk: after a power cut its digest tells whether it got there."""
        features = piece.features.astype(self._dtype, copy=False)
        payload = features.tobytes() + piece.status.tobytes() + piece.flags.tobytes()
        write_atomic(self._path(self._count), hashlib.sha256(payload).digest() + payload, durable=False)
        self._count += 1

    def __iter__(self) -> Iterator[Piece]:
        """The pieces in order. Raises GridDamaged where one has changed since it was written."""
        for index in range(self._count):
            piece = self._read(index)
            if piece is None:
                path = self._path(index)
                hint = "Run the same command again: it continues from the last good rows."
                raise GridDamaged(f"{path}: rows kept for this slide have changed.", hint=hint, path=str(path))
            yield piece

    def _read(self, index: int) -> Piece | None:
        """Piece number `index`, or None if it is not there or not whole."""
        path = self._path(index)
        data = path.read_bytes() if path.is_file() else b""
        payload = memoryview(data)[_DIGEST_BYTES:]
        row_bytes = self._dim * self._dtype.itemsize + 2
        rows, rest = divmod(len(payload), row_bytes)
        if not rows or rest or rows > PIECE_ROWS or hashlib.sha256(payload).digest() != data[:_DIGEST_BYTES]:
            return None
        features = np.frombuffer(payload, self._dtype, rows * self._dim).reshape(rows, self._dim)
        status, flags = np.frombuffer(payload, np.uint8, offset=features.nbytes).reshape(2, rows)
        return Piece(features, status, flags)

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}.rows"
