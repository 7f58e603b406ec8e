"""One fit a slide, from a fixed sample: the same tiles whatever the run, here and in the reader process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import ArraySlide
from slides import aperio_svs
from stain_samples import BLUISH, Image, amounts, noisy, stained

from tiling import TileGrid, TileSpec, TissueConfig, TissueMask, detect_tissue, read_tiles
from tiling.grid import READ_FAILED, TileBatch
from tiling.normalisation import StainNormaliser
from tiling.quality import SATURATED, tile_flags
from tiling.stainfit import SAMPLE_TILES, fitted_normaliser, sampled_pixels
from tiling.supervised import Preparation, ReaderConfig, ReaderProcess
from wsi import open_slide
from wsi.errors import SlideUnreadable, StainsUnfit
from wsi.geometry import Region

GLASS = (242, 238, 240)
METHODS = ("macenko", "reinhard")


def section() -> Image:
    """960 x 640 px of tissue within glass that shows its colour."""
    image = noisy(np.broadcast_to(np.uint8(GLASS), (800, 1120, 3)))
    image[80:720, 80:1040] = noisy(stained(BLUISH, 0.2 + amounts((640, 960)), GLASS))
    return image


@pytest.fixture
def slide() -> ArraySlide:
    return ArraySlide(section(), 0.5)


def grid_over(slide: ArraySlide, stain: str, size_px: int = 48) -> TileGrid:
    inside = np.zeros((10, 14), bool)
    inside[1:9, 1:13] = True
    return TileGrid.over(slide, TissueMask(inside, 80.0), TileSpec(size_px, stain=stain))


def pixels(batches: Iterator[TileBatch]) -> Image:
    return np.concatenate([batch.pixels for batch in batches])


@pytest.mark.parametrize("method", METHODS)
def test_tiles_do_not_depend_on_batches_threads_or_where_a_run_began(slide: ArraySlide, method: str) -> None:
    grid, plain = grid_over(slide, method), grid_over(slide, "none")
    normaliser = fitted_normaliser(slide, grid)
    assert normaliser is not None and len(grid) > 1.5 * SAMPLE_TILES
    whole = pixels(read_tiles(slide, grid, 64))
    assert np.array_equal(whole, normaliser.apply(pixels(read_tiles(slide, plain, 64))))
    for batch_size, threads, start in ((1000, 1, 0), (7, 3, 0), (32, 2, 96), (50, 1, len(grid) - 3)):
        assert np.array_equal(pixels(read_tiles(slide, grid, batch_size, threads=threads, start=start)), whole[start:])
    assert np.array_equal(pixels(read_tiles(slide, grid, normaliser=normaliser)), whole)


def test_quality_is_judged_in_the_slides_own_colours(slide: ArraySlide) -> None:
    slide.pixels[:, :560] = np.clip(slide.pixels[:, :560] * 1.7, 0, 255).astype(np.uint8)
    plain, stained_grid = (grid_over(slide, stain) for stain in ("none", "macenko"))
    plain, stained_grid = (replace(g, spec=replace(g.spec, quality=True)) for g in (plain, stained_grid))
    flags, normalised = ([b.flags for b in read_tiles(slide, grid)] for grid in (plain, stained_grid))
    assert np.array_equal(np.concatenate(flags), np.concatenate(normalised))
    assert 0 < np.count_nonzero(np.concatenate(flags) & SATURATED) < len(plain)
    assert not np.array_equal(np.concatenate(flags), tile_flags(pixels(read_tiles(slide, stained_grid)), 0.5))


def test_the_sample_is_spread_over_all_tiles_and_agrees_with_them_all(slide: ArraySlide) -> None:
    grid = grid_over(slide, "macenko")
    found, everything = fitted_normaliser(slide, grid), pixels(read_tiles(slide, grid_over(slide, "none")))
    asked = {grid.region(int(c)) for c in grid.cells[np.linspace(0, len(grid) - 1, 128).round().astype(int)]}
    assert {region for call in slide.calls for region in call} >= asked and len(asked) == SAMPLE_TILES
    all_of_it = StainNormaliser("macenko").fit(everything, GLASS)
    assert found is not None
    apart = found.apply(everything).astype(int) - all_of_it.apply(everything)
    assert np.abs(apart).mean() < 1.5


def test_tiles_that_fail_stay_black_and_spoil_no_fit(slide: ArraySlide) -> None:
    grid = grid_over(slide, "reinhard")
    whole = pixels(read_tiles(slide, grid))
    chosen = np.linspace(0, len(grid) - 1, SAMPLE_TILES).round().astype(int)
    bad = sorted(set(range(len(grid))) - set(chosen.tolist()))[40]  # one that is not in the sample
    slide.broken = [grid.region(int(grid.cells[bad]))]
    batches = list(read_tiles(slide, grid))
    status, read = np.concatenate([b.status for b in batches]), np.concatenate([b.pixels for b in batches])
    assert np.flatnonzero(status == READ_FAILED).tolist() == [bad] and not read[bad].any()
    assert np.array_equal(np.delete(read, bad, 0), np.delete(whole, bad, 0))
    slide.broken = [grid.region(int(grid.cells[chosen[5]]))]
    assert len(sampled_pixels(slide, grid)) == (SAMPLE_TILES - 1) * grid.spec.size_px**2
    slide.broken = [Region(0, 0, *slide.size)]
    with pytest.raises(SlideUnreadable, match="none of the 128 tiles"):
        sampled_pixels(slide, grid)


def test_a_slide_that_cannot_be_normalised_is_refused_by_name(slide: ArraySlide) -> None:
    dark = ArraySlide(255 - section(), 0.5)
    dark.pixels[80:720, 80:1040] //= 8
    dark.pixels[300:330, 300:500, 2] = 200
    grey = ArraySlide(np.repeat(section().mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2), 0.5)
    for other, why in ((dark, "its background is dark"), (grey, "degrees apart")):
        with pytest.raises(StainsUnfit, match=rf"^array: its stains .*{why}.*--stain none\.$"):
            next(read_tiles(other, grid_over(other, "macenko")))
        next(read_tiles(other, grid_over(other, "none")))


def test_without_tissue_there_is_nothing_to_fit(slide: ArraySlide) -> None:
    grid = TileGrid.over(slide, TissueMask(np.zeros((10, 14), bool), 80.0), TileSpec(32, stain="macenko"))
    assert fitted_normaliser(slide, grid) is None and list(read_tiles(slide, grid)) == []


def test_a_normaliser_of_another_method_than_the_grid_says_is_refused(slide: ArraySlide) -> None:
    normaliser = fitted_normaliser(slide, grid_over(slide, "macenko"))
    with pytest.raises(ValueError, match="asks for stain 'none', the normaliser does 'macenko'"):
        read_tiles(slide, grid_over(slide, "none"), normaliser=normaliser)
    own = StainNormaliser("macenko", target=section()).fit(section())
    with pytest.raises(ValueError, match="a target of its own"):
        read_tiles(slide, grid_over(slide, "macenko"), normaliser=own)


def test_the_reader_process_gives_the_same_and_says_no_before_any_tile(tmp_path: Path) -> None:
    good = aperio_svs(tmp_path / "good.svs", section())
    brown = section()
    brown[80:720, 80:1040] = stained(np.array([[0.27, 0.57, 0.78], [0.3, 0.5, 0.8]]), amounts((640, 960)), GLASS)
    bad = aperio_svs(tmp_path / "brown.svs", brown)
    wanted = Preparation(TissueConfig(), TileSpec(64, stain="macenko"))
    with ReaderProcess(ReaderConfig()) as reader:
        reader.open(good)
        grid = reader.prepare(wanted).grid
        there = np.concatenate([b.pixels.copy() for b in reader.tiles(16)])
        resumed = np.concatenate([b.pixels.copy() for b in reader.tiles(8, start=16)])
        reader.open(bad)
        with pytest.raises(StainsUnfit, match=r"brown\.svs: its stains cannot be normalised") as refused:
            reader.prepare(wanted)
    assert refused.value.code == "stains_unfit" and refused.value.hint.endswith("--stain none.")
    with open_slide(good) as slide:
        here = TileGrid.over(slide, detect_tissue(slide), wanted.tile)
        assert np.array_equal(here.keep, grid.keep) and len(grid) > 60
        assert np.array_equal(pixels(read_tiles(slide, here)), there)
    assert np.array_equal(there[16:], resumed)
