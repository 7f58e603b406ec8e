"""Reading the tiles of a grid: neighbours together, in several threads, always in grid order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.cells import read_cells
from tiling.grid import READ_FAILED, TileBatch, TileGrid
from tiling.normalisation import StainNormaliser
from tiling.quality import tile_flags
from tiling.rooms import PIECE_BYTES, room
from tiling.stainfit import fitted_normaliser

STRETCH_BYTES = PIECE_BYTES  # pixels of tiles that are read, or being read, as one: 222 of PLIP's
BLOCK_BYTES = 4 * 2**20  # pixels of tiles read in one go: 27 of PLIP's
BLOCK_PX = 2**25  # level-0 px of tiles read in one go: what a slide without a pyramid has to decode for them
BLOCK_ROWS = 4  # lattice rows read in one go: neighbours share the slide's own tiles at their edges
MAX_GAP = 1  # tile widths of nothing that are read rather than beginning another block

Indices = NDArray[np.int64]


def read_tiles(
    slide: Any,
    grid: TileGrid,
    batch_size: int = 64,
    *,
    threads: int = 2,
    start: int = 0,
    normaliser: StainNormaliser | None = None,
) -> Iterator[TileBatch]:
    """The kept tiles from index `start` on, lazily and in order, in batches of `batch_size` (the last may have fewer).

    Cells that lie together are read together (`slide.read_into`, from `threads` threads at a time). What cannot be
    decoded together is read again tile by tile; a tile that fails by itself has status READ_FAILED and black pixels,
    the others are kept. Tiles depend neither on `threads` nor on `batch_size` nor on `start`.

    Where `grid.spec.stain` says so, stains are normalised by the same threads, by `normaliser` where
    `fitted_normaliser(slide, grid)` is at hand, else by one that is fitted first.

    Raises from the iterator SlideImplausible where a single tile is more than the slide reads in one call (a coarse
    tile of a slide without coarse levels), StainsUnfit where stains cannot be normalised.

    Memory, whatever the size of the slide: three stretches of at most 32 MiB (or one tile) each, one batch, and what
    `threads` calls of `read_into` hold, each for at most 4 MiB of tiles and 2^25 level-0 px (or one tile). A batch may
    be a view of its stretch: copy what is kept for long. Memory that no batch looks at is used again, by this reading
    and, up to three times 32 MiB, by later ones. Other errors than SlideUnreadable are raised from the
    iterator; then, and when it is closed, the threads end.
    """
    if batch_size < 1 or threads < 1 or start < 0:
        raise ValueError(f"batch_size and threads are at least 1, start at least 0: {batch_size}, {threads}, {start}")
    if normaliser is not None and normaliser.method != grid.spec.stain:
        raise ValueError(f"the grid asks for stain {grid.spec.stain!r}, the normaliser does {normaliser.method!r}")
    if normaliser is not None and normaliser.has_own_target:
        raise ValueError("a normaliser with a target of its own would make tiles that the grid's spec does not tell")
    return _threaded(_Source(slide, grid, grid.cells, normaliser), batch_size, threads, start)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    slide: Any
    grid: TileGrid
    cells: Indices  # (N,) of all kept tiles
    normaliser: StainNormaliser | None  # None: pixels are as they are

    @property
    def tile_bytes(self) -> int:
        return 3 * self.grid.spec.size_px**2


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """Tiles that follow each other in the grid's order, with room for their pixels, which threads fill in blocks."""

    first: int  # index of its first tile
    cells: Indices  # (n,)
    pixels: NDArray[np.uint8]  # (n, size, size, 3)
    status: NDArray[np.uint8]  # (n,)
    flags: NDArray[np.uint8]  # (n,)
    reads: list[Future[None]]

    @classmethod
    def empty(cls, source: _Source, first: int, last: int) -> _Stretch:
        n, size = last - first, source.grid.spec.size_px
        pixels = room((n, size, size, 3))
        status, flags = np.full(n, READ_FAILED, np.uint8), np.zeros(n, np.uint8)
        return cls(first, source.cells[first:last], pixels, status, flags, [])

    def part(self, first: int, last: int) -> TileBatch:
        some = slice(first, last)
        return TileBatch(self.pixels[some], self.cells[some], self.status[some], self.flags[some])

    def wait(self) -> None:
        for read in self.reads:
            read.result()


