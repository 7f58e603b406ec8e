"""The synthetic cohort: as promised by its recipe, the same everywhere, and worth learning from."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from lifelines.utils import concordance_index
from PIL import Image
from scipy.spatial import cKDTree

from pipeline.synthetic import (
    DIAGNOSES,
    REGIONS,
    CohortRow,
    CohortSpec,
    DrawnSlide,
    SlideRecipe,
    draw,
    follow_up,
    recipe,
    true_risk,
    write_cohort,
)
from pipeline.synthetic.cohort import Scan
from pipeline.synthetic.layout import lay_out
from pipeline.synthetic.noise import at, distance, ramp, scatter, smooth, tessellate, upsample
from pipeline.synthetic.nuclei import KINDS, Nuclei, press
from pipeline.synthetic.stain import Ink, develop
from wsi.errors import StorageError

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


class TestParts:
    def test_beer_lambert_by_hand(self) -> None:
        plan = recipe(1, "benign", **TINY)
        stain = replace(
            plan.stain, noise=0.0, haematoxylin_strength=2.0, eosin_strength=0.5, white=(240.0, 230.0, 220.0)
        )
        plan = replace(plan, stain=stain)
        clear = Ink(np.zeros((40, 50), np.float32), (0.0, 0.0, 0.0))
        amounts = np.full((40, 50), 0.7, np.float32), np.full((40, 50), 0.4, np.float32)
        got = develop(*amounts, clear, plan)[20, 25]
        density = 0.7 * 2.0 * np.array(stain.haematoxylin) + 0.4 * 0.5 * np.array(stain.eosin)
        assert got == pytest.approx(np.array([240, 230, 220]) * np.exp(-density), abs=0.51)

    def test_ink_takes_its_share_of_light(self) -> None:
        plan = recipe(1, "benign", **TINY)
        plan = replace(plan, stain=replace(plan.stain, noise=0.0, white=(240.0, 240.0, 240.0)))
        half = Ink(np.full((40, 50), 0.5, np.float32), (0.0, 0.5, 1.0))
        bare = np.zeros((40, 50), np.float32)
        assert develop(bare, bare, half, plan)[20, 25].tolist() == [120, 180, 240]

    def test_bands_of_rows_leave_no_seam(self) -> None:
        """An edge where two bands meet (row 256) is as soft as one elsewhere."""
        plan = recipe(1, "benign", **TINY)
        plan = replace(plan, stain=replace(plan.stain, noise=0.0))
        profiles = []
        for edge in (216, 256):
            stained = np.zeros((500, 20), np.float32)
            stained[edge:] = 1
            pixels = develop(stained, 0 * stained, Ink(0 * stained, (0.0, 0.0, 0.0)), plan)
            profiles.append(pixels[edge - 6 : edge + 6, 10].tolist())
        assert profiles[0] == profiles[1]
        assert len({tuple(colour) for colour in profiles[0]}) > 3

    def test_tessellation_against_a_tree(self) -> None:
        """Independent implementation: nearest neighbours by scipy's k-d tree; borders by the bisectors of all pairs."""
        points = np.unique(scatter(np.random.default_rng(1), (90, 120), 17).astype(int), axis=0).astype(np.float32)
        label, border = tessellate(points, (90, 120))
        y, x = np.mgrid[:90, :120]
        pixels = np.stack([x, y], axis=-1).astype(float)
        two, owner = cKDTree(points).query(pixels, k=2)
        of_point = {int(label[int(p[1]), int(p[0])]): i for i, p in enumerate(points)}
        assert len(of_point) == len(points)
        mine = np.vectorize(of_point.__getitem__)(label)
        clear = two[..., 1] - two[..., 0] > 1
        assert (mine == owner[..., 0])[clear].all()

        square = ((pixels[:, :, None] - points) ** 2).sum(axis=-1)  # (90, 120, points)
        apart = np.hypot(*(points[owner[..., 0]][:, :, None] - points).transpose(3, 0, 1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            to_bisector = (square - square.min(axis=-1, keepdims=True)) / (2 * apart)
        exact = np.nanmin(np.where(apart == 0, np.inf, to_bisector), axis=-1)
        assert np.abs(border - exact)[clear].max() < 1.8

    def test_scatter_is_even(self) -> None:
        points = scatter(np.random.default_rng(2), (200, 300), 12.0, 0.2)
        nearest = cKDTree(points).query(points, k=2)[0][:, 1]
        assert nearest.min() > 12 * 0.3
        assert len(points) == pytest.approx(200 * 300 / (12**2 * np.sqrt(3) / 2), rel=0.05)
        assert points.min() >= 0 and (points < [299, 199]).all()

    def test_smooth_has_unit_spread_and_its_scale(self) -> None:
        field = smooth(np.random.default_rng(3), (400, 500), 8.0)
        assert field.dtype == np.float32 and abs(field.mean()) < 0.15 and field.std() == pytest.approx(1, abs=0.15)

        def alike(shift: int) -> float:
            return float(np.corrcoef(field[:, :-shift].ravel(), field[:, shift:].ravel())[0, 1])

        assert alike(2) > 0.9 and abs(alike(60)) < 0.15

    def test_small_fields_by_hand(self) -> None:
        assert ramp(np.array([0, 1, 2, 3, 4], np.float32), 1, 3).tolist() == [0, 0, 0.5, 1, 1]
        assert distance(np.array([[0, 1, 1, 1, 0]], bool)).round(1).tolist() == [[0, 1, 2, 1, 0]]
        assert distance(np.ones((2, 7), bool)).tolist() == [[7] * 7] * 2
        assert upsample(np.array([[0, 4]], np.float32), 2).tolist() == [[0, 1, 3, 4], [0, 1, 3, 4]]
        assert at(np.array([[1, 2], [3, 4]]), np.array([[1.0, 0.0], [0.2, 1.9]], np.float32)).tolist() == [2, 3]

    @pytest.mark.parametrize(("angle", "wide"), [(0.0, True), (np.pi / 2, False)])
    def test_a_nucleus_lies_where_and_how_it_was_put(self, angle: float, wide: bool) -> None:
        haematoxylin, eosin = np.zeros((120, 160), np.float32), np.ones((120, 160), np.float32)
        one = Nuclei("fibroblast", np.array([[90.0, 50.0]], np.float32), np.array([angle], np.float32))
        press(haematoxylin, eosin, one, 0.5, np.random.default_rng(4))
        ys, xs = np.nonzero(haematoxylin > 0.2)
        assert (xs.mean(), ys.mean()) == (pytest.approx(90, abs=1), pytest.approx(50, abs=1))
        assert (np.ptp(xs) > 2 * np.ptp(ys)) == wide
        assert max(np.ptp(xs), np.ptp(ys)) * 0.5 == pytest.approx(KINDS["fibroblast"].length, rel=0.6)
        assert eosin[50, 90] < 0.8 and eosin[5, 5] == 1

    def test_nuclei_at_the_edge_are_left_out(self) -> None:
        haematoxylin, eosin = np.zeros((30, 30), np.float32), np.zeros((30, 30), np.float32)
        edge = Nuclei("lymphocyte", np.array([[0.0, 15.0], [29.0, 29.0]], np.float32), np.zeros(2, np.float32))
        press(haematoxylin, eosin, edge, 0.5, np.random.default_rng(5))
        assert not haematoxylin.any()


class TestSurvival:
    PLANS = tuple(recipe(5000 + i, DIAGNOSES[i % 3]) for i in range(200))

    def test_risk_orders_the_times(self) -> None:
        outcomes = [follow_up(plan) for plan in self.PLANS]
        months, event = [o.months for o in outcomes], [o.event for o in outcomes]
        assert concordance_index(months, [-o.true_risk for o in outcomes], event) > 0.65

    def test_risk_orders_the_times_among_tumours_too(self) -> None:
        outcomes = [follow_up(plan) for plan in self.PLANS if plan.diagnosis != "benign"]
        months, event = [o.months for o in outcomes], [o.event for o in outcomes]
        assert concordance_index(months, [-o.true_risk for o in outcomes], event) > 0.6

    def test_a_third_is_censored(self) -> None:
        outcomes = [follow_up(plan) for plan in self.PLANS]
        assert 0.25 < np.mean([not o.event for o in outcomes]) < 0.45
        assert all(0 < o.months <= 110 for o in outcomes)

    def test_the_same_patient_has_the_same_outcome(self) -> None:
        assert follow_up(self.PLANS[0]) == follow_up(self.PLANS[0])
        assert follow_up(recipe(5000, "benign", mpp=0.25)) == follow_up(recipe(5000, "benign"))

    def test_risk_by_hand(self) -> None:
        def risk(**by_name: float) -> float:
            return true_risk(recipe(1, "adenocarcinoma", shares=shares(**by_name)))

        base = risk(stroma=0.45, adenocarcinoma=0.35, necrosis=0.08, lymphocytes=0.12)
        assert base == pytest.approx(0)
        assert risk(stroma=0.35, adenocarcinoma=0.45, necrosis=0.08, lymphocytes=0.12) == pytest.approx(0.3)
        assert risk(stroma=0.35, adenocarcinoma=0.35, necrosis=0.18, lymphocytes=0.12) == pytest.approx(0.5)
        assert risk(stroma=0.35, adenocarcinoma=0.35, necrosis=0.08, lymphocytes=0.22) == pytest.approx(-0.5)
        assert risk(stroma=0.45, squamous_carcinoma=0.35, necrosis=0.08, lymphocytes=0.12) == pytest.approx(0.35)
        assert risk(stroma=0.9, lymphocytes=0.1) == pytest.approx(-1.2)


SCANS = (Scan(0.5, 220.0, 200.0, 20), Scan(0.2525, 210.0, 200.0, 40))
SPEC = CohortSpec(slides=3, seed=900, scans=SCANS, workers=1)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[CohortRow], list[tuple[int, int, str]]]:
    dest, seen = tmp_path_factory.mktemp("cohort"), []
    rows = write_cohort(dest, SPEC, lambda *step: seen.append(step))
    return dest, rows, seen


class TestCohort:
    def test_files_and_progress(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, _, seen = cohort
        names = [f"S00{i}" for i in (1, 2, 3)]
        expected = {"cohort.csv"} | {f"slides/{n}.svs" for n in names} | {f"truth/{n}.json" for n in names}
        expected |= {f"truth/{n}.png" for n in names} | {f"truth/tissue/{n}.png" for n in names}
        assert set(contents(dest)) == expected
        assert seen == [(1, 3, "S001"), (2, 3, "S002"), (3, 3, "S003")]

    def test_the_table_is_the_rows(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, rows, _ = cohort
        with open(dest / "cohort.csv", newline="") as f:
            table = list(csv.DictReader(f))
        columns = ["slide", "patient", "diagnosis", "tumour", "months", "event", "true_risk", "mpp"]
        assert list(table[0]) == columns == [field.name for field in fields(CohortRow)]
        assert table == [{key: str(value) for key, value in asdict(row).items()} for row in rows]
        assert [row.diagnosis for row in rows] == list(DIAGNOSES)
        assert [row.tumour for row in rows] == [0, 1, 1]
        assert [row.patient for row in rows] == ["P001", "P002", "P003"]
        assert all((dest / row.slide).is_file() for row in rows)

    def test_slides_say_their_scale(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, rows, _ = cohort
        for row, scan in zip(rows, (SCANS[0], SCANS[1], SCANS[0]), strict=True):
            with openslide.OpenSlide(dest / row.slide) as slide:
                assert float(slide.properties["openslide.mpp-x"]) == row.mpp == scan.mpp
                assert float(slide.properties["openslide.objective-power"]) == scan.objective_power
                assert slide.dimensions == (round(scan.width_um / scan.mpp), round(scan.height_um / scan.mpp))

    def test_truth_is_what_was_drawn(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, rows, _ = cohort
        record = json.loads((dest / "truth" / "S002.json").read_text())
        assert record["legend"] == {str(i): name for i, name in enumerate(REGIONS)}
        plan = recipe(901, "adenocarcinoma", mpp=0.2525, width_um=210.0, height_um=200.0)
        drawn = draw(plan)
        assert (np.asarray(Image.open(dest / "truth" / "S002.png")) == drawn.regions).all()
        assert (np.asarray(Image.open(dest / "truth" / "tissue" / "S002.png")) == 255 * drawn.tissue).all()
        assert (record["mask_px"], record["mpp"]) == (drawn.mask_px, rows[1].mpp)
        with openslide.OpenSlide(dest / rows[1].slide) as slide:
            pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        assert np.abs(pixels.astype(int) - drawn.pixels).mean() < 6

    def test_two_workers_write_the_same_bytes(
        self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]], tmp_path: Path
    ) -> None:
        dest, rows, _ = cohort
        assert write_cohort(tmp_path, replace(SPEC, workers=2)) == rows
        assert contents(tmp_path) == contents(dest)

    def test_what_is_complete_is_kept_and_the_rest_drawn_again(
        self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]
    ) -> None:
        dest, _, _ = cohort
        before = contents(dest)
        slides = [dest / "slides" / f"S00{i}.svs" for i in (1, 2, 3)]
        slides[1].write_bytes(slides[1].read_bytes()[:1000])
        (dest / "truth" / "S003.json").write_text('{"half": ')
        kept = slides[0].stat().st_mtime_ns
        seen: list[tuple[int, int, str]] = []
        write_cohort(dest, SPEC, lambda *step: seen.append(step))
        assert seen == [(2, 3, "S002"), (3, 3, "S003")]
        assert slides[0].stat().st_mtime_ns == kept
        assert contents(dest) == before

    def test_another_recipe_replaces_the_slide(
        self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]], tmp_path: Path
    ) -> None:
        one = replace(SPEC, slides=1)
        write_cohort(tmp_path, one)
        before = contents(tmp_path)
        write_cohort(tmp_path, replace(one, seed=950))
        after = contents(tmp_path)
        assert before.keys() == after.keys() and not set(before.values()) & set(after.values())

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StorageError, match="file"):
            write_cohort(tmp_path / "file", SPEC)

    @pytest.mark.parametrize("bad", [{"slides": 0}, {"scans": ()}, {"workers": 0}])
    def test_empty_cohorts_are_refused(self, bad: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            CohortSpec(**bad)  # type: ignore[arg-type]

    def test_default_cohort_is_balanced_and_varied(self) -> None:
        spec = CohortSpec()
        assert spec.slides == 9 and len({scan.mpp for scan in spec.scans}) == 5
        fine = [scan for scan in spec.scans if scan.mpp < 0.3]
        assert fine and max(s.width_um * s.height_um for s in fine) < 0.4 * 2200 * 1600


def test_recipes_are_plain_data() -> None:
    """A recipe survives JSON: it is part of a slide's record and of its identity."""
    plan = recipe(77)
    again = json.loads(json.dumps(asdict(plan)))
    stain = type(plan.stain)(**{k: tuple(v) if isinstance(v, list) else v for k, v in again.pop("stain").items()})
    assert SlideRecipe(**{**again, "shares": tuple(again["shares"]), "stain": stain}) == plan
