"""What synthetic slides are made of: fields, stamps, stains; and the follow-up that is simulated for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lifelines.utils import concordance_index
from scipy.spatial import cKDTree

from pipeline.synthetic import DIAGNOSES, REGIONS, follow_up, recipe, true_risk
from pipeline.synthetic.noise import at, distance, ramp, scatter, smooth, tessellate, upsample
from pipeline.synthetic.nuclei import KINDS, Nuclei, press
from pipeline.synthetic.stain import Ink, develop

TINY = {"width_um": 260.0, "height_um": 220.0, "pieces": 1, "pen": None}


def shares(**by_name: float) -> tuple[float, ...]:
    """`shares(stroma=0.4, lymphocytes=0.6)`; underscores stand for spaces."""
    return tuple(by_name.get(name.replace(" ", "_"), 0.0) for name in REGIONS)


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
        press((haematoxylin, eosin), one, 0.5, np.random.default_rng(4))
        ys, xs = np.nonzero(haematoxylin > 0.2)
        assert (xs.mean(), ys.mean()) == (pytest.approx(90, abs=1), pytest.approx(50, abs=1))
        assert (np.ptp(xs) > 2 * np.ptp(ys)) == wide
        assert max(np.ptp(xs), np.ptp(ys)) * 0.5 == pytest.approx(KINDS["fibroblast"].length, rel=0.6)
        assert eosin[50, 90] < 0.8 and eosin[5, 5] == 1

    def test_nuclei_at_the_edge_are_left_out(self) -> None:
        haematoxylin, eosin = np.zeros((30, 30), np.float32), np.zeros((30, 30), np.float32)
        edge = Nuclei("lymphocyte", np.array([[0.0, 15.0], [29.0, 29.0]], np.float32), np.zeros(2, np.float32))
        press((haematoxylin, eosin), edge, 0.5, np.random.default_rng(5))
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
