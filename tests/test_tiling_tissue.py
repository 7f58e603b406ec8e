"""Tissue against glass: synthetic slides with known masks, shapes drawn by hand, what must not fool it, real slides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import ArraySlide
from numpy.typing import NDArray

from pipeline.synthetic.draw import draw
from pipeline.synthetic.recipe import recipe
from tiling import TissueConfig, TissueMask, detect_tissue, morphology, segment_tissue
from tiling.stain import Contrast, Looks, looks
from tiling.tissue import brightfield
from wsi import open_slide
from wsi.geometry import Region
from wsi.identity import digest

MPP = 8.0
PINK, VIOLET, GLASS = (205, 140, 180), (120, 80, 150), (240, 239, 240)
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def glass(colour: tuple[int, int, int] = GLASS, noise: float = 1.0, shape: tuple[int, int] = (200, 260)) -> Image:
    rng = np.random.default_rng(7)
    return np.clip(np.array(colour) + rng.normal(0, noise, (*shape, 3)), 0, 255).astype(np.uint8)


def texture(seed: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Structure of a few um to a few cells, the same in all channels; standard deviation 0.12."""
    rng = np.random.default_rng(seed)
    parts = [cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), sigma) for sigma in (0.7, 2.0)]
    return 0.12 * np.asarray(sum(part / part.std() for part in parts)) / 2**0.5


def tissue(
    stain: tuple[int, int, int] = PINK, on: tuple[int, int, int] = GLASS, strength: float = 1.0
) -> tuple[Image, Mask]:
    """An ellipse of tissue of 1.3 x 0.9 mm on glass: optical density of the stain, with texture."""
    image = glass(on).astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    inside = ((x - 130) / 80) ** 2 + ((y - 100) / 56) ** 2 < 1
    density = -np.log(np.array(stain) / np.array(GLASS)) * strength
    amount = np.clip(1 + texture(3, inside.shape), 0.2, None)[..., None] * inside[..., None]
    return np.clip(image * np.exp(-density * amount), 0, 255).astype(np.uint8), inside


def stroke(image: Image, colour: tuple[int, int, int], points: list[tuple[int, int]], width: int = 12) -> Image:
    """A line of ink, streaky, that lets through `colour` of the light."""
    cover = np.zeros(image.shape[:2], np.uint8)
    cv2.polylines(cover, [np.array(points, np.int32)], False, 255, width, cv2.LINE_AA)
    streaks = np.clip(0.95 - 0.3 * np.abs(texture(5, cover.shape)), 0, 1)
    share = (cover / 255 * streaks)[..., None]
    return np.asarray(image * (1 - share * (1 - np.array(colour) / 255)), np.uint8)


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


# What must not fool it


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


# Scales and settings


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
