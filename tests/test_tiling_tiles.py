"""Tiles in grid order whatever the threads, in bounded memory, with every unreadable one told apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import ArraySlide
from numpy.typing import NDArray
from slides import FormulaReader

from tiling import tiles as tiles_module
from tiling.grid import READ_FAILED, READ_OK, READ_PADDED, TileBatch, TileGrid, TileSpec, TissueMask
from tiling.quality import PEN, tile_flags
from tiling.tiles import read_tiles
from wsi import Slide, open_slide
from wsi.errors import ReaderCrashed, SlideImplausible, SlideUnreachable
from wsi.geometry import Region, Size


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grid_of(slide: ArraySlide, keep: NDArray[np.bool_], size_px: int = 16, stride_px: int | None = None) -> TileGrid:
    spec = TileSpec(size_px, slide.mpp, stride_px)
    return TileGrid(spec, (0, 0), size_px, stride_px or size_px, keep, np.ones(int(keep.sum()), np.float32))


def all_of(batches: Iterable[TileBatch]) -> TileBatch:
    parts = list(batches)
    return TileBatch(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("pixels", "cells", "status", "flags")))


def one_by_one(slide: ArraySlide, grid: TileGrid) -> NDArray[np.uint8]:
    """The oracle: every tile cut from the array by hand."""
    size = grid.spec.size_px
    tiles = np.full((len(grid), size, size, 3), 255, np.uint8)
    for tile, (x, y) in zip(tiles, grid.coords, strict=True):
        part = slide.pixels[y : y + size, x : x + size]
        tile[: part.shape[0], : part.shape[1]] = part
    return tiles


def sparse(rows: int, columns: int, share: float, seed: int = 1) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((rows, columns)) < share


@pytest.fixture
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many stretches and blocks from few tiles: 20 tiles of 16 px a stretch, 6 a block."""
    monkeypatch.setattr(tiles_module, "STRETCH_BYTES", 20 * 3 * 16**2)
    monkeypatch.setattr(tiles_module, "BLOCK_BYTES", 6 * 3 * 16**2)


# What is read


@pytest.mark.parametrize("share", [1.0, 0.6, 0.2])
@pytest.mark.parametrize("stride", [None, 8, 5, 40, 100])
@pytest.mark.usefixtures("small_stretches")
def test_tiles_are_those_of_the_grid_in_its_order(share: float, stride: int | None):
    slide = ArraySlide(noise(330, 250), 0.5)
    step = stride or 16
    grid = grid_of(slide, sparse(250 // step + 1, 330 // step + 1, share), stride_px=stride)
    read = all_of(read_tiles(slide, grid, 7))
    np.testing.assert_array_equal(read.cells, grid.cells)
    np.testing.assert_array_equal(read.pixels, one_by_one(slide, grid))
    beyond = (grid.coords + 16 > [330, 250]).any(axis=1)
    np.testing.assert_array_equal(read.status, np.where(beyond, READ_PADDED, READ_OK))


@pytest.mark.usefixtures("small_stretches")
def test_nothing_depends_on_threads_batches_or_the_start():
    slide = ArraySlide(noise(400, 300), 0.5)
    slide.broken = [Region(100, 100, 60, 20)]
    grid = grid_of(slide, sparse(19, 25, 0.7))
    whole = all_of(read_tiles(slide, grid, 64, threads=1))
    for threads, batch_size, start in [
        (1, 1, 0),
        (2, 7, 0),
        (5, 1000, 0),
        (3, 32, 32),
        (2, 5, 101),
        (2, 64, len(grid) - 1),
    ]:
        part = all_of(read_tiles(slide, grid, batch_size, threads=threads, start=start))
        for name in ("pixels", "cells", "status"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[start:])


def test_batches_begin_at_multiples_of_their_size_from_the_start():
    slide = ArraySlide(noise(160, 160), 0.5)
    grid = grid_of(slide, np.ones((10, 10), bool))
    assert [len(batch) for batch in read_tiles(slide, grid, 32)] == [32, 32, 32, 4]
    assert [int(batch.cells[0]) for batch in read_tiles(slide, grid, 32, start=10)] == [10, 42, 74]


def test_no_tiles_no_batches():
    slide = ArraySlide(noise(64, 64), 0.5)
    assert list(read_tiles(slide, grid_of(slide, np.zeros((4, 4), bool)))) == []
    assert list(read_tiles(slide, grid_of(slide, np.ones((4, 4), bool)), start=16)) == []


def test_tiles_are_resampled_to_their_size():
    slide = ArraySlide(noise(64, 64), 0.25)
    grid = TileGrid.over(slide, TissueMask(np.ones((4, 4), bool), 16.0), TileSpec(16, 0.5))
    assert all_of(read_tiles(slide, grid)).pixels.shape == (4, 16, 16, 3)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"threads": 0}, {"start": -1}])
