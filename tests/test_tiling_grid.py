"""The lattice: where tiles lie and how much tissue each holds, against brute force and numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tiling.grid import TileGrid, TileSpec, TissueMask
from wsi.errors import MppTooCoarse
from wsi.geometry import Region


def slide(width: int, height: int, mpp: float = 0.5, x: int = 0, y: int = 0) -> SimpleNamespace:
    return SimpleNamespace(mpp=mpp, bounds=Region(x, y, width, height), path="slide.svs")


def full(px: float = 16.0, shape: tuple[int, int] = (100, 100)) -> TissueMask:
    return TissueMask(np.ones(shape, bool), px)


def as_array(*regions: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(regions, np.int64)


# Fractions


def test_fraction_equals_brute_force_over_single_pixels():
    rng = np.random.default_rng(4)
    mask = TissueMask(rng.random((9, 13)) > 0.4, 8.0, (5, -3))
    level0 = np.zeros((200, 200))  # level-0 px, from (-50, -50)
    fine = mask.inside.repeat(8, 0).repeat(8, 1)
    level0[47 : 47 + 72, 55 : 55 + 104] = fine
    regions = np.column_stack([rng.integers(-40, 100, (300, 2)), rng.integers(1, 40, (300, 2))])
    expected = [level0[50 + y : 50 + y + h, 50 + x : 50 + x + w].mean() for x, y, w, h in regions]
    np.testing.assert_allclose(mask.fraction(regions), expected, atol=1e-6)


def test_fraction_by_hand():
    # Mask px of 10 level-0 px; the left column is tissue:  #.
    #                                                       #.
    mask = TissueMask(np.array([[1, 0], [1, 0]], bool), 10.0)
    regions = as_array((0, 0, 10, 10), (5, 0, 10, 10), (10, 0, 10, 10), (-10, 0, 20, 10), (2, 3, 5, 5), (0, 0, 40, 20))
    np.testing.assert_allclose(mask.fraction(regions), [1, 0.5, 0, 0.5, 1, 0.25])


def test_fraction_with_a_mask_pixel_that_is_no_whole_number_of_level0_pixels():
    mask = TissueMask(np.array([[1, 0]], bool), 16.0645)
    assert mask.fraction(as_array((0, 0, 32, 16)))[0] == pytest.approx(16.0645 / 32)


def test_fraction_counts_from_the_origin_of_the_mask():
    mask = TissueMask(np.array([[1, 0]], bool), 10.0, (100, 200))
    np.testing.assert_allclose(
        mask.fraction(as_array((100, 200, 10, 10), (0, 0, 10, 10), (105, 205, 10, 5))), [1, 0, 0.5]
    )


def test_fraction_of_a_one_pixel_mask():
    assert full(10.0, (1, 1)).fraction(as_array((0, 0, 10, 10), (0, 0, 20, 20))).tolist() == [1.0, 0.25]


# The lattice


@pytest.mark.parametrize("mpp", [0.2325, 0.25, 0.265, 0.31, 0.388, 0.4994, 0.5])
def test_a_tile_covers_the_same_tissue_on_every_scanner(mpp: float):
    grid = TileGrid.over(slide(5000, 5000, mpp), full(40), TileSpec(224, 0.5))
    assert grid.span_px * mpp == pytest.approx(112, rel=0.005)


def test_tiles_touch_and_cover_the_slide():
    grid = TileGrid.over(slide(1000, 450), full(), TileSpec(224, 0.5, min_tissue=0))
    assert grid.keep.shape == (3, 5)  # 450 / 224 = 2.01, 1000 / 224 = 4.46: the last of each reaches beyond the slide
    covered = np.zeros((3 * 224, 5 * 224), int)
    for cell in grid.cells:
        r = grid.region(int(cell))
        covered[r.y : r.bottom, r.x : r.right] += 1
    assert (covered == 1).all()


def test_coords_by_hand():
    grid = TileGrid.over(slide(30, 20, x=7, y=9), full(1.0), TileSpec(10, 0.5, min_tissue=0))
    expected = [(7, 9), (17, 9), (27, 9), (7, 19), (17, 19), (27, 19)]
    assert [tuple(c) for c in grid.coords.tolist()] == expected
    assert grid.region(4) == Region(17, 19, 10, 10)


def test_overlapping_strides():
    grid = TileGrid.over(slide(400, 224), full(), TileSpec(224, 0.5, stride_px=112, min_tissue=0))
    assert (grid.span_px, grid.stride_px, grid.keep.shape) == (224, 112, (2, 4))
    assert grid.region(1) == Region(112, 0, 224, 224)


def test_strides_scale_with_the_slide():
    grid = TileGrid.over(slide(4000, 4000, 0.25), full(40), TileSpec(224, 0.5, stride_px=100))
    assert (grid.span_px, grid.stride_px) == (448, 200)


def test_cells_at_the_edge_count_what_is_beyond_as_no_tissue():
    # 336 px wide: the second tile of 224 has 112 px of slide, all tissue: half.
    mask = TissueMask(np.ones((14, 21), bool), 16.0)
    grid = TileGrid.over(slide(336, 224), mask, TileSpec(224, 0.5))
    np.testing.assert_allclose(grid.tissue_fraction, [1, 0.5])
    assert len(TileGrid.over(slide(336, 224), mask, TileSpec(224, 0.5, min_tissue=0.51))) == 1


def test_min_tissue_keeps_cells_in_row_major_order():
    inside = np.zeros((4, 4), bool)
    inside[0, 1] = inside[2:, :2] = inside[3, 3] = True  # of four 2 x 2 cells: 1/4, 0, 1, 1/4
    grid = TileGrid.over(slide(8, 8), TissueMask(inside, 2.0), TileSpec(4, 0.5, min_tissue=0.25))
    assert grid.cells.tolist() == [0, 2, 3]
    assert grid.tissue_fraction.tolist() == [0.25, 1.0, 0.25]


def test_no_tissue_is_an_empty_grid():
    grid = TileGrid.over(slide(1000, 1000), TissueMask(np.zeros((10, 10), bool), 100.0), TileSpec())
    assert len(grid) == 0
    assert grid.coords.shape == (0, 2)
    assert np.isnan(grid.paint(np.zeros(0))).all()


def test_paint_lays_values_where_their_cells_are():
    keep = np.array([[0, 1, 0], [1, 0, 1]], bool)
    grid = TileGrid(TileSpec(), (0, 0), 10, 10, keep, np.ones(3, np.float32))
    image = grid.paint(np.array([5, 6, 7]))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, [[np.nan, 5, np.nan], [6, np.nan, 7]])


def test_paint_refuses_the_wrong_number_of_values():
    grid = TileGrid(TileSpec(), (0, 0), 10, 10, np.array([[1, 1]], bool), np.ones(2, np.float32))
    with pytest.raises(ValueError):
        grid.paint(np.zeros(3))


# What is refused


def test_a_slide_coarser_than_the_tiles_is_refused_by_name():
    with pytest.raises(MppTooCoarse) as refused:
        TileGrid.over(slide(1000, 1000, mpp=1.0), full(), TileSpec(224, 0.5))
    assert "slide.svs" in str(refused.value)
    assert refused.value.facts["mpp"] == 1.0


def test_a_slide_a_little_coarser_is_taken():
    assert TileGrid.over(slide(1000, 1000, mpp=0.52), full(), TileSpec(224, 0.5)).span_px == 215


@pytest.mark.parametrize(
    "wrong",
    [{"size_px": 0}, {"mpp": 0}, {"stride_px": 0}, {"min_tissue": 1.1}, {"min_tissue": -0.1}, {"max_upsample": 0.9}],
)
def test_impossible_specs_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError):
        TileSpec(**wrong)  # type: ignore[arg-type]


def test_a_tile_is_at_least_one_pixel_of_the_slide():
    """Where enlarging is allowed without measure a tile may be less than half a pixel, which is rounded to none."""
    grid = TileGrid.over(slide(20, 10, mpp=8.0), full(1.0), TileSpec(size_px=4, mpp=0.5, max_upsample=100))
    assert (grid.span_px, grid.stride_px) == (1, 1)
    assert grid.keep.shape == (10, 20)
