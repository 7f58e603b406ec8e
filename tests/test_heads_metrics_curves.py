"""Curves, tests and hazard ratios of groups: golden figures of Rossi, and by hand.

The figures are those of lifelines 0.30.3, which does the work; that they arrive whole and unmixed is what is tested.
Log-rank and hazard ratio are worked out anew, so that a change of what lifelines is asked would be seen.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lifelines.datasets import load_rossi
from scipy import stats
from scipy.optimize import minimize_scalar

from heads import cox_loss
from heads.metrics import hazard_ratio, kaplan_meier, logrank, risk_groups
from wsi.errors import UsageError


@pytest.fixture(scope="module")
def rossi():
    table = load_rossi()
    return table["week"].to_numpy(float), table["arrest"].to_numpy(int), table["fin"].to_numpy(int)


@pytest.mark.parametrize(
    ("week", "figures"),
    [
        (10, (0.965278, 0.943065, 0.978921)),
        (26, (0.875000, 0.839975, 0.902804)),
        (52, (0.736111, 0.691860, 0.775063)),
    ],
)
def test_kaplan_meier_of_rossi(rossi, week, figures):
    time, event, _ = rossi
    curve = kaplan_meier(time, event)
    at = curve.times.tolist().index(week)
    assert (curve.survival[at], curve.low[at], curve.high[at]) == pytest.approx(figures, abs=6e-7)
    assert curve.at_risk[at] == (time >= week).sum()


def test_kaplan_meier_by_hand():
    curve = kaplan_meier([3, 1, 2, 2], [1, 1, 1, 0])
    assert curve.times.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(curve.survival, [1, 3 / 4, 1 / 2, 0])  # of those censored at 2 all were at risk then
    assert curve.at_risk.tolist() == [4, 4, 3, 1]
    # Greenwood at 1: 1 / (4 * 3). On the scale of log(-log S) its root is divided by log S.
    width = stats.norm.ppf(0.95) * math.sqrt(1 / 12) / math.log(3 / 4)
    narrow = kaplan_meier([3, 1, 2, 2], [1, 1, 1, 0], level=0.9)
    assert narrow.low[1] == pytest.approx((3 / 4) ** math.exp(-width))
    assert narrow.high[1] == pytest.approx((3 / 4) ** math.exp(width))
    assert [curve.low[0], curve.high[0], curve.low[3], curve.high[3]] == [1, 1, 0, 0]


def test_kaplan_meier_without_events_is_one():
    curve = kaplan_meier([1, 2], [0, 0])
    assert curve.survival.tolist() == curve.low.tolist() == curve.high.tolist() == [1, 1, 1]


def test_kaplan_meier_refuses():
    with pytest.raises(UsageError, match="times lie before 0"):
        kaplan_meier([-1, 2], [1, 0])
    with pytest.raises(UsageError, match="Groups cannot be compared.*event holds other values"):
        kaplan_meier([1, 2], [1, 2])


def test_logrank_of_rossi(rossi):
    tested = logrank(*rossi)
    assert (tested.chi2, tested.p) == pytest.approx((3.83757, 0.050116), rel=1e-5)


def test_logrank_by_hand():
    # Times 1 (of 2 + 2 one of a dies), 2 (of 1 + 2 one of b), 3 (of 1 + 1 one of a): expected of a 1/2, 1/3, 1/2.
    tested = logrank([1, 3, 2, 4], [1, 1, 1, 0], [0, 0, 1, 1])
    expected, variance = 1 / 2 + 1 / 3 + 1 / 2, 1 / 4 + 2 / 9 + 1 / 4
    assert tested.chi2 == pytest.approx((2 - expected) ** 2 / variance)
    assert tested.p == pytest.approx(stats.chi2.sf(tested.chi2, 1))


def test_logrank_of_three_groups_has_two_degrees_of_freedom():
    rng = np.random.default_rng(1)
    tested = logrank(rng.integers(1, 9, 60), rng.integers(0, 2, 60), np.arange(60) % 3)
    assert tested.p == pytest.approx(stats.chi2.sf(tested.chi2, 2))


@pytest.mark.parametrize(("event", "group"), [([1, 1, 0], [1, 1, 1]), ([0, 0, 0], [0, 1, 1])])
def test_logrank_with_nothing_to_compare_is_nan(event, group):
    tested = logrank([1, 2, 3], event, group)
    assert math.isnan(tested.chi2) and math.isnan(tested.p)


def test_hazard_ratio_maximises_the_partial_likelihood(rossi):
    time, event, group = rossi
    best = minimize_scalar(lambda b: float(cox_loss(torch.tensor(b * group), time, event)), bracket=(-1.5, 1))
    ratio = hazard_ratio(time, event, group)
    assert ratio.value == pytest.approx(math.exp(best.x), rel=1e-5) and ratio.value < 1  # aid protects
    half = (math.log(ratio.high) - math.log(ratio.low)) / 2
    assert math.sqrt(ratio.low * ratio.high) == pytest.approx(ratio.value)
    assert ratio.p == pytest.approx(2 * stats.norm.sf(abs(math.log(ratio.value)) / (half / stats.norm.ppf(0.975))))
    narrow = hazard_ratio(time, event, group, level=0.5)
    assert (math.log(narrow.high) - math.log(narrow.low)) / 2 == pytest.approx(half * 0.67449 / 1.95996, rel=1e-4)


def test_hazard_ratio_turns_round_with_the_groups(rossi):
    time, event, group = rossi
    assert hazard_ratio(time, event, 1 - group).value == pytest.approx(1 / hazard_ratio(time, event, group).value)


@pytest.mark.parametrize(
    ("time", "event", "group"),
    [
        ([1, 2, 3, 4], [1, 1, 1, 1], [1, 1, 0, 0]),  # the second group dies when the first is gone
        ([1, 2, 3, 4], [1, 1, 0, 0], [1, 1, 0, 0]),  # it never dies
        ([1, 2, 3, 4], [0, 0, 0, 0], [1, 0, 1, 0]),
        ([1, 2, 3, 4], [1, 1, 0, 0], [1, 1, 1, 1]),
    ],
)
def test_no_hazard_ratio_where_none_is_finite(time, event, group):
    ratio = hazard_ratio(time, event, group)
    assert all(math.isnan(v) for v in (ratio.value, ratio.low, ratio.high, ratio.p))


def test_what_lifelines_finds_suspicious_is_no_warning_of_ours():
    # One of 20,000 is in group 1, which lifelines warns of; warnings are errors here.
    time, group = np.arange(20_000) % 10 + 1, np.arange(20_000) == 4
    ratio = hazard_ratio(time, np.ones(20_000), group)
    assert ratio.low < 1 < ratio.high


def test_hazard_ratio_needs_groups_0_and_1():
    with pytest.raises(UsageError, match="group holds other values than 0 and 1"):
        hazard_ratio([1, 2], [1, 1], [1, 2])


def test_groups_are_cut_by_the_training_risks_alone():
    assert risk_groups([1, 2, 3, 4], [0, 2.4, 2.6, 99]).tolist() == [0, 0, 1, 1]
    assert risk_groups([1, 2, 3, 4], [2.6, 99]).tolist() == [1, 1]
    assert risk_groups([1, 2, 3], [2, 2.1]).tolist() == [0, 1]  # on the cut belongs below
    assert risk_groups(range(10), [0, 3.5, 6.5], n=3).tolist() == [0, 1, 2]


def test_groups_are_refused():
    with pytest.raises(UsageError, match="1 groups"):
        risk_groups([1, 2], [1], n=1)
    with pytest.raises(UsageError, match="train_risk holds NaN"):
        risk_groups([1, np.nan], [1])