def test_impossible_numbers_are_refused_at_once(wrong: dict[str, int]):
    slide = ArraySlide(noise(64, 64), 0.5)
    with pytest.raises(ValueError):
        read_tiles(slide, grid_of(slide, np.ones((4, 4), bool)), **wrong)


@pytest.mark.usefixtures("small_stretches")
@pytest.mark.parametrize("start", [0, 7])
def test_flags_are_of_each_tile_where_asked_for_and_none_of_what_failed(start: int):
    slide = ArraySlide(noise(160, 160), 0.5)
    slide.pixels[:, 64:96] = (20, 20, 22)  # black ink over two columns of tiles
    slide.broken = [Region(72, 136, 2, 2)]  # in cell (8, 4), one of them
    plain = grid_of(slide, sparse(10, 10, 0.8) | (np.arange(100).reshape(10, 10) == 84))
    looked_over = replace(plain, spec=replace(plain.spec, quality=True))
    read, silent = (all_of(read_tiles(slide, grid, 9, start=start)) for grid in (looked_over, plain))
    black = np.isin(read.cells % 10, [4, 5]) & (read.status != READ_FAILED)
    assert (read.status == READ_FAILED).sum() == 1 and black.sum() > 8
    assert (read.flags & PEN > 0).tolist() == black.tolist()
    np.testing.assert_array_equal(read.flags[black], tile_flags(read.pixels[black], 0.5))
    assert not silent.flags.any()
    np.testing.assert_array_equal(read.pixels, silent.pixels)


# What cannot be read


@pytest.mark.usefixtures("small_stretches")
def test_only_the_broken_tiles_fail():
    slide = ArraySlide(noise(160, 160), 0.5)
    slide.broken = [Region(40, 40, 2, 2), Region(95, 95, 2, 2)]  # in cell (2, 2); across the corner of four cells
    grid = grid_of(slide, np.ones((10, 10), bool))
    read = all_of(read_tiles(slide, grid, 9))
    failed = {22, 55, 56, 65, 66}
    assert set(read.cells[read.status == READ_FAILED].tolist()) == failed
    assert not read.pixels[read.status == READ_FAILED].any()
    kept = read.status != READ_FAILED
    np.testing.assert_array_equal(read.pixels[kept], one_by_one(slide, grid)[kept])


class Unplugged(ArraySlide):
    def read_into(
        self, rooms: Sequence[NDArray[np.uint8]], regions: Sequence[Region], *, exact: bool = True
    ) -> NDArray[np.bool_]:
        self.calls.append(list(regions))
        raise SlideUnreachable("https://host/a.svs cannot be read: no answer.")


def test_a_network_that_fails_ends_the_slide_and_marks_no_tile():
    slide = Unplugged(noise(160, 160), 0.5)
    with pytest.raises(SlideUnreachable, match="no answer"):
        all_of(read_tiles(slide, grid_of(slide, np.ones((10, 10), bool)), 9))
    assert all(len(regions) > 1 for regions in slide.calls)  # and is not asked for tiles one by one


class Crashing(ArraySlide):
    def read_into(
        self, rooms: Sequence[NDArray[np.uint8]], regions: Sequence[Region], *, exact: bool = True
    ) -> NDArray[np.bool_]:
        if regions[0].y >= 64:
            raise ReaderCrashed("gone")
        return super().read_into(rooms, regions, exact=exact)


@pytest.mark.usefixtures("small_stretches")
def test_other_errors_are_raised_and_the_threads_end():
    slide = Crashing(noise(160, 160), 0.5)
    with pytest.raises(ReaderCrashed):
        list(read_tiles(slide, grid_of(slide, np.ones((10, 10), bool)), 4, threads=3))
    assert not reading_threads()


@pytest.mark.usefixtures("small_stretches")
def test_a_consumer_that_stops_early_stops_the_threads():
    slide = ArraySlide(noise(1600, 1600), 0.5)
    batches = read_tiles(slide, grid_of(slide, np.ones((100, 100), bool)), 4, threads=3)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not reading_threads()
    assert sum(map(len, slide.calls)) <= 3 * 20  # of 10,000 tiles: the stretches that had begun


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tiles")]


# How it is read


