"""What a read covers: physical field of view, levels, padding and blocks, on slides that are formulas."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from slides import FormulaReader, aperio_svs, measure, noise, ruler, ruler_pyramid

from wsi import Region, Size, Slide, open_slide
from wsi.errors import SlideImplausible, UsageError
from wsi.geometry import pixels_along, round_px

ODD_PYRAMID = (Size(79_990, 40_000), Size(19_999, 10_001), Size(5_000, 2_500))  # 3.9997/3.9996, 15.998/16.0
FINE_PYRAMID = (Size(19_999, 30_000), Size(5_000, 7_500), Size(1_250, 1_875))  # 3.9998/4.0, 15.9992/16.0
EVEN = (Size(4096, 2048), Size(2048, 1024), Size(1024, 512))


def formula_slide(sizes: tuple[Size, ...], *, period: float = 64, mpp: float = 0.25, bounds: Region | None = None):
    reader = FormulaReader(sizes, ruler_pyramid(sizes, period), {"openslide.mpp-x": str(mpp)}, bounds)
    return Slide(Path("formula"), reader), reader


def noise_slide(sizes: tuple[Size, ...]):
    levels = [noise(size.height, size.width, seed=i) for i, size in enumerate(sizes)]
    reader = FormulaReader(sizes, lambda level, box: levels[level][box.y : box.bottom, box.x : box.right])
    return Slide(Path("noise"), reader), reader, levels


def regions_over(slide: Slide, span: int) -> list[Region]:
    """Corners, edges and the middle, at positions that are no multiples of anything."""
    xs = (0, 1_237, slide.size.width - span)
    ys = (slide.size.height // 2 + 13, 2_111, slide.size.height - span)
    return [Region(x, y, span, span) for x, y in zip(xs, ys, strict=True)]


@pytest.mark.parametrize("mpp", [0.2325, 0.265, 0.2999, 0.31, 0.388, 0.5])
@pytest.mark.parametrize("sizes", [(Size(20_011, 10_007),), FINE_PYRAMID], ids=["flat", "pyramid"])
def test_every_tile_covers_its_field_of_view(mpp: float, sizes: tuple[Size, ...]) -> None:
    """224 px at 0.5 um show 112 um on any scanner: measured on a ruler of 16 um waves, whatever the code computed."""
    slide, _ = formula_slide(sizes, period=16 / mpp, mpp=mpp)
    span = round_px(224 * 0.5 / slide.mpp)
    for region in regions_over(slide, span):
        tile = slide.read(region, Size(224, 224)).astype(float)
        for line, start in ((tile[100, :, 0], region.x), (tile[:, 100, 1], region.y)):
            period, position = measure(line, near=32)
            covered = 224 / period * 16
            assert abs(covered / 112 - 1) < 0.005
            off = (position + start * mpp / 0.5 + 16) % 32 - 16  # of the wave's start, in tile pixels
            assert abs(off) < 0.1


@pytest.mark.parametrize(
    ("sizes", "mpp", "target", "level"),
    [
        (FINE_PYRAMID, 0.125, 0.5, 1),
        (FINE_PYRAMID, 0.1163, 0.5, 1),
        (FINE_PYRAMID, 0.25, 1.0, 1),
        (ODD_PYRAMID, 0.25, 4.0, 2),
        (ODD_PYRAMID, 0.2325, 4.0, 2),
        (ODD_PYRAMID, 0.25, 1.5, 1),
    ],
)
def test_odd_pyramids_keep_the_field_of_view(sizes: tuple[Size, ...], mpp: float, target: float, level: int) -> None:
    """Levels at 3.9998 and 15.998 are used for what they are, neither taken for 3 and 15 nor passed over."""
    slide, reader = formula_slide(sizes, period=32 * target / mpp, mpp=mpp)
    span = round_px(224 * target / mpp)
    for region in regions_over(slide, span):
        tile = slide.read(region, Size(224, 224)).astype(float)
        assert reader.asked[-1][0] == level
        for line, start in ((tile[100, :, 0], region.x), (tile[:, 100, 1], region.y)):
            period, position = measure(line, near=32)
            assert abs(32 / period - 1) < 0.005
            off = (position + start * mpp / target + 16) % 32 - 16
            assert abs(off) < 0.65  # half a level pixel, and what a span rounded by half a pixel adds


def test_real_file_with_ratio_3_9998(tmp_path: Path) -> None:
    """The same through a library and a file: 19,999 px against 5,000."""
    sizes = (Size(19_999, 256), Size(5_000, 64))
    levels = [ruler(s, Region(0, 0, *s), (256 * s.width / 19_999, 256)) for s in sizes]
    path = aperio_svs(tmp_path / "ruler.svs", levels[0], levels[1:], mpp=0.125, compression="deflate")
    for reader in ("openslide", "tiffslide"):
        with open_slide(path, reader=reader) as slide:
            assert slide.levels[1].downsample_x == 19_999 / 5_000
            for x in (0, 9_001, 19_999 - 896):
                tile = slide.read(Region(x, 0, 896, 256), Size(224, 64)).astype(float)
                period, position = measure(tile[30, :, 0], near=64)
                assert abs(64 / period - 1) < 0.005
                assert abs((position + x / 4 + 32) % 64 - 32) < 0.65


def test_read_many_equals_single_reads_bit_for_bit() -> None:
    slide, reader, _ = noise_slide((Size(1999, 1501), Size(500, 375)))
    for span, size in ((97, 97), (224, 97), (448, 224), (896, 224), (901, 224), (883, 224)):
        regions = [Region(x, y, span, span) for y in range(-100, 1600, span) for x in range(-100, 2100, span)]
        reader.asked.clear()
        together, padded = slide.read_many(regions, Size(size, size))
        assert len(reader.asked) == 1
        alone = [slide.read(region, Size(size, size)) for region in regions]
        np.testing.assert_array_equal(together, alone)
        inside = [r.x >= 0 and r.y >= 0 and r.right <= 1999 and r.bottom <= 1501 for r in regions]
        np.testing.assert_array_equal(padded, np.logical_not(inside))


def test_same_scale_is_a_copy() -> None:
    slide, _, levels = noise_slide(EVEN)
    np.testing.assert_array_equal(slide.read(Region(100, 200, 300, 50)), levels[0][200:250, 100:400])
    np.testing.assert_array_equal(slide.read(Region(400, 800, 800, 400), Size(200, 100)), levels[2][200:300, 100:300])


def test_half_scale_is_the_mean_of_four() -> None:
    slide, _, levels = noise_slide(EVEN[:1])
    block = levels[0][10:110, 20:220].astype(int)
    mean = (block[::2, ::2] + block[1::2, ::2] + block[::2, 1::2] + block[1::2, 1::2]) / 4
    assert np.abs(slide.read(Region(20, 10, 200, 100), Size(100, 50)) - mean).max() <= 0.5


def test_fractional_scale_is_the_exact_area_mean() -> None:
    """5 px to 3: each new pixel is 1 2/3 old ones. Worked out by hand for one row."""
    row = np.array([10, 20, 30, 40, 50], np.uint8)
    reader = FormulaReader((Size(5, 3),), lambda level, box: np.broadcast_to(row[:, None], (3, 5, 3)).copy())
    got = Slide(Path("row"), reader).read(Region(0, 0, 5, 3), Size(3, 3))
    # (10 + 2/3 20) / (5/3) = 14; (1/3 20 + 30 + 1/3 40) / (5/3) = 30; 46
    np.testing.assert_array_equal(got[1, :, 0], [14, 30, 46])


def test_beyond_the_slide_is_white_and_told() -> None:
    slide, _, levels = noise_slide((Size(300, 200),))
    pixels, padded = slide.read_many([Region(250, 150, 100, 100), Region(-100, -100, 100, 100)], Size(100, 100))
    np.testing.assert_array_equal(pixels[0][:50, :50], levels[0][150:, 250:])
    assert (pixels[0][50:] == 255).all() and (pixels[0][:, 50:] == 255).all()
    assert (pixels[1] == 255).all()
    assert padded.tolist() == [True, True]


def test_rounding_never_pads_what_lies_inside() -> None:
    """Halves round up: a region from 1,961 to 2,000 would end at 981 + 20 = 1,001 of a level of 1,000."""
    sizes = (Size(2_000, 2_000), Size(1_000, 1_000))
    reader = FormulaReader(sizes, lambda level, box: np.zeros((box.height, box.width, 3), np.uint8))
    slide = Slide(Path("black"), reader)
    for span in range(40, 120):
        pixels, padded = slide.read_many([Region(2_000 - span, 2_000 - span, span, span)], Size(span // 2, span // 2))
        assert reader.asked[-1][0] == 1
        assert pixels.max() == 0 and not padded.any()


def test_transparency_shows_white() -> None:
    colours = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    slide = Slide(Path("clear"), FormulaReader((Size(3, 1),), lambda level, box: colours))
    # a fifth of the colour and four fifths of white: 204 + 40, 204 + 20, 204
    expected = [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]
    np.testing.assert_array_equal(slide.read(Region(0, 0, 3, 1)), expected)


def test_a_level_one_percent_coarser_is_enlarged_and_no_other() -> None:
    slide, reader = formula_slide((Size(4000, 4000), Size(1000, 1000)))
    slide.read(Region(0, 0, 890, 890), Size(224, 224))  # 3.973: within 1 % of 4
    slide.read(Region(0, 0, 870, 870), Size(224, 224))  # 3.884
    assert [level for level, _ in reader.asked] == [1, 0]


@pytest.mark.parametrize("max_px", [1, 7, 100, 1024, 10_000])
def test_thumbnail_fits_and_never_grows(max_px: int) -> None:
    slide, _ = formula_slide(EVEN, bounds=Region(1000, 500, 3000, 1000))
    height, width, _ = slide.thumbnail(max_px).shape
    assert width == min(max_px, 3000)
    assert height == max(1, round_px(width / 3))


def test_thumbnail_shows_the_bounds() -> None:
    """Blue rises down the whole slide; the bounds begin at a quarter and end at three quarters."""
    slide, _ = formula_slide(EVEN, bounds=Region(1024, 512, 1024, 1024))
    blue = slide.thumbnail(256)[..., 2].astype(float).mean(1)
    expected = 255 * (512 + 1024 * (np.arange(256) + 0.5) / 256) / 2048
    assert np.abs(blue - expected).max() < 1


@pytest.mark.parametrize("sizes", [(ODD_PYRAMID[0],), ODD_PYRAMID], ids=["flat", "pyramid"])
def test_large_slides_are_drawn_in_bounded_blocks(sizes: tuple[Size, ...]) -> None:
    slide, reader = formula_slide((Size(30_000, 30_000),) if len(sizes) == 1 else sizes, period=8_000)
    thumbnail = slide.thumbnail(300)
    assert max(box.width * box.height for _, box in reader.asked) <= 16_384 * 1_024 + 16_384 + 1_024
    scale = slide.bounds.width / thumbnail.shape[1]
    period, position = measure(thumbnail[50, :, 0].astype(float), near=8_000 / scale)
    assert abs(period * scale / 8_000 - 1) < 0.005
    assert abs(position) < 0.5


def test_one_pixel_larger_than_a_block_is_drawn_finer_first() -> None:
    slide, reader = formula_slide((Size(9_000, 9_000),), period=3_000)
    assert slide.thumbnail(3).shape == (3, 3, 3)
    assert max(box.width * box.height for _, box in reader.asked) <= 16_384 * 1_024
    assert np.abs(slide.thumbnail(3)[..., :2].astype(float) - 127.5).max() < 1  # whole waves average out


@pytest.mark.parametrize("mpp", [0.1, 1, 3.7, 8])
def test_overview_has_the_span_it_says(mpp: float) -> None:
    bounds = Region(3_000, 1_000, 5_001, 4_105)
    slide, _ = formula_slide(FINE_PYRAMID, period=1024, mpp=0.25, bounds=bounds)
    image, px = slide.overview(mpp)
    assert px == max(1.0, mpp / 0.25)
    assert image.shape == (int(np.ceil(4_105 / px)), int(np.ceil(5_001 / px)), 3)
    inside = image[: int(4_100 / px), : int(5_000 / px)].astype(float)
    for line, start in ((inside[20, :1500, 0], bounds.x), (inside[:1500, 20, 1], bounds.y)):
        period, position = measure(line, near=1024 / px)
        assert abs(period * px / 1024 - 1) < 0.005
        assert abs((position * px + start + 512) % 1024 - 512) < max(2.0, px)


def test_a_giant_overview_is_the_slides_fault_and_a_giant_thumbnail_the_callers() -> None:
    """2.5 um are a slip for 0.25: 31,250 x 25,000 px at 8 um, of a slide that says to be 25 x 20 cm."""
    slide, reader = formula_slide((Size(100_000, 80_000),), mpp=2.5)
    with pytest.raises(SlideImplausible, match=r"^formula: at its 2\.5 um .*31,250 x 25,000 px.*column `mpp`"):
        slide.overview(8.0)
    with pytest.raises(UsageError, match="pixels were asked for"):
        slide.thumbnail(30_000)
    assert not reader.asked


def test_levels_keep_exact_ratios() -> None:
    slide, _ = formula_slide(FINE_PYRAMID)
    assert [(level.downsample_x, level.downsample_y) for level in slide.levels] == [
        (1.0, 1.0),
        (19_999 / 5_000, 4.0),
        (19_999 / 1_250, 16.0),
    ]


def test_bounds_are_cut_to_the_slide() -> None:
    assert formula_slide(EVEN)[0].bounds == Region(0, 0, 4096, 2048)
    assert formula_slide(EVEN, bounds=Region(4000, 0, 1000, 10))[0].bounds == Region(4000, 0, 96, 10)


def test_mistaken_calls_are_refused() -> None:
    slide, reader = formula_slide((Size(30_000, 30_000),))
    with pytest.raises(ValueError, match="at least one pixel"):
        slide.read(Region(0, 0, 0, 10))
    with pytest.raises(ValueError, match="one width and height"):
        slide.read_many([Region(0, 0, 10, 10), Region(0, 0, 11, 11)], Size(5, 5))
    with pytest.raises(UsageError, match="900,000,000 pixels"):
        slide.read(Region(0, 0, 30_000, 30_000), Size(100, 100))
    assert not reader.asked


def test_slides_are_closed_and_never_copied() -> None:
    slide, reader = formula_slide(EVEN)
    with slide:
        for attempt in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match="send its path"):
                attempt(slide)
    assert reader.closed == 1


def test_a_region_holds_what_lies_wholly_inside_it() -> None:
    whole = Region(10, 10, 20, 20)
    assert whole.holds(whole) and whole.holds(Region(10, 29, 20, 1))
    for other in (Region(9, 10, 5, 5), Region(10, 9, 5, 5), Region(26, 10, 5, 5), Region(10, 26, 5, 5)):
        assert not whole.holds(other)


def test_pixels_along_a_length_fit_or_cover_it() -> None:
    assert pixels_along(80, 8.0) == (10, 10) and pixels_along(81, 8.0) == (10, 11) and pixels_along(3, 8.0) == (1, 1)
    assert pixels_along(30, 0.1 + 0.2) == (100, 100)  # 99.99999999999999
