"""The synthetic cohort: as promised by its recipe, the same everywhere, and worth learning from."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.synthetic import (
    DIAGNOSES,
    REGIONS,
    DrawnSlide,
    SlideRecipe,
    draw,
    recipe,
)
from pipeline.synthetic.layout import lay_out

GLASS, STROMA, GLAND, ADENO, SQUAMOUS, LYMPH, ADIPOSE, NECROSIS, PEN = range(9)
SMALL = {"width_um": 760.0, "height_um": 560.0, "pieces": 1, "pen": None}
TINY = {"width_um": 260.0, "height_um": 220.0, "pieces": 1, "pen": None}


def shares(**by_name: float) -> tuple[float, ...]:
    """`shares(stroma=0.4, lymphocytes=0.6)`; underscores stand for spaces."""
    return tuple(by_name.get(name.replace(" ", "_"), 0.0) for name in REGIONS)


def sha(drawn: DrawnSlide) -> str:
    return hashlib.sha256(drawn.pixels.tobytes() + drawn.regions.tobytes() + drawn.beneath.tobytes()).hexdigest()


def mean_colour(drawn: DrawnSlide, region: int) -> np.ndarray:
    """Mean RGB over the inside of a region: its border, where neighbours mix, is left out."""
    core = cv2.erode((drawn.regions == region).astype(np.uint8), np.ones((5, 5), np.uint8))
    h, w = drawn.pixels.shape[:2]
    where = np.kron(core, np.ones((drawn.mask_px,) * 2, np.uint8))[:h, :w] > 0
    assert where.sum() > 2000, f"too little {REGIONS[region]} to judge"
    return drawn.pixels[where].mean(axis=0)


@pytest.fixture(scope="module")
def benign() -> DrawnSlide:
    return draw(recipe(11, "benign", **{**SMALL, "pen": "blue"}))


@pytest.fixture(scope="module")
def adeno() -> DrawnSlide:
    return draw(recipe(12, "adenocarcinoma", **SMALL))


@pytest.fixture(scope="module")
def squamous() -> DrawnSlide:
    return draw(recipe(13, "squamous carcinoma", **SMALL))


class TestRecipe:
    def test_names_are_the_promised_ones(self) -> None:
        assert REGIONS == (
            "glass",
            "stroma",
            "normal gland",
            "adenocarcinoma",
            "squamous carcinoma",
            "lymphocytes",
            "adipose",
            "necrosis",
            "pen",
        )
        assert DIAGNOSES == ("benign", "adenocarcinoma", "squamous carcinoma")

    def test_everything_follows_from_the_seed(self) -> None:
        assert recipe(5) == recipe(5)
        assert len({recipe(seed).stain for seed in range(20)}) == 20
        assert {recipe(seed).diagnosis for seed in range(30)} == set(DIAGNOSES)

    def test_a_given_diagnosis_leaves_the_stain_alone(self) -> None:
        assert {recipe(5, diagnosis).stain for diagnosis in DIAGNOSES} == {recipe(5).stain}

    def test_any_field_can_be_given(self) -> None:
        plan = recipe(5, "benign", mpp=0.388, pen="green")
        assert (plan.mpp, plan.pen, plan.shares) == (0.388, "green", recipe(5, "benign").shares)

    @pytest.mark.parametrize("diagnosis", DIAGNOSES)
    def test_shares_keep_the_promise(self, diagnosis: str) -> None:
        for seed in range(80):
            plan = recipe(seed, diagnosis)
            assert sum(plan.shares) == pytest.approx(1)
            assert plan.shares[GLASS] == plan.shares[PEN] == 0
            present = {k for k, share in enumerate(plan.shares) if share > 0.01}
            if diagnosis == "benign":
                assert present == {STROMA, GLAND, LYMPH, ADIPOSE}
                assert plan.shares[GLAND] > 0.3
            else:
                tumour = ADENO if diagnosis == "adenocarcinoma" else SQUAMOUS
                assert present == {STROMA, tumour, LYMPH, ADIPOSE, NECROSIS}
                assert 0.15 <= plan.shares[tumour] <= 0.6

    @pytest.mark.parametrize(
        "bad",
        [
            {"diagnosis": "melanoma"},
            {"pen": "red"},
            {"mpp": 0.0},
            {"pieces": 4},
            {"width_um": 20.0},
            {"shares": (1.0,)},
            {"shares": shares(stroma=0.5)},
        ],
    )
    def test_the_impossible_is_refused(self, bad: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="must be"):
            recipe(1, **bad) if "diagnosis" not in bad else recipe(1, str(bad["diagnosis"]))


class TestDrawnSlide:
    def test_shapes_and_scale(self, benign: DrawnSlide) -> None:
        assert benign.pixels.shape == (1120, 1520, 3) and benign.pixels.dtype == np.uint8
        assert benign.mpp == 0.5 and benign.mask_px == 8
        assert benign.regions.shape == benign.tissue.shape == (140, 190)
        assert benign.regions.dtype == np.uint8 and benign.tissue.dtype == np.bool_

    @pytest.mark.parametrize(
        ("mpp", "size", "mask_px", "mask"),
        [(0.5, (520, 440), 8, (55, 65)), (0.388, (670, 567), 12, (48, 56)), (0.2525, (1030, 871), 16, (55, 65))],
    )
    def test_any_mpp(self, mpp: float, size: tuple[int, int], mask_px: int, mask: tuple[int, int]) -> None:
        drawn = draw(recipe(3, "benign", mpp=mpp, **TINY))
        assert drawn.pixels.shape == (size[1], size[0], 3)
        assert (drawn.mask_px, drawn.regions.shape) == (mask_px, mask)

    @pytest.mark.parametrize("name", ["benign", "adeno", "squamous"])
    def test_region_shares_are_as_planned(self, name: str, request: pytest.FixtureRequest) -> None:
        drawn = request.getfixturevalue(name)
        inside = drawn.beneath[drawn.tissue]
        got = np.bincount(inside, minlength=len(REGIONS)) / len(inside)
        assert got == pytest.approx(np.array(drawn.recipe.shares), abs=0.03)
        assert 0.3 < drawn.tissue.mean() < 0.95

    @pytest.mark.parametrize("name", ["benign", "adeno", "squamous"])
    def test_many_tiles_are_of_one_kind(self, name: str, request: pytest.FixtureRequest) -> None:
        beneath = request.getfixturevalue(name).beneath
        n = 28  # mask px of 4 um: 112 um
        pure = 0
        for y in range(0, beneath.shape[0] - n + 1, n):
            for x in range(0, beneath.shape[1] - n + 1, n):
                counts = np.bincount(beneath[y : y + n, x : x + n].ravel(), minlength=len(REGIONS))
                pure += bool(counts[1:].max() >= 0.6 * n * n)
        assert pure >= 0.5 * (beneath != GLASS).sum() / n**2

    def test_glass_is_nearly_white_and_even(self, adeno: DrawnSlide) -> None:
        glass = mean_colour(adeno, GLASS)
        assert glass == pytest.approx(np.array(adeno.recipe.stain.white), abs=2)
        assert glass.min() > 232 and np.ptp(glass) < 8

    def test_necrosis_is_pink(self, squamous: DrawnSlide) -> None:
        red, green, blue = mean_colour(squamous, NECROSIS)
        assert red > blue > green and red - green > 50

    def test_lymphocytes_and_tumour_are_darker_and_bluer_than_stroma(self, adeno: DrawnSlide) -> None:
        stroma = mean_colour(adeno, STROMA)
        for region in (LYMPH, ADENO):
            dark = mean_colour(adeno, region)
            assert dark.sum() < stroma.sum() - 100
            assert dark[0] - dark[2] < stroma[0] - stroma[2]

    def test_fat_is_paler_than_all_other_tissue_and_darker_than_glass(self, adeno: DrawnSlide) -> None:
        fat = mean_colour(adeno, ADIPOSE).sum()
        assert mean_colour(adeno, STROMA).sum() + 100 < fat < mean_colour(adeno, GLASS).sum()

    def test_keratinising_tumour_is_pinker_than_gland_forming(self, adeno: DrawnSlide, squamous: DrawnSlide) -> None:
        stain = adeno.recipe.stain
        same = draw(replace(squamous.recipe, stain=stain))
        assert mean_colour(same, SQUAMOUS)[0] > mean_colour(adeno, ADENO)[0] + 8

    def test_tissue_has_detail_and_no_flat_colour(self, squamous: DrawnSlide) -> None:
        """Real H&E at 0.5 um/px varies by 25-60 grey levels within a tile of epithelium or stroma."""
        assert squamous.pixels[np.kron(squamous.regions == SQUAMOUS, np.ones((8, 8), bool))].std(axis=0).min() > 25

    def test_pen_is_blue_and_only_its_uncovered_part_is_tissue(self, benign: DrawnSlide) -> None:
        red, green, blue = mean_colour(benign, PEN)
        assert blue > 1.5 * red and blue > green
        on_glass = (benign.regions == PEN) & (benign.beneath == GLASS)
        over_tissue = (benign.regions == PEN) & (benign.beneath != GLASS)
        assert on_glass.any() and over_tissue.any()
        assert not benign.tissue[on_glass].any() and benign.tissue[over_tissue].all()

    def test_the_pen_changes_only_what_it_covers(self, benign: DrawnSlide) -> None:
        bare = draw(replace(benign.recipe, pen=None))
        assert (bare.beneath == benign.beneath).all() and PEN not in bare.regions
        changed = (np.abs(bare.pixels.astype(int) - benign.pixels) > 40).any(axis=2)
        covered = cv2.dilate((benign.regions == PEN).astype(np.uint8), np.ones((5, 5), np.uint8))
        assert not changed[np.kron(covered, np.ones((8, 8), np.uint8)) == 0].any()

    def test_mask_lies_on_the_pixels(self, adeno: DrawnSlide) -> None:
        """Bright blocks and glass agree best without a shift."""
        px, (h, w) = adeno.mask_px, adeno.regions.shape
        blocks = adeno.pixels.reshape(h, px, w, px, 3).mean(axis=(1, 3, 4))
        bright = blocks > 225
        glass = np.isin(adeno.regions, (GLASS, ADIPOSE))

        def agreement(dx: int, dy: int) -> float:
            return float((np.roll(glass, (dy, dx), (0, 1)) == bright)[4:-4, 4:-4].mean())

        shifts = {(dx, dy): agreement(dx, dy) for dx in (-2, 0, 2) for dy in (-2, 0, 2)}
        assert max(shifts, key=shifts.__getitem__) == (0, 0)
        assert shifts[0, 0] > 0.9

    def test_nuclei_keep_their_physical_size(self) -> None:
        """The share of dark area in a lymphoid slide is the same whatever the scanner's pixel."""
        dark = []
        for mpp in (0.5, 0.3):
            plan = recipe(21, "benign", mpp=mpp, shares=shares(stroma=0.1, lymphocytes=0.9), **TINY)
            stain = replace(plan.stain, blur_um=0.3, noise=0.0)
            drawn = draw(replace(plan, stain=stain))
            where = np.kron(drawn.regions == LYMPH, np.ones((drawn.mask_px,) * 2, bool))
            h, w = drawn.pixels.shape[:2]
            dark.append((drawn.pixels.max(axis=2)[where[:h, :w]] < 130).mean())
        assert dark[0] == pytest.approx(dark[1], rel=0.15)


