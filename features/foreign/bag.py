"""A slide's features in another tool's file: what is known of them at once, and the values when they are asked for."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.foreign.h5 import read_array
from wsi.errors import ArtefactError
from wsi.identity import digest


@dataclass(frozen=True, slots=True)
class ForeignBag:
    """The features of one slide as another tool stored them. No file stays open; threads may share a bag.

    A slide without tiles is a bag of length 0.
    """

    slide_id: str  # path below the folder given, without extension and the folders that the tool itself made
    path: Path
    dialect: str  # clam, trident, stamp or packed
    n_tiles: int  # N
    dim: int  # D; 0 if nothing tells it: no file that was opened with this one has a tile
    encoder: str  # its name where the file tells, "" where it does not
    tile: str = ""  # "256 px at 20x", "256 um"; "" where not told
    coords_unit: str = ""  # px (of level 0) or um; "" where there are no coordinates, or their unit is not told
    span: float | None = None  # side of a tile in coords_unit; None where not told
    start: int = 0  # its first row, in a packed file

    def __len__(self) -> int:
        """Number of tiles, N."""
        return self.n_tiles

    @property
    def encoder_digest(self) -> str:
        """SHA-256 (64 hex digits) of dialect, encoder and dimension; of the dimension alone where none is named."""
        known = {"dialect": self.dialect, "encoder": self.encoder} if self.encoder else {}
        return digest({**known, "dim": self.dim})

    def load(self) -> NDArray[np.floating[Any]]:
        """(N, D) float16 or float32, as stored (other numbers become float32), C-contiguous, read from disk now.

        Raises ArtefactError where the file is cut or damaged, is another than when it was opened, or holds NaN or inf.
        """
        name = "feats" if self.dialect == "stamp" else "features"
        x = self._rows(name, self.dim)
        if x.dtype not in (np.float16, np.float32):
            with np.errstate(over="ignore"):  # what overflows float32 becomes inf, and is named below
                x = x.astype(np.float32)
        return self._finite(name, x)

    def coords(self) -> NDArray[np.float64] | None:
        """(N, 2) float64 (x, y) of the top-left corner of every tile, in `coords_unit`; None where that is "".

        Raises ArtefactError as `load` does.
        """
        return self._finite("coords", self._rows("coords", 2).astype(np.float64)) if self.coords_unit else None

    def _rows(self, name: str, columns: int) -> NDArray[Any]:
        rows = slice(self.start, self.start + self.n_tiles) if self.dialect == "packed" else None
        found = read_array(self.path, name, rows)
        if found.size != self.n_tiles * columns or found.dtype.kind not in "fiu":
            hint = "Open the folder again when nothing writes to it any more."
            message = f"{self.path}: {name} has changed since this file was opened."
            raise ArtefactError(message, hint=hint, path=str(self.path))
        return found.reshape(self.n_tiles, columns)  # CLAM's files may have an axis more: (1, N, D)

    def _finite(self, name: str, x: NDArray[Any]) -> NDArray[Any]:
        broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
        if not len(broken):
            return x
        what = f"{len(broken)} of {len(x)} rows of {name} hold NaN or inf, the first is row {self.start + broken[0]}"
        hint = "Extract this slide again, or leave it out."
        raise ArtefactError(
            f"{self.path}: slide {self.slide_id!r}: {what}.", hint=hint, path=str(self.path), rows=len(broken)
        )


def readable(name: str) -> str:
    """Text for people and tables: accents composed, bytes that are no UTF-8 and control characters spelt out."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in unicodedata.normalize("NFC", text))
