"""What goes into a head and what comes out: a slide's tiles as a bag of vectors, and its score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.problems import refuse, some
from tiling.grid import READ_FAILED
from wsi.identity import digest


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """The tiles of one slide as vectors of one encoder. No pixels, no order that a head may rely on.

    Anything array-like is taken for `x` and `cells` and converted. A bag without tiles is allowed, since a slide
    without tissue is a result; heads refuse to score it.

    Raises UsageError naming all that is wrong: shapes, NaN or inf in `x`, cells negative or not ascending.
    """

    x: NDArray[np.float32] = field(repr=False)  # (N, D), as the encoder gave it: not normalised
    cells: NDArray[np.int64] = field(repr=False)  # (N,) of the slide's lattice, ascending; None numbers the rows
    slide_id: str
    encoder_digest: str  # wsi.identity.digest of the encoder's spec

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # what overflows float32 becomes inf, and is named below
            # Writable, because torch warns of read-only memory it is given to look at.
            x = np.require(np.asarray(self.x), np.float32, ["C", "W"])
        cells = np.arange(len(x)) if self.cells is None else np.asarray(self.cells)
        refuse(
            [*_row_problems(x), *_cell_problems(cells, len(x))], f"The bag of slide {self.slide_id!r} cannot be used"
        )
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "cells", cells.astype(np.int64))

    @classmethod
    def from_grid(cls, fg: Any) -> Bag:
        """The bag of a feature grid (`features.FeatureGrid`), without the tiles that could not be read."""
        read = np.asarray(fg.read_status) != READ_FAILED
        x = np.asarray(fg.features[:])[read]
        return cls(x=x, cells=fg.grid.cells[read], slide_id=fg.slide_id, encoder_digest=digest(fg.encoder))

    def __len__(self) -> int:
        """Number of tiles, N."""
        return len(self.x)


@dataclass(frozen=True, slots=True, eq=False)
class SlideScore:
    """What a head says of one slide. What the values mean, and their direction, is the head's to say in `detail`."""

    values: NDArray[np.float32]  # (C,) one per class or biomarker: probabilities; survival: (1,) risk, higher = worse
    per_tile: NDArray[np.float32] | None  # (N,) attention, sums to 1; or (N, C) similarity; rows as in the bag
    head_digest: str  # of all that made the score besides the bag
    detail: dict[str, Any]  # plain JSON


def _row_problems(x: NDArray[np.float32]) -> list[str]:
    if x.ndim != 2 or x.shape[1] == 0:
        return [f"x has shape {x.shape}, not (tiles, dimensions)"]
    broken = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(broken):
        return [f"x holds NaN or inf in {len(broken)} of {len(x)} rows (row {some(broken.tolist())})"]
    return []


def _cell_problems(cells: NDArray[Any], n: int) -> list[str]:
    if cells.shape != (n,):
        return [f"cells has shape {cells.shape}, but there are {n} rows in x"]
    if n and not np.issubdtype(cells.dtype, np.integer):
        return [f"cells are {cells.dtype}, not whole numbers"]
    if n and (cells[0] < 0 or (np.diff(cells) <= 0).any()):
        return ["cells are not ascending, unique and at least 0"]
    return []
