"""The scale tissue is found at, and the settings it depends on."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from fakes import ArraySlide
from tissue_samples import GLASS, MPP, PINK, Image, dice, stroke, texture, tissue

from pipeline.synthetic.draw import draw
from pipeline.synthetic.recipe import recipe
from tiling import TissueConfig, detect_tissue, morphology, segment_tissue
from tiling.stain import Contrast, Looks, looks
from wsi.geometry import Region
from wsi.identity import digest


def shrink(image: Image, factor: int) -> Image:
    return np.asarray(cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA))


def test_the_mask_hardly_depends_on_the_scale_it_was_given():
    drawn = draw(recipe(5, width_um=960.0, height_um=720.0, mpp=1.0, pen=None))
    wanted = segment_tissue(shrink(drawn.pixels, 8), 8.0)
    for factor in (1, 2, 4):
        found = segment_tissue(shrink(drawn.pixels, factor), float(factor))
        assert found.shape == (720 // factor, 960 // factor)
        centres = slice(4 // factor, None, 8 // factor)
        assert dice(found[centres, centres], wanted) > 0.98


def test_strips_leave_no_seam(monkeypatch: pytest.MonkeyPatch):
    image, _ = tissue()
    contrast = Contrast(0.035, 0.03, 0.014)
    whole = looks(image, MPP, contrast)
    monkeypatch.setattr(morphology, "_STRIP_PX", 32)
    for field in dataclasses.fields(Looks):
        np.testing.assert_allclose(
            getattr(looks(image, MPP, contrast), field.name), getattr(whole, field.name), atol=1e-5
        )


def test_detection_happens_at_a_fixed_scale_within_the_bounds():
    image, _ = tissue()
    large = np.full((2000, 2400, 3), 255, np.uint8)
    large[300:1100, 500:1540] = image.repeat(4, 0).repeat(4, 1)  # at 2 um/px
    mask = detect_tissue(ArraySlide(large, 2.0, Region(500, 300, 1040, 800)))
    assert (mask.px, mask.origin, mask.inside.shape) == (4.0, (500, 300), (200, 260))
    np.testing.assert_array_equal(mask.inside, segment_tissue(image, MPP))


def test_a_coarse_slide_is_not_upsampled():
    image, inside = tissue()
    mask = detect_tissue(ArraySlide(image, 20.0))
    assert (mask.px, mask.inside.shape) == (1.0, image.shape[:2])
    assert dice(mask.inside, inside) > 0.97


OTHER: dict[str, float] = {
    "mpp": 24.0,
    "darkness": 0.4,
    "chroma": 0.6,
    "texture": 0.5,
    "close_um": 0.0,
    "max_hole_um2": 0.0,
    "min_piece_um2": 100_000.0,
    "min_coloured": 0.0,
    "drop_ink": False,
}


def varied() -> Image:
    """Something for every setting: a piece with a hole and a crack, a small one, a grey one with texture, and pen."""
    image, _ = tissue()
    cv2.circle(image, (165, 100), 8, GLASS, -1)
    image[97:102, 40:95] = GLASS  # a crack
    cv2.circle(image, (30, 170), 15, PINK, -1)
    amount = np.clip(1 + 2 * texture(9, (40, 70)), 0.2, None)[..., None]
    image = stroke(image, (25, 140, 70), [(240, 20), (245, 180)])
    image[5:45, 5:75] = 240 * np.exp(-0.35 * amount)
    return image


def test_every_setting_is_varied():
    assert set(OTHER) == {field.name for field in dataclasses.fields(TissueConfig)}


@pytest.mark.parametrize("field", OTHER)
def test_every_setting_changes_the_digest_and_has_a_use(field: str):
    base = TissueConfig() if field != "texture" else TissueConfig(min_coloured=0.0)  # only texture speaks for grey
    changed = dataclasses.replace(base, **{field: OTHER[field]})
    assert digest(changed) != digest(base)
    assert (segment_tissue(varied(), MPP, changed) != segment_tissue(varied(), MPP, base)).any()


@pytest.mark.parametrize(
    "wrong", [{"mpp": 0}, {"close_um": -1}, {"max_hole_um2": -1}, {"chroma": 1.5}, {"texture": -0.1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError):
        TissueConfig(**wrong)


@pytest.mark.parametrize("wrong", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_what_is_no_rgb_image_is_refused(wrong: Image):
    with pytest.raises(ValueError):
        segment_tissue(wrong, MPP)
