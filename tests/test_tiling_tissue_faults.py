"""What must not be taken for tissue: noise, pen, borders, dust; and what is not brightfield at all."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fakes import ArraySlide
from tissue_samples import MPP, PINK, Image, dice, glass, stroke, tissue

from tiling import TissueConfig, detect_tissue, segment_tissue
from tiling.tissue import brightfield


@pytest.mark.parametrize(
    "image",
    [
        *(np.full((80, 90, 3), colour, np.uint8) for colour in (255, 240, 128, 0)),
        np.full((80, 90, 3), PINK, np.uint8),
        *(glass(noise=noise) for noise in (1, 6, 15)),
        glass((205, 200, 208), noise=5),
        glass((128, 128, 128), noise=40),
        np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
    ids=[
        "white",
        "glass",
        "grey",
        "black",
        "pink",
        "noise 1",
        "noise 6",
        "noise 15",
        "grey glass",
        "coarse noise",
        "random",
        "nothing",
    ],
)
def test_there_is_no_tissue_in(image: Image):
    found = segment_tissue(image, MPP)
    assert found.shape == image.shape[:2]
    assert not found.any()


@pytest.mark.parametrize(
    "colour",
    [(35, 65, 180), (40, 45, 110), (25, 140, 70), (205, 25, 35), (25, 25, 28)],
    ids=["blue", "navy", "green", "red", "black"],
)
def test_pen_is_not_tissue(colour: tuple[int, int, int]):
    image, inside = tissue()
    marked = stroke(image, colour, [(15, 20), (120, 15), (240, 30), (245, 180)])
    assert dice(segment_tissue(marked, MPP), inside) > 0.97
    alone = stroke(glass(), colour, [(15, 20), (120, 90), (240, 30)])
    assert not segment_tissue(alone, MPP).any()
    across = segment_tissue(stroke(image, colour, [(10, 100), (130, 100), (130, 10)], 16), MPP)
    assert (across & ~inside).sum() < 0.02 * inside.sum()  # of 3,000 px of ink on glass
    assert across[inside].mean() > 0.75  # the ink covers 0.16 of it


def test_threads_that_hang_from_tissue_are_not_tissue():
    image, inside = tissue()
    cv2.line(image, (20, 100), (60, 100), PINK, 1)
    found = segment_tissue(image, MPP)
    assert not found[95:106, 20:45].any()
    assert dice(found, inside) > 0.97


@pytest.mark.parametrize("level", [0, 12, 40])
def test_a_black_border_is_not_tissue(level: int):
    image, inside = tissue()
    bordered = np.pad(image, ((20, 30), (40, 10), (0, 0)), constant_values=level)
    bordered = np.clip(bordered + np.random.default_rng(1).normal(0, 2, bordered.shape), 0, 255).astype(np.uint8)
    assert dice(segment_tissue(bordered, MPP), np.pad(inside, ((20, 30), (40, 10)))) > 0.97


def test_areas_that_were_not_scanned_are_not_tissue_nor_the_glass():
    image, inside = tissue()
    image[:40] = image[:, :45] = 255
    inside[:40] = inside[:, :45] = False
    assert dice(segment_tissue(image, MPP), inside) > 0.97


def test_dust_hairs_and_shadows_are_not_tissue():
    image = glass()
    cv2.line(image, (20, 20), (230, 60), (90, 90, 92), 2)
    cv2.circle(image, (60, 140), 9, (70, 68, 70), -1)
    shadow = np.zeros(image.shape[:2])
    cv2.circle(shadow, (170, 140), 40, 1.0, -1)
    image = (image * (1 - 0.15 * cv2.GaussianBlur(shadow, (0, 0), 12)[..., None])).astype(np.uint8)
    assert not segment_tissue(image, MPP).any()


# Light on dark


def test_fluorescence_is_told_apart_and_its_signal_found():
    image = np.zeros((200, 260, 3), np.uint8)
    rng = np.random.default_rng(3)
    nuclei = np.column_stack([rng.integers(60, 200, 900), rng.integers(50, 150, 900)])
    image[nuclei[:, 1], nuclei[:, 0], 2] = 220
    assert not brightfield(image)
    expected = np.zeros((200, 260), bool)
    expected[50:150, 60:200] = True
    assert dice(segment_tissue(image, MPP), expected) > 0.9


def test_stained_sections_are_brightfield():
    image, _ = tissue((85, 55, 110))
    assert brightfield(image)
    assert brightfield(np.full((50, 50, 3), (60, 32, 70), np.uint8))  # a dense lymph node
    assert brightfield(np.pad(image, ((200, 200), (100, 100), (0, 0))))  # more border than slide


def test_white_beyond_the_slide_is_no_signal():
    image = np.zeros((204, 300, 3), np.uint8)  # 25.5 x 37.5 overview pixels
    image[80:160, 80:160, 2] = 200
    slide = ArraySlide(image, 1.0)
    slide.overview = lambda mpp: (np.pad(image, ((0, 4), (0, 4), (0, 0)), constant_values=255)[4::8, 4::8], 8.0)  # type: ignore[method-assign]
    mask = detect_tissue(slide, TissueConfig(min_piece_um2=0))
    assert mask.inside.shape == (26, 38)
    assert mask.inside[15, 15]
    assert not mask.inside[:, -2:].any() and not mask.inside[-2:].any()
