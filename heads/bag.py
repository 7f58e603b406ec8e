"""What goes into a head and what comes out: a slide's tiles as a bag of vectors, and its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heads.problems import refuse, some
from tiling.grid import READ_FAILED
from tiling.quality import drop_mask
from wsi.errors import UsageError
from wsi.identity import digest


class BagLike(Protocol):
    """Tiles of one slide or patient, in memory or not. `load` may be called from any thread, more than once."""

    @property
    def slide_id(self) -> str: ...

    @property
    def encoder_digest(self) -> str: ...

    @property
    def tile(self) -> str:
        """What a tile is, "224 px at 0.5 um/px"; "" where nobody knows."""
        ...

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def load(self) -> NDArray[np.floating]:
        """(N, D) float16 or float32, finite."""
        ...


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
    tile: str = ""  # what a tile is, see `BagLike`

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
    def from_grid(cls, fg: Any, drop: Sequence[str] = ()) -> Bag:
        """The bag of a feature grid (`features.FeatureGrid`), without the tiles that `kept_rows` leaves out."""
        kept = kept_rows(fg, drop)
        x = np.asarray(fg.features[:])[kept]
        about = {"slide_id": fg.slide_id, "encoder_digest": digest(fg.encoder), "tile": tile_text(fg.grid.spec)}
        return cls(x=x, cells=fg.grid.cells[kept], **about)

    def __len__(self) -> int:
        """Number of tiles, N."""
        return len(self.x)

    @property
    def dim(self) -> int:
        return self.x.shape[1]

    def load(self) -> NDArray[np.float32]:
        return self.x


@dataclass(frozen=True, slots=True, eq=False)
class StoredBag:
    """The bag of a feature grid that stays on disk until it is asked for: cohorts are larger than memory."""

    grid: Any = field(repr=False)  # features.FeatureGrid
    slide_id: str
    encoder_digest: str
    tile: str
    drop: tuple[str, ...] = ()  # quality flags whose tiles are left out

    @classmethod
    def of(cls, fg: Any, slide_id: str | None = None, drop: Sequence[str] = ()) -> StoredBag:
        """Without the tiles that `kept_rows` leaves out."""
        return cls(fg, slide_id or fg.slide_id, digest(fg.encoder), tile_text(fg.grid.spec), tuple(drop))

    def __len__(self) -> int:
        return int(self.kept.sum())

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(tiles of the grid,) those that are the bag's rows."""
        return kept_rows(self.grid, self.drop)

    @property
    def dim(self) -> int:
        return int(self.grid.features.shape[1])

    def load(self) -> NDArray[np.floating]:
        kept = self.kept
        return np.asarray(self.grid.features[:] if kept.all() else self.grid.features[kept])


@dataclass(frozen=True, slots=True, eq=False)
class PatientBag:
    """Several slides of one patient as one bag, one after another; `slide_id` is the patient's."""

    slide_id: str
    parts: tuple[BagLike, ...]  # at least one, all of one encoder

    @classmethod
    def join(cls, bags: Sequence[BagLike], patients: Sequence[str]) -> list[PatientBag]:
        """One bag for each patient, in the order in which patients first appear."""
        of: dict[str, list[BagLike]] = {}
        for bag, patient in zip(bags, patients, strict=True):
            of.setdefault(patient, []).append(bag)
        return [cls(patient, tuple(parts)) for patient, parts in of.items()]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def encoder_digest(self) -> str:
        return " and ".join(sorted({p.encoder_digest for p in self.parts}))

    @property
    def tile(self) -> str:
        return " and ".join(sorted({p.tile for p in self.parts}))

    @property
    def dim(self) -> int:
        return self.parts[0].dim

    def load(self) -> NDArray[np.floating]:
        loaded = [p.load() for p in self.parts]
        return loaded[0] if len(loaded) == 1 else np.concatenate(loaded)

    def split(self, per_tile: NDArray[Any]) -> list[NDArray[Any]]:
        """Values of the bag's tiles, one array for each part."""
        return np.split(per_tile, np.cumsum([len(p) for p in self.parts])[:-1])


def kept_rows(fg: Any, drop: Sequence[str] = ()) -> NDArray[np.bool_]:
    """(N,) the tiles of a feature grid that could be read and have none of the quality flags in `drop`.

    Raises UsageError for a flag that there is none of, and for features without flags.
    """
    read = np.asarray(fg.read_status != READ_FAILED)
    if not drop:
        return read
    mask = drop_mask(drop)
    if fg.quality is None:
        raise UsageError(
            f"{fg.slide_id}: these features have no quality flags, so no tile can be dropped by them.",
            hint="Run the slides with `wsi run --quality`, or drop none: --drop none.",
        )
    return np.asarray(read & ((fg.quality & mask) == 0))


def tile_text(spec: Any) -> str:
    """What a tile is, in words that two stores can be compared by."""
    stain = "" if spec.stain == "none" else f", stains normalised ({spec.stain})"
    return f"{spec.size_px} px at {spec.mpp:g} um/px{stain}"


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
