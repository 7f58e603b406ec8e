"""The SVS writer, against two readers that know nothing of it and against a scanner's own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsi.errors import StorageError
from wsi.svs import SvsSpec, write_svs

WIDTH, HEIGHT = 1103, 805  # no multiple of a tile, nor of 16


def soft_picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Slow waves of colour that JPEG keeps within a few grey levels, unlike in x and y."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 61), np.cos(y / 47), np.sin((x + 2 * y) / 83)]
    return np.stack([(150 + 90 * wave) for wave in waves], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return soft_picture()


@pytest.fixture(scope="module")
def slide_path(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("svs") / "case.svs"
    write_svs(path, picture, SvsSpec(mpp=0.499, name="S001"))
    return path


@pytest.fixture(params=["openslide", "tiffslide"])
def reader(request: pytest.FixtureRequest, slide_path: Path) -> Any:
    opened = {"openslide": openslide.OpenSlide, "tiffslide": tiffslide.TiffSlide}[request.param](str(slide_path))
    yield opened
    opened.close()


def block_means(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Area reduction where blocks fit exactly: the plain mean of each block."""
    h, w = pixels.shape[0] // factor, pixels.shape[1] // factor
    return pixels[: h * factor, : w * factor].reshape(h, factor, w, factor, 3).mean(axis=(1, 3))


def test_both_readers_see_the_pyramid(reader: Any) -> None:
    assert reader.dimensions == (WIDTH, HEIGHT)
    assert tuple(reader.level_dimensions) == ((1103, 805), (275, 201), (68, 50))
    assert reader.level_downsamples == pytest.approx((1, (1103 / 275 + 805 / 201) / 2, (1103 / 68 + 805 / 50) / 2))


def test_both_readers_see_vendor_scale_and_power(reader: Any) -> None:
    prefix = "openslide" if isinstance(reader, openslide.OpenSlide) else "tiffslide"
    properties = reader.properties
    assert properties[f"{prefix}.vendor"] == "aperio"
    assert float(properties[f"{prefix}.mpp-x"]) == float(properties[f"{prefix}.mpp-y"]) == 0.499
    assert float(properties[f"{prefix}.objective-power"]) == 20
    assert str(properties["aperio.AppMag"]) == "20" and float(properties["aperio.MPP"]) == 0.499
    assert properties["aperio.Filename"] == "S001"


def test_both_readers_see_the_associated_images(reader: Any) -> None:
    assert sorted(reader.associated_images) == ["label", "macro", "thumbnail"]
    thumbnail = np.asarray(reader.associated_images["thumbnail"].convert("RGB"))
    assert thumbnail.shape == (374, 512, 3)
    assert reader.associated_images["label"].size == (280, 280)
    assert reader.associated_images["macro"].size == (840, 280)


def test_pixels_come_back(reader: Any, picture: np.ndarray) -> None:
    got = np.asarray(reader.read_region((0, 0), 0, (WIDTH, HEIGHT)).convert("RGB")).astype(float)
    assert np.abs(got - picture).mean() < 1.5
    assert np.abs(got - picture).max() < 25


def test_a_region_lies_where_it_was_drawn(reader: Any, picture: np.ndarray) -> None:
    got = np.asarray(reader.read_region((517, 333), 0, (200, 150)).convert("RGB")).astype(float)
    assert np.abs(got - picture[333:483, 517:717]).mean() < 1.5
    assert np.abs(got - picture[338:488, 517:717]).mean() > 3  # five rows further down is another picture


@pytest.mark.parametrize(("level", "factor"), [(1, 4), (2, 16)])
def test_levels_are_area_means(level: int, factor: int, tmp_path: Path) -> None:
    grain = np.random.default_rng(1).integers(-40, 41, (800, 960, 1))
    picture = (soft_picture(960, 800) * 0.5 + 60 + grain).astype(np.uint8)
    write_svs(tmp_path / "even.svs", picture, SvsSpec(quality=95))
    with openslide.OpenSlide(tmp_path / "even.svs") as slide:
        got = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))
    expected = block_means(picture, factor)
    assert got.shape == expected.shape
    luma = np.array([0.299, 0.587, 0.114])  # the chroma is kept at half resolution
    assert np.abs(got @ luma - expected @ luma).mean() < 3  # single pixels would be 20 off


