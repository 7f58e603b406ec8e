"""Reading the tiles of a grid: neighbours together, in several threads, always in grid order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.grid import READ_FAILED, READ_OK, READ_PADDED, TileBatch, TileGrid
from wsi.errors import SlideUnreadable
from wsi.geometry import Size

BAND_BYTES = 128 * 2**20  # tiles of a band wait for its last block; two lattice rows only where they fit into this
BLOCK_COLUMNS = 8  # neighbours read in one go share what lies in both of the slide's own tiles at their edges
BLOCK_PX = 2**25  # level-0 px a block may span
MAX_GAP = 2  # cells between two tiles of one block that may be read for nothing: cheaper than another read


def read_tiles(
    slide: Any, grid: TileGrid, batch_size: int = 64, *, threads: int = 2, start: int = 0
) -> Iterator[TileBatch]:
    """The kept tiles from index `start` on, lazily and in order, in batches of `batch_size` (the last may have fewer).

    Cells that lie together are read together (`slide.read_many`), `threads` such blocks at a time. A block that
    cannot be decoded is read again tile by tile; a tile that fails by itself has status READ_FAILED and black pixels,
    the others are kept. Tiles do not depend on `threads` or `batch_size`.

    Memory: a band of the lattice (one row, two where they fit into 128 MiB), a batch, and 2 x `threads` blocks.
    """
    bands = _plan(grid, start)
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        begun: deque[Future[TileBatch]] = deque()
        try:
            tasks = (partial(_read, slide, grid, block) for band in bands for block in band.blocks)
            read = _in_order(pool, begun, tasks, 2 * threads)
            yield from _batches(_by_band(read, bands), batch_size)
        finally:  # the consumer stopped early, or something failed: blocks that have not begun never will
            for future in begun:
                future.cancel()


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    """Kept cells of one or two lattice rows, and the blocks they are read in."""

    cells: NDArray[np.int64]
    blocks: tuple[NDArray[np.int64], ...]


def _plan(grid: TileGrid, start: int) -> list[_Band]:
    """All bands from kept tile `start` on, in grid order."""
    cells, columns = grid.cells[start:], grid.keep.shape[1]
    rows_together = 2 if 2 * columns * 3 * grid.spec.size_px**2 <= BAND_BYTES else 1
    number = cells // columns // rows_together
    parts = np.split(cells, np.flatnonzero(np.diff(number)) + 1) if len(cells) else []
    return [_Band(part, tuple(_blocks(part, grid, rows_together))) for part in parts]


def _blocks(cells: NDArray[np.int64], grid: TileGrid, rows: int) -> Iterator[NDArray[np.int64]]:
    """The cells of a band as runs of columns without wide gaps."""
    columns = cells % grid.keep.shape[1]
    most = max(1, min(BLOCK_COLUMNS, BLOCK_PX // (grid.span_px**2 * rows)))
    here: list[int] = []
    for column in np.unique(columns).tolist():
        if here and (column - here[-1] > MAX_GAP + 1 or column - here[0] >= most):
            yield cells[np.isin(columns, here)]
            here = []
        here.append(column)
    yield cells[np.isin(columns, here)]


def _in_order(
    pool: ThreadPoolExecutor, begun: deque[Future[TileBatch]], tasks: Iterator[Callable[[], TileBatch]], ahead: int
) -> Iterator[TileBatch]:
    """Results in the order of the tasks, `ahead` of them under way."""
    begun.extend(pool.submit(task) for task in islice(tasks, ahead))
    while begun:
        done = begun.popleft().result()
        begun.extend(pool.submit(task) for task in islice(tasks, 1))
        yield done


def _by_band(blocks: Iterator[TileBatch], bands: list[_Band]) -> Iterator[TileBatch]:
    """The tiles of each band together, in grid order."""
    for band in bands:
        tiles = _joined([next(blocks) for _ in band.blocks])
        order = np.argsort(tiles.cells, kind="stable")
        yield TileBatch(tiles.pixels[order], tiles.cells[order], tiles.status[order])


def _batches(parts: Iterator[TileBatch], size: int) -> Iterator[TileBatch]:
    """The same tiles in batches of `size`."""
    left: list[TileBatch] = []
    for part in parts:
        tiles = _joined([*left, part])
        whole = len(tiles) - len(tiles) % size
        yield from (_cut(tiles, i, i + size) for i in range(0, whole, size))
        left = [_cut(tiles, whole, len(tiles))]
    if left and len(left[0]):
        yield left[0]


def _read(slide: Any, grid: TileGrid, cells: NDArray[np.int64]) -> TileBatch:
    size = Size(grid.spec.size_px, grid.spec.size_px)
    try:
        pixels, padded = slide.read_many([grid.region(int(cell)) for cell in cells], size)
    except SlideUnreadable:
        if len(cells) > 1:
            return _joined([_read(slide, grid, cells[i : i + 1]) for i in range(len(cells))])
        return TileBatch(np.zeros((1, *size, 3), np.uint8), cells, np.array([READ_FAILED], np.uint8))
    return TileBatch(pixels, cells, np.where(padded, READ_PADDED, READ_OK).astype(np.uint8))


def _joined(parts: list[TileBatch]) -> TileBatch:
    if len(parts) == 1:
        return parts[0]
    return TileBatch(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.status for part in parts]),
    )


def _cut(tiles: TileBatch, start: int, end: int) -> TileBatch:
    return TileBatch(tiles.pixels[start:end], tiles.cells[start:end], tiles.status[start:end])
