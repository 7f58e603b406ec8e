"""Temperature, reliability and calibration against scikit-learn, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, log_softmax, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from heads.metrics import (
    calibration_line,
    expected_calibration_error,
    fit_temperature,
    fit_temperature_binary,
    reliability_curve,
)
from wsi.errors import UsageError


def honest(n=4000, n_classes=3, seed=1):
    """Logits, and classes drawn with the probabilities they stand for."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, n_classes))
    return z, (z + rng.gumbel(size=z.shape)).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_factor_on_honest_logits(factor):
    z, y = honest()
    assert fit_temperature(factor * z, y) == pytest.approx(factor, rel=0.05)


def test_temperature_is_the_least_of_a_grid():
    z, y = honest(n=60)
    t = fit_temperature(z, y)

    def loss(t):
        return -log_softmax(z / t, axis=1)[np.arange(60), y].mean()

    assert loss(t) <= min(loss(s) for s in np.geomspace(0.1, 10, 400)) + 1e-9


def test_temperature_of_two_classes_is_the_inverse_slope_of_a_logistic_regression():
    z, y = honest(n=500, n_classes=2)
    logits = 1.7 * (z[:, 1] - z[:, 0])
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], y)
    assert fit_temperature_binary(logits, y) == pytest.approx(1 / fitted.coef_[0, 0], rel=1e-4)
    unknown = np.append(y.astype(float), np.nan)
    assert fit_temperature_binary(np.append(logits, np.nan), unknown) == fit_temperature_binary(logits, y)


def test_temperature_stays_in_its_range():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(200, 2))
    assert fit_temperature(z, z.argmin(axis=1)) == pytest.approx(10, rel=1e-3)  # always wrong: as unsure as can be
    y = z.argmax(axis=1)
    y[0] = 1 - y[0]
    z[0] *= 1e-9
    assert fit_temperature(z, y) == pytest.approx(0.1, rel=1e-3)


def test_temperature_is_one_where_data_cannot_tell():
    z, y = honest(n=12)
    assert fit_temperature(z, y) != 1
    assert fit_temperature(z[:9], y[:9]) == 1  # too few
    assert fit_temperature(z, np.zeros(12)) == 1  # one class
    assert fit_temperature(z, z.argmax(axis=1)) == 1  # all right: any T is beaten by a smaller one
    assert fit_temperature_binary([1.0, 2.0], [np.nan, np.nan]) == 1


@pytest.mark.parametrize(
    ("logits", "y", "said"),
    [
        ([[1.0, 2.0]], [0, 1], r"\(1, 2\) scores for labels \(2,\)"),
        ([[1.0, np.inf], [0, 1]], [0, 1], "NaN or inf"),
        ([[1.0, 2.0], [0, 1]], [0, 2], "class indices, 0 to 1"),
    ],
)
def test_temperature_refuses(logits, y, said):
    with pytest.raises(UsageError, match=f"A temperature cannot be fitted.*{said}"):
        fit_temperature(logits, y)


def test_reliability_against_scikit_learn():
    rng = np.random.default_rng(3)
    p = rng.uniform(0, 0.9, 500)  # the last bin stays empty
    y = rng.uniform(size=500) < p**2
    mean, share, count = reliability_curve(p, y)
    want_share, want_mean = calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose(mean[:9], want_mean)
    np.testing.assert_allclose(share[:9], want_share)
    assert count.sum() == 500 and count[9] == 0 and math.isnan(mean[9]) and math.isnan(share[9])


def test_a_bin_holds_its_upper_edge():
    _, share, count = reliability_curve([0, 0.5, 0.5, 0.6, 1], [1, 1, 0, 0, 1], bins=2)
    assert count.tolist() == [3, 2] and share.tolist() == pytest.approx([2 / 3, 1 / 2])


def test_calibration_error_by_hand():
    # Bin (0, .5]: mean .3, half right. Bin (.5, 1]: mean .8, all right.
    confidence, correct = [0.2, 0.4, 0.7, 0.8, 0.9], [1, 0, 1, 1, 1]
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(2 / 5 * 0.2 + 3 / 5 * 0.2)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0
    # One of 15 bins ends at .667: .65 and .68 lie apart, as in 10 bins they would not, and misses do not cancel.
    assert expected_calibration_error([0.65, 0.68], [1, 0]) == pytest.approx((0.35 + 0.68) / 2)


def test_calibration_line_is_a_logistic_regression_on_the_log_odds():
    rng = np.random.default_rng(4)
    z = rng.normal(1, 2, 300)
    y = (rng.uniform(size=300) < expit(0.5 * z - 0.7)).astype(float)
    x = logit(p := expit(z))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x[:, None], y)
    line = calibration_line(y, p)
    assert line.slope == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    assert line.intercept == pytest.approx(fitted.intercept_[0], rel=1e-4)
    y[:50] = np.nan
    assert calibration_line(y, p) == calibration_line(y[50:], p[50:])


def test_calibration_line_of_four_cells_by_hand():
    # At p = 1/4 three of eight are positive, at p = 3/4 five of eight: log odds go from -log 5/3 to log 5/3.
    p, y = np.repeat([0.25, 0.75], 8), [1] * 3 + [0] * 5 + [1] * 5 + [0] * 3
    line = calibration_line(y, p)
    assert line.slope == pytest.approx(math.log(5 / 3) / math.log(3)) and line.intercept == pytest.approx(0, abs=1e-6)


def test_certain_probabilities_are_borne():
    line = calibration_line([0, 1, 0, 1], [0.0, 1.0, 1.0, 0.0])
    assert line.slope == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("y", "p"),
    [([1, 1], [0.2, 0.3]), ([0, 1, 1], [0.2, 0.2, 0.9]), ([1, 1, 0], [0.1, 0.2, 0.3]), ([0, 1], [0.4, 0.4])],
)
def test_no_line_where_none_is_best(y, p):
    assert math.isnan(calibration_line(y, p).slope)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "said"),
    [
        ([0.5, 1.5], [1, 0], 10, "outside 0 to 1"),
        ([0.5, 0.5], [1, 0.5], 10, "correct holds other values"),
        ([0.5], [1, 0], 10, "lengths differ"),
        ([0.5], [1], 0, "0 bins"),
        ([], [], 10, "are 0"),
    ],
)
def test_reliability_refuses(confidence, correct, bins, said):
    with pytest.raises(UsageError, match=f"Calibration cannot be judged.*{said}"):
        reliability_curve(confidence, correct, bins)