def test_pages_are_in_a_scanner_s_order(slide_path: Path, shared_data: Callable[[str], Path]) -> None:
    with tifffile.TiffFile(slide_path) as ours:
        assert [page.is_tiled for page in ours.pages] == [True, False, True, True, False, False]
        mine = [ours.pages[i] for i in (0, 1, 4, 5)]
        with tifffile.TiffFile(shared_data("slides/CMU-1-Small-Region.svs")) as real:  # one level only
            assert [p.subfiletype for p in mine] == [p.subfiletype for p in real.pages]
            assert [p.description.split()[0] for p in mine] == [p.description.split()[0] for p in real.pages]
            second = [p.description.split("\n")[1].split()[0] for p in (*mine[2:], *real.pages[2:])]
    assert second == ["label", "macro", "label", "macro"]


def test_tiles_are_jpeg_with_tables_kept_once(slide_path: Path) -> None:
    with tifffile.TiffFile(slide_path) as slide:
        page = slide.pages[0]
        assert (page.compression, page.photometric.name, page.tile) == (7, "YCBCR", (240, 240))
        assert page.tags["YCbCrSubSampling"].value == (2, 2)
        assert page.jpegtables[:2] == b"\xff\xd8" and b"\xff\xdb" in page.jpegtables and b"\xff\xc4" in page.jpegtables
        slide.filehandle.seek(page.dataoffsets[0])
        tile = slide.filehandle.read(page.databytecounts[0])
    assert tile[:2] == b"\xff\xd8" and b"\xff\xdb" not in tile[:64]  # no quantisation table of its own


def test_same_pixels_same_bytes(picture: np.ndarray, slide_path: Path, tmp_path: Path) -> None:
    write_svs(tmp_path / "again.svs", picture, SvsSpec(mpp=0.499, name="S001"))
    assert (tmp_path / "again.svs").read_bytes() == slide_path.read_bytes()


@pytest.mark.parametrize("mpp", [0.25, 0.2525, 0.2325, 0.265, 0.388, 0.499, 1 / 3])
def test_any_mpp_survives_exactly(mpp: float, tmp_path: Path) -> None:
    write_svs(tmp_path / "s.svs", soft_picture(64, 64), SvsSpec(mpp=mpp, objective_power=40))
    with openslide.OpenSlide(tmp_path / "s.svs") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == mpp
        assert slide.properties["openslide.objective-power"] == "40"


def test_mpp_is_written_as_scanners_do(slide_path: Path) -> None:
    with tifffile.TiffFile(slide_path) as slide:
        description = slide.pages[0].description
    assert description.startswith("Aperio ") and "|AppMag = 20|" in description and "|MPP = 0.4990|" in description


def test_tile_size_levels_and_quality_are_options(tmp_path: Path) -> None:
    sizes = {}
    for quality in (30, 90):
        path = tmp_path / f"{quality}.svs"
        write_svs(path, soft_picture(600, 500), SvsSpec(quality=quality, tile_px=256, downsamples=(1, 2)))
        sizes[quality] = path.stat().st_size
    with openslide.OpenSlide(tmp_path / "90.svs") as slide:
        assert slide.level_dimensions == ((600, 500), (300, 250))
        assert slide.properties["openslide.level[0].tile-width"] == "256"
    assert sizes[30] < sizes[90]


@pytest.mark.parametrize(
    "bad",
    [
        {"mpp": 0.0},
        {"quality": 0},
        {"tile_px": 250},
        {"tile_px": 0},
        {"downsamples": (2, 4)},
        {"downsamples": (1, 4, 4)},
    ],
)
def test_impossible_layouts_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        SvsSpec(**bad)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3)),
        np.zeros((8, 64, 3), np.uint8),
    ],
)
def test_pixels_of_another_kind_are_refused(pixels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be uint8|too few"):
        write_svs(tmp_path / "s.svs", pixels, SvsSpec())


def test_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_svs(tmp_path / "none" / "s.svs", soft_picture(64, 64), SvsSpec())
    assert "Choose another folder" in caught.value.hint
