"""Tissue against glass: synthetic slides with known masks, shapes drawn by hand, real slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import ArraySlide
from tissue_samples import GLASS, MPP, PINK, VIOLET, dice, glass, texture, tissue

from pipeline.synthetic.draw import draw
from pipeline.synthetic.recipe import recipe
from tiling import TissueMask, detect_tissue, segment_tissue
from wsi import open_slide

# Against the truth


@pytest.mark.parametrize(("seed", "pen"), [(3, None), (8, "green"), (11, "blue")])
def test_synthetic_slides_agree_with_their_true_masks(seed: int, pen: str | None):
    drawn = draw(recipe(seed, width_um=1200.0, height_um=900.0, mpp=1.0, pen=pen))
    mask = detect_tissue(ArraySlide(drawn.pixels, drawn.mpp))
    truth = drawn.tissue[: 900 // drawn.mask_px, : 1200 // drawn.mask_px]
    found = cv2.resize(mask.inside.astype(np.uint8), truth.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    seen = drawn.regions[: truth.shape[0], : truth.shape[1]] != 8  # under the pen nothing can be known
    assert dice(found & seen, truth & seen) > 0.95
    on_glass = ~truth & ~seen
    assert (found & on_glass).sum() <= 0.25 * on_glass.sum()


@pytest.mark.parametrize(
    "stain",
    [PINK, VIOLET, (190, 170, 150), (130, 95, 70), (160, 172, 205), (85, 55, 110)],
    ids=["eosin", "haematoxylin", "faint DAB", "DAB", "haematoxylin of IHC", "dense lymph node"],
)
def test_every_stain_is_tissue(stain: tuple[int, int, int]):
    image, inside = tissue(stain)
    assert dice(segment_tissue(image, MPP), inside) > 0.97


@pytest.mark.parametrize("on", [(255, 255, 255), (205, 200, 208), (242, 238, 215), (226, 221, 228), (172, 170, 174)])
def test_every_glass_is_glass(on: tuple[int, int, int]):
    image, inside = tissue(on=on)
    assert dice(segment_tissue(image, MPP), inside) > 0.97


@pytest.mark.parametrize("strength", [0.3, 0.15])
def test_faint_tissue_is_tissue(strength: float):
    image, inside = tissue(strength=strength)
    assert dice(segment_tissue(image, MPP), inside) > 0.95


def test_flat_colour_on_white_is_tissue():
    image = np.full((200, 260, 3), 255, np.uint8)
    image[50:150, 60:200] = (225, 200, 220)
    expected = np.zeros((200, 260), bool)
    expected[50:150, 60:200] = True
    assert dice(segment_tissue(image, MPP), expected) > 0.99


def test_grey_mixtures_of_brown_and_blue_belong_to_the_tissue_around_them():
    brown, inside = tissue((150, 115, 90))
    mixed, _ = tissue((140, 132, 130))
    right = np.arange(brown.shape[1])[:, None] > 130
    assert dice(segment_tissue(np.where(right, mixed, brown), MPP), inside) > 0.97


@pytest.mark.parametrize(("membrane", "least"), [((210, 175, 200), 0.98), ((228, 205, 222), 0.93)])
def test_fat_is_closed_in_by_its_membranes(membrane: tuple[int, int, int], least: float):
    image = glass()
    for y in range(40, 160, 10):  # droplets of 80 um, a membrane of one pixel between them
        for x in range(50, 210, 10):
            cv2.rectangle(image, (x, y), (x + 10, y + 10), membrane, 1)
    expected = np.zeros(image.shape[:2], bool)
    expected[40:161, 50:211] = True
    assert dice(segment_tissue(image, MPP), expected) > least


def test_a_field_of_tissue_has_no_glass_invented_in_it():
    rng = np.random.default_rng(0)
    amount = np.clip(1 + 2 * texture(1, (120, 120)), 0.3, None)[..., None]
    field = np.clip(240 * np.exp(-np.array([0.2, 0.6, 0.35]) * amount) + rng.normal(0, 1, (120, 120, 3)), 0, 255)
    assert segment_tissue(field.astype(np.uint8), MPP).all()


def test_tissue_at_the_frame_reaches_the_frame():
    image, _ = tissue()
    cut = np.ascontiguousarray(image[60:140, 80:180])
    inside = segment_tissue(cut, MPP)
    assert inside[0, 50] and inside[-1, 50] and inside[40, 0] and inside[40, -1]


def test_small_holes_are_filled_and_large_ones_left():
    image, _ = tissue()
    for centre, radius in [((95, 100), 10), ((165, 100), 30)]:  # discs of 160 and 480 um
        cv2.circle(image, centre, radius, GLASS, -1)
    found = segment_tissue(image, MPP)
    assert found[90:110, 85:105].all()
    assert not found[90:110, 155:175].any()


def test_specks_are_dropped_and_fragments_kept():
    image = glass()
    for centre, radius in [((60, 60), 8), ((180, 60), 18)]:  # discs of 128 and 288 um
        cv2.circle(image, centre, radius, PINK, -1)
    found = segment_tissue(image, MPP)
    assert not found[:, :120].any()
    assert found[60, 180]


# Real slides


def mask_of(path: Path, mpp: float | None = None) -> TissueMask:
    with open_slide(path, mpp=mpp) as slide:
        return detect_tissue(slide)


# Shares drawn from outlines checked by eye.
@pytest.mark.parametrize(
    ("name", "mpp", "share"),
    [
        ("CMU-1-Small-Region.svs", None, 0.405),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.5, 0.64),
        ("wsipacker_example.tif", None, 0.23),
        ("OS-1-detail.ome.tif", None, 1.0),
        ("histoprep_slide.jpeg", 0.5, 0.965),
        ("fluorescence_DAPI.ndpi", None, 0.83),
    ],
)
def test_real_slides(shared_data: Callable[[str], Path], name: str, mpp: float | None, share: float):
    assert mask_of(shared_data(f"slides/{name}"), mpp).inside.mean() == pytest.approx(share, abs=0.03)


def test_a_lymph_node_in_fat_on_grey_glass(shared_data: Callable[[str], Path]):
    """An overview at 29 um/px, coarser than any slide may be: the nodes are tissue, and most of the fat between."""
    with open_slide(shared_data("slides/camelyon_overview.dcm"), mpp=20.0) as slide:
        inside = segment_tissue(slide.read(slide.bounds), 28.97)
    assert inside.mean() == pytest.approx(0.40, abs=0.03)
    assert inside[100:600, 130:180].mean() > 0.99  # node
    assert inside[480:560, 310:400].mean() > 0.85 and inside[130:200, 345:420].mean() > 0.8  # fat
    assert inside[:40].mean() < 0.01 and inside[-40:].mean() < 0.01  # glass, with dust


def test_two_readers_of_one_slide_find_the_same_tissue(shared_data: Callable[[str], Path]):
    svs = mask_of(shared_data("slides/CMU-1-Small-Region.svs"))
    tiff = mask_of(shared_data("slides/CMU-1-Small-Region.jpeg.tiff"), 0.499)
    assert dice(svs.inside, tiff.inside) > 0.99


def test_real_places_by_hand(shared_data: Callable[[str], Path]):
    """Level-0 points of CMU-1-Small-Region: dermis, epidermis, follicle; glass left, right and between."""
    mask = mask_of(shared_data("slides/CMU-1-Small-Region.svs"))
    spots = np.array([[1000, 1500], [1150, 900], [1250, 2000], [300, 1700], [2000, 2000], [1750, 400]])
    fractions = mask.fraction(np.column_stack([spots - 20, np.full((6, 2), 40)]))
    np.testing.assert_array_equal(fractions, [1, 1, 1, 0, 0, 0])
