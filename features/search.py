"""Nearest tiles by cosine, exact, over the feature grids of many slides, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.grid import FeatureGrid
from features.spec import EncoderSpec
from features.store import SHARD_ROWS
from tiling.grid import READ_FAILED
from wsi.errors import EncoderMismatch, UsageError


@dataclass(frozen=True, slots=True)
class Hit:
    """A tile found, and how close it is."""

    slide_id: str
    cell: int  # of the slide's grid
    x: int  # level-0 px of the tile's top-left corner
    y: int
    score: float  # cosine, -1..1; higher is closer


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row among the best so far; becomes a Hit if it stays."""

    score: float
    grid: FeatureGrid
    row: int


@dataclass(frozen=True, slots=True)
class FeatureIndex:
    """Grids of one encoder, searched together. Nothing is copied or precomputed: every search reads the grids."""

    grids: tuple[FeatureGrid, ...]

    @classmethod
    def build(cls, grids: Iterable[FeatureGrid | str | Path]) -> FeatureIndex:
        """An index over open grids or their paths.

        Raises UsageError for none, EncoderMismatch where two grids come from different encoders (any field of the
        spec), and what `FeatureGrid.open` raises.
        """
        found = tuple(grid if isinstance(grid, FeatureGrid) else FeatureGrid.open(grid) for grid in grids)
        if not found:
            raise UsageError("An index needs at least one feature grid.")
        for grid in found[1:]:
            _same_encoder(found[0], grid)
        return cls(found)

    @property
    def encoder(self) -> EncoderSpec:
        return self.grids[0].encoder

    def __len__(self) -> int:
        """Number of tiles, unreadable ones included."""
        return sum(len(grid) for grid in self.grids)

    def search(self, query: ArrayLike, k: int = 10, per_slide: int | None = None) -> list[Hit] | list[list[Hit]]:
        """The `k` tiles nearest to each query, best first; equal scores in the order of grids and rows.

        `query` (D,) gives a list of Hit, (Q, D) a list of such lists; queries need not be unit vectors.
        `per_slide` allows at most so many hits from one grid. Memory: one block of features, and its scores per query.
        Raises UsageError for a query of another length, of zeros or not finite.
        """
        queries = self._unit_queries(query)
        if k < 1 or (per_slide is not None and per_slide < 1):
            raise UsageError(f"k and per_slide must be at least 1, not {k} and {per_slide}.")
        best: list[list[_Candidate]] = [[] for _ in queries]
        for grid in self.grids:
            found = _search_grid(grid, queries, min(k, per_slide or k))
            best = [_trim(old + new, k) for old, new in zip(best, found, strict=True)]
        hits = [[_hit(candidate) for candidate in candidates] for candidates in best]
        return hits if np.ndim(query) == 2 else hits[0]

    def _unit_queries(self, query: ArrayLike) -> NDArray[np.float32]:
        """(Q, D) float32 unit vectors."""
        queries = np.atleast_2d(np.asarray(query, np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.encoder.dim:
            shape = np.shape(query)
            raise UsageError(f"A query of shape {shape} cannot be compared with {self.encoder.dim} dimensions.")
        length = np.linalg.norm(queries, axis=1, keepdims=True)
        if not (np.isfinite(length).all() and length.all()):
            raise UsageError("A query of zeros, or one that is not finite, is near to nothing.")
        return queries / length


def _search_grid(grid: FeatureGrid, queries: NDArray[np.float32], k: int) -> list[list[_Candidate]]:
    """The `k` best rows of one grid for each query."""
    best: list[list[_Candidate]] = [[] for _ in queries]
    for rows, features in _unit_blocks(grid):
        for candidates, scores in zip(best, queries @ features.T, strict=True):
            new = [_Candidate(float(scores[i]), grid, int(rows[i])) for i in _largest(scores, k)]
            candidates[:] = _trim(candidates + new, k)
    return best


def _unit_blocks(grid: FeatureGrid) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Row numbers (B,) and unit features (B, D) float32 of the readable tiles, a shard at a time."""
    for start in range(0, len(grid), SHARD_ROWS):
        rows = np.arange(start, min(start + SHARD_ROWS, len(grid)))
        features = np.asarray(grid.features[start : start + SHARD_ROWS], np.float32)
        good = grid.read_status[rows] != READ_FAILED
        rows, features = rows[good], features[good]
        length = np.linalg.norm(features, axis=1, keepdims=True)
        yield rows, features / np.where(length > 0, length, 1)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest, largest first; of equal ones the earlier."""
    if k < len(scores):
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        found = np.flatnonzero(scores >= kth)
    else:
        found = np.arange(len(scores))
    return found[np.argsort(-scores[found], kind="stable")][:k]


def _trim(candidates: list[_Candidate], k: int) -> list[_Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.score)[:k]


def _hit(candidate: _Candidate) -> Hit:
    grid = candidate.grid
    cell = int(grid.grid.cells[candidate.row])
    region = grid.grid.region(cell)
    return Hit(grid.slide_id, cell, region.x, region.y, candidate.score)


def _same_encoder(first: FeatureGrid, other: FeatureGrid) -> None:
    difference = first.header.matches(replace(first.header, encoder_spec=other.encoder))
    if difference:
        raise EncoderMismatch(
            f"{other.path}: features of {other.encoder.name}, but {first.path} has those of {first.encoder.name}: "
            f"{difference}.",
            hint="Search one encoder at a time.",
        )
