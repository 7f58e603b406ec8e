"""The bootstrap: whom it draws, what its intervals cover, and what its p-value is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from heads.metrics import Difference, Interval, bootstrap, paired_bootstrap
from wsi.errors import UsageError


def test_patients_are_drawn_with_all_their_slides():
    groups = ["b", "a", "b", "c", "b"]
    seen = []
    bootstrap(lambda rows: seen.append(rows) or {"n": len(rows)}, groups, draws=200)
    whole, drawn = seen[0], seen[1:]
    assert whole.tolist() == [0, 1, 2, 3, 4] and len(drawn) == 200
    counts = np.array([np.bincount(rows, minlength=5) for rows in drawn])
    assert (counts[:, 0] == counts[:, 2]).all() and (counts[:, 0] == counts[:, 4]).all()
    patients = counts[:, [1, 0, 3]]
    assert (patients.sum(axis=1) == 3).all() and set(patients.ravel().tolist()) == {0, 1, 2, 3}


def test_an_interval_holds_the_middle_of_the_draws():
    x = np.random.default_rng(1).normal(size=60)
    drawn = []

    def mean(rows):
        drawn.append(x[rows].mean())
        return {"mean": drawn[-1]}

    got = bootstrap(mean, [f"p{i}" for i in range(60)], draws=500, level=0.9)["mean"]
    assert got.value == x.mean() and got.draws == 500
    assert [got.low, got.high] == pytest.approx(np.quantile(drawn[1:], [0.05, 0.95]))
    # The percentile interval of a mean is close to the normal one.
    assert got.high - got.low == pytest.approx(2 * 1.645 * x.std() / math.sqrt(60), rel=0.1)


def test_slides_of_one_patient_are_one_witness():
    x = np.repeat(np.random.default_rng(2).normal(size=20), 5)  # five slides a patient, all alike
    by_patient = bootstrap(lambda rows: {"m": x[rows].mean()}, [f"p{i // 5}" for i in range(100)])["m"]
    by_slide = bootstrap(lambda rows: {"m": x[rows].mean()}, [f"s{i}" for i in range(100)])["m"]
    ratio = (by_patient.high - by_patient.low) / (by_slide.high - by_slide.low)
    assert ratio == pytest.approx(math.sqrt(5), rel=0.15)


def test_the_same_seed_draws_the_same_patients_in_any_order_of_rows():
    rng = np.random.default_rng(3)
    x, names = rng.integers(0, 50, 30).astype(float), np.array([f"p{i % 10}" for i in range(30)])
    order = rng.permutation(30)
    straight = bootstrap(lambda rows: {"m": x[rows].mean()}, names, draws=50, seed=7)
    shuffled = bootstrap(lambda rows: {"m": x[order][rows].mean()}, names[order].tolist(), draws=50, seed=7)
    other = bootstrap(lambda rows: {"m": x[rows].mean()}, names, draws=50, seed=8)
    assert straight == shuffled and straight != other


def test_draws_without_a_value_are_left_out_and_counted():
    y = np.array([0, 1, 1])
    calls = []

    def statistic(rows):
        one_class = len(set(y[rows].tolist())) < 2
        calls.append(one_class)
        return {"auroc": math.nan if one_class else float(len(calls)), "n": 3.0, "never": math.inf}

    got = bootstrap(statistic, ["a", "b", "c"], draws=100)
    assert 0 < got["auroc"].draws == 100 - sum(calls[1:]) < 100
    assert math.isfinite(got["auroc"].low) and got["n"] == Interval(3.0, 3.0, 3.0, 100)
    assert got["never"].draws == 0 and math.isnan(got["never"].low) and math.isnan(got["never"].high)


def test_a_pair_is_drawn_together():
    x = np.random.default_rng(4).normal(size=40)
    names = [f"p{i}" for i in range(40)]
    got = paired_bootstrap(lambda r: {"m": x[r].mean() + 1, "a": 0.0}, lambda r: {"m": x[r].mean()}, names, draws=99)
    assert set(got) == {"m"}  # only what both have
    m = got["m"]  # drawn apart, the difference would vary
    assert (m.value, m.low, m.high, m.draws) == (pytest.approx(1), pytest.approx(1), pytest.approx(1), 99)
    assert m.p == 1 / 100


def test_the_p_value_by_its_formula():
    x = np.random.default_rng(5).normal(0.5, 1, 30)
    drawn = []

    def a(rows):
        drawn.append(x[rows].mean())
        return {"m": drawn[-1]}

    got = paired_bootstrap(a, lambda rows: {"m": 0.0}, [str(i) for i in range(30)], draws=199)["m"]
    as_far = sum(abs(d - got.value) >= abs(got.value) for d in drawn[1:])
    assert got.p == (as_far + 1) / 200 and 0.05 < got.p < 0.5
    assert [got.low, got.high] == pytest.approx(np.quantile(drawn[1:], [0.025, 0.975]))


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_the_p_value_of_a_mean_is_that_of_a_z_test(shift):
    x = np.random.default_rng(6).normal(size=80)
    x = (x - x.mean()) / x.std() + shift
    got = paired_bootstrap(lambda r: {"m": x[r].mean()}, lambda r: {"m": 0.0}, [str(i) for i in range(80)], draws=2000)
    assert got["m"].p == pytest.approx(2 * stats.norm.sf(shift * math.sqrt(80)), abs=0.02)


def test_equal_models_do_not_differ():
    assert paired_bootstrap(lambda r: {"m": 5.0}, lambda r: {"m": 5.0}, ["a", "b"], draws=9)["m"] == Difference(
        0.0, 0.0, 0.0, 1.0, 9
    )


def test_without_a_value_there_is_no_p():
    got = paired_bootstrap(lambda r: {"m": math.nan}, lambda r: {"m": 1.0}, ["a", "b"], draws=9)["m"]
    assert math.isnan(got.p) and got.draws == 0


def test_all_faults_are_told_at_once():
    with pytest.raises(UsageError, match="no rows; draws is 0, not at least 1; level is 95"):
        bootstrap(lambda rows: {}, [], draws=0, level=95)
