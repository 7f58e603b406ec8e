"""Overviews of damaged slides: what one level cannot give comes from a finer one, and what none can is told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from slides import aperio_svs, damage_tile

from wsi import open_slide
from wsi.errors import SlideUnreadable

READERS = ("fast", "openslide", "tiffslide")
FULL = cv2.resize(  # 20 px of one colour: any level's means are nearly those of another's
    np.random.default_rng(3).integers(30, 226, (128, 160, 3), dtype=np.uint8),
    (3200, 2560),
    interpolation=cv2.INTER_CUBIC,
)
QUARTER = np.ascontiguousarray(cv2.resize(FULL, (800, 640), interpolation=cv2.INTER_AREA))
LEVEL_1 = 2  # the page behind the full image and the thumbnail


def slide_at(folder: Path, *damaged: tuple[int, int]) -> Path:
    """0.5 um/px with a level of 4 x 3 tiles of 256 px at 2 um/px; `damaged` are tiles and pages."""
    path = aperio_svs(folder / "slide.svs", FULL, [QUARTER], compression="deflate")
    for tile, page in damaged:
        damage_tile(path, tile, page)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    with open_slide(slide_at(tmp_path_factory.mktemp("sound"))) as slide:
        return slide.overview(4.0)[0]


@pytest.mark.parametrize("reader", READERS[1:])
def test_a_damaged_tile_is_drawn_from_a_finer_level(reader: str, sound: np.ndarray, tmp_path: Path) -> None:
    with open_slide(slide_at(tmp_path, (5, LEVEL_1)), reader=reader) as slide:
        drawn, _ = slide.overview(4.0)
        assert slide.warnings == ()
        assert slide.thumbnail(400).shape == (320, 400, 3)
    apart = np.abs(drawn.astype(int) - sound).max(axis=2)
    assert drawn.shape == sound.shape == (320, 400, 3)
    assert apart.max() <= 2  # level 1 is itself a mean, rounded
    assert apart[128:256, 128:256].any()  # tile 5: row 1, column 1, of 128 px drawn
    assert (
        not apart[:80].any() and not apart[:, :100].any() and not apart[:, 300:].any()
    )  # parts that it does not touch


def test_what_no_level_has_is_white_and_told(sound: np.ndarray, tmp_path: Path) -> None:
    path = slide_at(tmp_path, (5, LEVEL_1), (57, 0))  # tile 57 of level 0: row 4, column 5, within tile 5 of level 1
    with open_slide(path) as slide:
        drawn, _ = slide.overview(4.0)
        assert [w.split("% ")[1] for w in slide.warnings] == [
            "of the overview cannot be decoded at any level: it is drawn white."
        ]
        share = float(slide.warnings[0].split("%")[0])
    white = (drawn == 255).all(axis=2)
    assert white[128:160, 160:192].all() and white.sum() == white[120:168, 152:200].sum()  # and what shares its parts
    assert share == pytest.approx(100 * white.mean(), abs=0.01) and share < 1.5
    assert np.abs(drawn.astype(int) - sound).max(axis=2)[~white].max() <= 2


def test_a_slide_that_is_mostly_lost_is_refused_by_its_first_fault(tmp_path: Path) -> None:
    lost = [(tile, 0) for tile in range(12 * 4)]  # of 10 rows of 13
    path = slide_at(tmp_path, *lost, *((tile, LEVEL_1) for tile in range(12)))
    with open_slide(path, reader="openslide") as slide, pytest.raises(SlideUnreadable, match="level 1"):
        slide.overview(4.0)


def test_jpeg_slides_by_the_fast_reader_too(tmp_path: Path) -> None:
    path = aperio_svs(tmp_path / "slide.svs", FULL, [QUARTER], compression="jpeg")
    with open_slide(path, reader="fast") as slide:
        sound, _ = slide.overview(4.0)
    damage_tile(path, 5, LEVEL_1)
    with open_slide(path, reader="fast") as slide:
        drawn, _ = slide.overview(4.0)
        assert slide.warnings == ()
    apart = np.abs(drawn.astype(int) - sound).mean(axis=2)
    assert not apart[:80].any() and 0 < apart[128:256, 128:256].mean() < 6
