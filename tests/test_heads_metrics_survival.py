"""Survival metrics against scikit-survival 0.28.0, lifelines 0.30, and by hand.

scikit-survival is under the GPL and no dependency; its figures were made once and written down here. Rossi: risks of
the Efron coefficients on all 432 people, rows 0, 2, 4, ... to train and 1, 3, 5, ... to test; curves by its
BreslowEstimator; for its cumulative_dynamic_auc the arrests of week 52 were given as censored, which it would refuse
otherwise and which changes nothing up to week 50. Nobody in Rossi is censored before week 52, so HEAVY, 24 people to
train and 16 to test, has censoring and ties of every kind.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from lifelines import CoxPHFitter
from lifelines.datasets import load_rossi
from sklearn.metrics import roc_auc_score

from heads import concordance_index, concordance_index_ipcw
from heads.metrics import (
    breslow_baseline,
    brier_score,
    cumulative_dynamic_auc,
    integrated_brier_score,
    survival_metrics,
    usual_tau,
)
from wsi.errors import UsageError

EFRON = [-0.379422, -0.057438, 0.313900, -0.149796, -0.433704, -0.084871, 0.091497]
WEEKS = [10, 20, 30, 40, 50]

HEAVY_TIME = [10, 8, 6, 3, 4, 1, 1, 1, 2, 9, 8, 11, 6, 7, 11, 9, 7, 6, 7, 11, 4, 9, 8, 1]
HEAVY_TIME += [5, 10, 7, 1, 9, 9, 10, 2, 1, 10, 1, 6, 1, 4, 6, 5]
HEAVY_EVENT = [0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0]
HEAVY_EVENT += [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0]
HEAVY_RISK = [4, 5, 0, 0, 4, 2, 3, 0, 5, 2, 5, 4, 4, 1, 4, 0]  # of the 16
HEAVY_TIMES = [3, 5, 6, 8]


@pytest.fixture(scope="module")
def rossi():
    table = load_rossi()
    time, event = table["week"].to_numpy(float), table["arrest"].to_numpy(int)
    risk = np.round(table[["fin", "age", "race", "wexp", "mar", "paro", "prio"]].to_numpy(float) @ EFRON, 9)
    baseline = breslow_baseline(time[::2], event[::2], risk[::2])
    return SimpleNamespace(
        table=table,
        train=(time[::2], event[::2]),
        test=(time[1::2], event[1::2]),
        risk=risk[1::2],
        baseline=baseline,
        survival=baseline.survival(risk[1::2], WEEKS),
    )


@pytest.fixture(scope="module")
def heavy():
    survival = np.exp(-np.outer(np.exp(np.array(HEAVY_RISK) / 4 - 2), np.array(HEAVY_TIMES) / 4))
    train, test = (HEAVY_TIME[:24], HEAVY_EVENT[:24]), (HEAVY_TIME[24:], HEAVY_EVENT[24:])
    return SimpleNamespace(train=train, test=test, survival=survival)


def test_baseline_hazard_against_lifelines(rossi):
    table = rossi.table
    fitted = CoxPHFitter().fit(table, "week", "arrest")
    risk = np.log(fitted.predict_partial_hazard(table).to_numpy())
    baseline = breslow_baseline(table["week"], table["arrest"], risk)
    want = fitted.baseline_cumulative_hazard_.iloc[:, 0].reindex(baseline.times)
    np.testing.assert_allclose(baseline.cumulative, want, rtol=1e-5)
    curves = fitted.predict_survival_function(table[:20], times=baseline.times).to_numpy().T  # slopes in between
    np.testing.assert_allclose(baseline.survival(risk[:20], baseline.times), curves, rtol=1e-5)


def test_baseline_hazard_against_scikit_survival(rossi):
    at = np.searchsorted(rossi.baseline.times, WEEKS, side="right") - 1
    want = [0.1196752646807984, 0.31008412870748187, 0.4673433987378782, 0.7292502037633055, 0.9833421403158366]
    np.testing.assert_allclose(rossi.baseline.cumulative[at], want, rtol=1e-10)
    want = [0.9620399769726676, 0.9054777732996826, 0.8620214315170911, 0.7955168299684625, 0.7372384485612682]
    np.testing.assert_allclose(rossi.survival.mean(axis=0), want, rtol=1e-10)


def test_baseline_hazard_by_hand():
    # At 2 two of (1, 2, 3) die, tied: 2 / 6. At 4 the last of risk 3: 1 / 3. The first was censored at 1.
    baseline = breslow_baseline([1, 2, 2, 4], [0, 1, 1, 1], np.log([7, 1, 2, 3]))
    assert baseline.times.tolist() == [2, 4]
    np.testing.assert_allclose(baseline.cumulative, [1 / 3, 2 / 3])
    survival = baseline.survival([0, math.log(3)], [1, 2, 3, 4, 9])
    np.testing.assert_allclose(-np.log(survival), [[0, 1 / 3, 1 / 3, 2 / 3, 2 / 3], [0, 1, 1, 2, 2]], atol=1e-15)


@pytest.mark.parametrize("offset", [-2000, 0, 2000])
def test_survival_does_not_depend_on_the_offset_of_risks(offset):
    risk = np.array([0.3, -1.0, 0.5, 0.0])
    baseline = breslow_baseline([1, 2, 3, 4], [1, 0, 1, 1], risk + offset)
    want = breslow_baseline([1, 2, 3, 4], [1, 0, 1, 1], risk).survival(risk, [1, 2, 3])
    np.testing.assert_allclose(baseline.survival(risk + offset, [1, 2, 3]), want, rtol=1e-9)


def test_a_risk_beyond_all_bounds_is_no_survival():
    assert breslow_baseline([1, 2], [1, 1], [0, 0]).survival([2000, -2000], [1]).tolist() == [[0], [1]]


def test_baseline_hazard_needs_an_event():
    with pytest.raises(UsageError, match="no training patient has an event"):
        breslow_baseline([1, 2], [0, 0], [0, 0])


def test_brier_score_of_rossi_is_that_of_scikit_survival(rossi):
    score = brier_score(*rossi.train, *rossi.test, rossi.survival, WEEKS)
    want = [0.027246887271649305, 0.0732934356455279, 0.1078737834885838, 0.1394321018626868, 0.17057699336711643]
    np.testing.assert_allclose(score, want, rtol=1e-10)
    integrated = integrated_brier_score(*rossi.train, *rossi.test, rossi.survival, WEEKS)
    assert integrated == pytest.approx(0.10487781532904535, rel=1e-10)


def test_brier_score_under_censoring_is_that_of_scikit_survival(heavy):
    score = brier_score(*heavy.train, *heavy.test, heavy.survival, HEAVY_TIMES)
    want = [0.11796156514457239, 0.21305643113392025, 0.2581321860767457, 0.3258075726734258]
    np.testing.assert_allclose(score, want, rtol=1e-10)
    integrated = integrated_brier_score(*heavy.train, *heavy.test, heavy.survival, HEAVY_TIMES)
    assert integrated == pytest.approx(0.23011041272679944, rel=1e-10)


def test_brier_score_by_hand():
    # Training: one of four is censored at 2, when three are at risk: G is 2/3 from 2 on.
    train = ([1, 2, 3, 4], [1, 0, 1, 1])
    # At 2.5: died at 1 (weight 1), died at 2 (weight 3/2), censored at 2 (0), alive at 3 (3/2).
    score = brier_score(*train, [1, 2, 2, 3], [1, 1, 0, 1], [[0.2], [0.4], [0.9], [0.7]], [2.5])
    np.testing.assert_allclose(score, [(0.2**2 + 1.5 * 0.4**2 + 1.5 * 0.3**2) / 4])


def test_integrated_brier_score_is_a_mean_over_time():
    train = ([1, 2, 3], [1, 1, 1])
    # Of one patient who dies at 2: errors .5^2 of one alive at 0 and 1, of one dead at 2.
    survival = [[0.5, 0.5, 0.5]]
    assert integrated_brier_score(*train, [2], [1], survival, [0, 1, 2]) == pytest.approx(0.25)
    survival = [[1, 0.5, 0.5]]
    assert integrated_brier_score(*train, [2], [1], survival, [0, 0.5, 2]) == pytest.approx((0.0625 + 0.375) / 2)
    with pytest.raises(UsageError, match="a span needs two times"):
        integrated_brier_score(*train, [2], [1], [[0.5]], [1])


def test_dynamic_auc_of_rossi_is_that_of_scikit_survival(rossi):
    auc, mean = cumulative_dynamic_auc(*rossi.train, *rossi.test, rossi.risk, WEEKS)
    want = [0.6412698412698412, 0.7147867564534232, 0.657959726443769, 0.6573033707865168, 0.6557228915662651]
    np.testing.assert_allclose(auc, want, rtol=1e-10)
    assert mean == pytest.approx(0.6689273159231632, rel=1e-10)


def test_dynamic_auc_under_censoring_is_that_of_scikit_survival(heavy):
    auc, mean = cumulative_dynamic_auc(*heavy.train, *heavy.test, HEAVY_RISK, HEAVY_TIMES)
    want = [0.5227272727272727, 0.4492436305732484, 0.5822401487736228, 0.42328707449125647]
    np.testing.assert_allclose(auc, want, rtol=1e-10)
    assert mean == pytest.approx(0.5047419821661425, rel=1e-10)


def test_dynamic_auc_with_nobody_censored_is_the_plain_auc():
    rng = np.random.default_rng(1)
    time, risk, ones = rng.permutation(30) + 1, rng.integers(0, 8, 30), np.ones(30)
    auc, _ = cumulative_dynamic_auc(time, ones, time, ones, risk, [5, 15])
    assert auc.tolist() == pytest.approx([roc_auc_score(time <= t, risk) for t in (5, 15)])


def test_dynamic_auc_by_hand():
    train = ([1, 2, 3, 4], [1, 0, 1, 1])  # G is 2/3 from 2 on
    # At 2.5 cases of risk 5 (weight 1) and 2 (3/2), survivors of 1 and 2: won 2, and 1 + 1/2.
    auc, mean = cumulative_dynamic_auc(*train, [1, 2, 3, 3], [1, 1, 1, 0], [5, 2, 1, 2], [0.5, 1, 2.5, 3])
    at_1, at_2_5 = 1.0, (1 * 2 + 1.5 * 1.5) / (2.5 * 2)
    np.testing.assert_allclose(auc, [math.nan, at_1, at_2_5, math.nan])  # no case yet; no survivor any more
    assert mean == pytest.approx((at_1 + at_2_5) / 2)  # the curve falls from 1 to 3/4 and on to 1/2


def test_times_need_a_weight():
    with pytest.raises(UsageError, match=r"Every training patient is censored by 3.*Give times below 3\."):
        brier_score([1, 3], [1, 0], [1, 4], [1, 1], [[0.5], [0.5]], [3])
    with pytest.raises(UsageError, match=r"Time 4 lies beyond the last training time 3.*Give times below 3\."):
        cumulative_dynamic_auc([1, 3], [1, 1], [1, 4], [1, 1], [2, 1], [4])
    assert brier_score([1, 3], [1, 0], [1, 4], [1, 1], [[0.5], [0.5]], [2]) == [0.25]


@pytest.mark.parametrize(
    ("survival", "times", "said"),
    [
        ([[0.5, 0.5]], [1, 2], r"shape \(1, 2\), not \(2, 2\)"),
        ([[0.5], [1.5]], [1], "outside 0 to 1"),
        ([[0.5], [math.nan]], [1], "outside 0 to 1"),
        ([[0.5, 0.5], [0.5, 0.5]], [2, 1], "times do not ascend"),
        (None, [1], "shape"),
    ],
)
def test_curves_are_refused(survival, times, said):
    with pytest.raises(UsageError, match=f"Survival cannot be judged.*{said}"):
        brier_score([1, 3], [1, 1], [1, 2], [1, 1], survival, times)


def test_usual_tau_is_the_last_event_that_has_a_weight(rossi):
    # Everybody is censored at 9, so G > 0 is last known at 7; the last event before is at 6.
    assert usual_tau([2, 7, 9], [1, 1, 0], [3, 6, 7, 8], [1, 1, 1, 1]) == 6
    assert usual_tau([2, 7, 9], [1, 1, 1], [3, 6, 7, 8], [1, 1, 0, 1]) == 8
    assert math.isnan(usual_tau([2, 7, 9], [1, 1, 0], [8, 3], [1, 0]))
    assert math.isnan(usual_tau([2, 2], [0, 0], [1, 3], [1, 0]))
    assert usual_tau(*rossi.train, *rossi.test) == 49


def test_all_metrics_of_rossi(rossi):
    got = survival_metrics(*rossi.train, *rossi.test, rossi.risk, rossi.survival, WEEKS)
    assert got == {
        "harrell_c": pytest.approx(0.6332790721334826, rel=1e-10),
        "uno_c": pytest.approx(0.6437391806116561, rel=1e-10),  # scikit-survival, tau=49
        "ibs": pytest.approx(0.10487781532904535, rel=1e-10),
        "td_auc": pytest.approx(0.6689273159231632, rel=1e-10),
    }
    wider = survival_metrics(*rossi.train, *rossi.test, rossi.risk, tau=52)
    assert wider == {"harrell_c": got["harrell_c"], "uno_c": pytest.approx(0.6448794863698558, rel=1e-10)}


def test_concordances_are_the_published_ones(heavy):
    got = survival_metrics(*heavy.train, *heavy.test, HEAVY_RISK)
    tau = usual_tau(*heavy.train, *heavy.test)
    assert got["harrell_c"] == concordance_index(*heavy.test, HEAVY_RISK)
    assert got["uno_c"] == concordance_index_ipcw(*heavy.train, *heavy.test, HEAVY_RISK, tau)
    assert got["uno_c"] != got["harrell_c"]


def test_what_a_draw_does_not_define_is_nan():
    train, nobody_dies = ([1, 2, 3, 4], [1, 0, 1, 1]), ([2, 2], [0, 0])
    got = survival_metrics(*train, *nobody_dies, [1, 2], [[0.5, 0.5], [0.5, 0.5]], [2.5, 3])
    assert set(got) == {"harrell_c", "uno_c", "ibs", "td_auc"} and all(math.isnan(v) for v in got.values())
    assert math.isnan(survival_metrics(*train, [2, 2], [1, 1], [1, 2])["uno_c"])


def test_what_is_wrong_is_no_nan():
    train = ([1, 2, 3, 4], [1, 1, 1, 0])
    with pytest.raises(UsageError, match="risk holds NaN"):
        survival_metrics(*train, [1, 2], [1, 1], [1, math.nan])
    with pytest.raises(UsageError, match=r"censored by 4.*Give a tau of at most 4"):
        survival_metrics(*train, [1, 4], [1, 1], [2, 1], tau=5)
    with pytest.raises(UsageError, match="Give times below 4"):
        survival_metrics(*train, [1, 4], [1, 1], [2, 1], times=[4])
    with pytest.raises(UsageError, match="Survival cannot be judged"):
        survival_metrics(*train, [1, 4], [1, 1], [2, 1], survival=[[0.5], [0.5]])