class Counting(ArraySlide):
    """Counts how many tiles have been read but not yet taken, and the largest box."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(np.zeros((1, 1, 3), np.uint8), 0.5)
        self.size = Size(width, height)
        self.taken = self.read = self.most = self.most_px = 0
        self._count = threading.Lock()

    def read_into(
        self, rooms: Sequence[NDArray[np.uint8]], regions: Sequence[Region], *, exact: bool = True
    ) -> NDArray[np.bool_]:
        with self._count:
            self.read += len(regions)
            self.most = max(self.most, self.read - self.taken)
            xs, ys = [r.x for r in regions], [r.y for r in regions]
            box = (max(xs) - min(xs) + regions[0].width) * (max(ys) - min(ys) + regions[0].height)
            self.most_px = max(self.most_px, box)
        return np.zeros(len(regions), bool)


@pytest.mark.parametrize(("rows", "columns"), [(60, 400), (400, 60), (3, 8000)])
def test_memory_does_not_grow_with_the_slide(rows: int, columns: int):
    size = 64
    slide = Counting(columns * size, rows * size)
    grid = grid_of(slide, np.ones((rows, columns), bool), size)
    for batch in read_tiles(slide, grid, 64, threads=4):
        slide.taken += len(batch)
    assert slide.taken == rows * columns
    stretch = tiles_module.STRETCH_BYTES // (3 * size**2)
    assert slide.most <= 3 * stretch + 64
    assert slide.most_px <= 2 * tiles_module.BLOCK_BYTES / 3


def test_a_slide_without_a_pyramid_is_read_in_small_boxes():
    slide = Counting(400_000, 400_000)
    grid = TileGrid(TileSpec(224, 8.0), (0, 0), 3584, 3584, np.ones((4, 4), bool), np.ones(16, np.float32))
    list(read_tiles(slide, grid))
    assert slide.most_px <= tiles_module.BLOCK_PX


def test_neighbours_are_read_together():
    slide = ArraySlide(np.zeros((224 * 8, 224 * 12, 3), np.uint8), 0.5)
    list(read_tiles(slide, grid_of(slide, np.ones((8, 12), bool), 224)))
    assert len(slide.calls) == 4  # 27 tiles of 224 px fit into a block: 6 columns of 4 rows
    assert all(len(call) == 24 for call in slide.calls)


def test_blank_gaps_are_not_read():
    keep = np.zeros((4, 40), bool)
    keep[:, [0, 1, 3, 30, 31]] = True  # one column of nothing is read; 26 are not
    slide = ArraySlide(np.zeros((64, 640, 3), np.uint8), 0.5)
    list(read_tiles(slide, grid_of(slide, keep)))
    spans = sorted((min(r.x for r in call) // 16, max(r.x for r in call) // 16) for call in slide.calls)
    assert spans == [(0, 3), (30, 31)]


def test_a_diagonal_is_not_read_as_the_square_around_it():
    slide = ArraySlide(np.zeros((64, 64, 3), np.uint8), 0.5)
    list(read_tiles(slide, grid_of(slide, np.eye(4, dtype=bool))))
    assert sorted(map(len, slide.calls)) == [1, 1, 1, 1]


def test_nothing_is_read_before_it_is_asked_for():
    slide = ArraySlide(noise(64, 64), 0.5)
    read_tiles(slide, grid_of(slide, np.ones((4, 4), bool)))
    assert slide.calls == []


# A real slide


def test_a_real_slide_reads_like_single_regions(shared_data: Callable[[str], Path]):
    with open_slide(shared_data("slides/CMU-1-Small-Region.svs")) as slide:
        grid = TileGrid.over(slide, TissueMask(np.ones((1, 1), bool), 3000.0), TileSpec(224, 0.75, min_tissue=0))
        read = all_of(read_tiles(slide, grid, 16, threads=3))
        size = Size(224, 224)
        for i in np.random.default_rng(0).choice(len(grid), 20, replace=False):
            region = grid.region(int(grid.cells[i]))
            np.testing.assert_array_equal(read.pixels[i], slide.read(region, size))
            assert read.status[i] == (READ_PADDED if region.right > 2220 or region.bottom > 2967 else READ_OK)


def test_a_tile_that_is_too_much_for_one_read_is_the_slides_fault():
    """4.48 mm at 0.25 um are 17,920 px a side; only a slide without coarser levels has to decode them all."""
    flat = FormulaReader((Size(40_000, 20_000),), lambda level, box: np.zeros((0, 0, 3), np.uint8))
    slide = Slide(Path("flat.tif"), flat, mpp=0.25)
    grid = TileGrid.over(slide, TissueMask(np.ones((10, 20), bool), 2_000), TileSpec(mpp=20))
    with pytest.raises(SlideImplausible, match=r"^flat\.tif: a tile covers 17,920 x 17,920 px.*pyramidal"):
        all_of(read_tiles(slide, grid))
    assert not flat.asked