class TestSameEverywhere:
    def test_twice_in_another_process_with_other_threads(self) -> None:
        size = "width_um=220.0, height_um=200.0, pieces=1, pen='green'"
        code = (
            "import sys, hashlib, cv2\n"
            "from pipeline.synthetic import draw, recipe\n"
            "for threads in (3, 1):\n"
            "    cv2.setNumThreads(threads)\n"
            f"    d = draw(recipe(7, 'squamous carcinoma', {size}))\n"
            "    data = d.pixels.tobytes() + d.regions.tobytes() + d.beneath.tobytes()\n"
            "    sys.stdout.write(hashlib.sha256(data).hexdigest() + ' ')\n"
        )
        root = Path(__file__).resolve().parents[1]
        other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        plan = recipe(7, "squamous carcinoma", width_um=220.0, height_um=200.0, pieces=1, pen="green")
        assert other.stdout.split() == [sha(draw(plan))] * 2

    def test_another_seed_is_another_slide(self) -> None:
        first, second = (lay_out(recipe(seed, "benign", **TINY)).regions() for seed in (1, 2))
        assert (first != second).mean() > 0.1


def test_recipes_are_plain_data() -> None:
    """A recipe survives JSON: it is part of a slide's record and of its identity."""
    plan = recipe(77)
    again = json.loads(json.dumps(asdict(plan)))
    stain = type(plan.stain)(**{k: tuple(v) if isinstance(v, list) else v for k, v in again.pop("stain").items()})
    assert SlideRecipe(**{**again, "shares": tuple(again["shares"]), "stain": stain}) == plan