def _threaded(source: _Source, batch_size: int, threads: int, start: int) -> Iterator[TileBatch]:
    if source.normaliser is None:
        source = replace(source, normaliser=fitted_normaliser(source.slide, source.grid, threads=threads))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
    try:
        yield from _batches(_one_ahead(_begun(pool, source, start)), batch_size, start, len(source.cells))
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(pool: ThreadPoolExecutor, source: _Source, start: int) -> Iterator[_Stretch]:
    """Every stretch from tile `start` on, its blocks handed to the pool."""
    for first, last in _stretches(source):
        if last > start:
            stretch = _Stretch.empty(source, first, last)
            blocks = (block for block in _blocks(source, stretch.cells) if first + block.max() >= start)
            stretch.reads.extend(pool.submit(_read, source, stretch, block) for block in blocks)
            yield stretch


def _one_ahead(stretches: Iterator[_Stretch]) -> Iterator[_Stretch]:
    """The same, each handed on when the next has begun."""
    this = next(stretches, None)
    while this is not None:
        following = next(stretches, None)
        this.wait()
        yield this
        this = following


def _batches(stretches: Iterator[_Stretch], size: int, start: int, stop: int) -> Iterator[TileBatch]:
    """Tiles `start` to `stop` in batches of `size`: a view of a stretch, or a copy where a batch reaches over two."""
    parts: list[TileBatch] = []
    for stretch in stretches:
        at = max(0, start - stretch.first)
        while at < len(stretch.cells):
            wanted = min(size, stop - start) - sum(map(len, parts))
            parts.append(stretch.part(at, at + wanted))
            at += len(parts[-1])
            if len(parts[-1]) == wanted:
                batch = parts[0] if len(parts) == 1 else _joined(parts)
                start, parts = start + len(batch), []
                yield batch


def _joined(parts: list[TileBatch]) -> TileBatch:
    return TileBatch(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("pixels", "cells", "status", "flags")))


def _stretches(source: _Source) -> Iterator[tuple[int, int]]:
    """First and last tile (exclusive) of every stretch: whole lattice rows, or parts of a row that has too many."""
    most = max(1, STRETCH_BYTES // source.tile_bytes)
    begins = np.concatenate([[0], source.grid.keep.sum(axis=1).cumsum()]).tolist()  # first tile of every row
    row = 0
    while row < len(begins) - 1:
        after = max(row + 1, int(np.searchsorted(begins, begins[row] + most, side="right")) - 1)
        for first in range(begins[row], begins[after], most):
            yield first, min(first + most, begins[after])
        row = after


def _blocks(source: _Source, cells: Indices) -> Iterator[Indices]:
    """Indices into `cells`, in groups that are read together: a few rows high, without wide gaps, mostly kept cells."""
    grid = source.grid
    most = max(1, min(BLOCK_BYTES // source.tile_bytes, BLOCK_PX // grid.span_px**2))
    high = min(BLOCK_ROWS, most)
    reach = (1 + MAX_GAP) * grid.span_px // grid.stride_px
    row, col = np.divmod(cells, grid.keep.shape[1])
    for band in _groups(np.arange(len(cells)), (row - row[0]) // high, 0, 1):
        for run in _groups(band, col, reach, most // high):
            if _is_dense(row[run], col[run], grid):
                yield run
            else:
                for line in _groups(run, row, 0, 1):
                    yield from _groups(line, col, reach, most)


def _groups(members: Indices, key: Indices, reach: int, width: int) -> list[Indices]:
    """Members by their key, parted where it steps by more than `reach` or a group would span more than `width` keys."""
    ordered = members[np.argsort(key[members], kind="stable")]
    keys = key[ordered].tolist()
    cuts = [0]
    for i in range(1, len(keys)):
        if keys[i] - keys[i - 1] > reach or keys[i] - keys[cuts[-1]] >= width:
            cuts.append(i)
    return np.split(ordered, cuts[1:])


def _is_dense(row: Indices, col: Indices, grid: TileGrid) -> bool:
    """Whether tiles fill at least half of the box around them."""
    height, width = (int(np.ptp(along)) * grid.stride_px + grid.span_px for along in (row, col))
    return 2 * len(row) * min(grid.span_px, grid.stride_px) ** 2 >= height * width


def _read(source: _Source, stretch: _Stretch, tiles: Indices) -> None:
    """Reads the tiles of these indices into the stretch; what cannot be decoded stays black and READ_FAILED."""
    status = read_cells(source.slide, source.grid, stretch.cells[tiles], [stretch.pixels[i] for i in tiles])
    pixels = stretch.pixels[tiles] if source.grid.spec.quality or source.normaliser is not None else None
    if pixels is not None and source.grid.spec.quality:  # of the slide's own colours: normalised, ink may be stain
        stretch.flags[tiles] = np.where(status == READ_FAILED, 0, tile_flags(pixels, source.grid.spec.mpp))
    if pixels is not None and source.normaliser is not None:
        pixels = source.normaliser.apply(pixels)
        pixels[status == READ_FAILED] = 0
        stretch.pixels[tiles] = pixels
    stretch.status[tiles] = status
