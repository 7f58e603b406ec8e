"""Whether probabilities mean what they say, and the one number that makes them say less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit, logsumexp

from heads.concordance import columns
from heads.metrics.inputs import NAN, Column, answers, both, classes, refuse_improbable
from heads.problems import refuse

T_RANGE = (0.1, 10.0)  # of temperatures: beyond, a head is wrong in other ways than by being too sure
FEWEST = 10  # answers that a temperature is fitted to: of fewer, it says more of chance than of the head
_TEMPERATURE, _CALIBRATION = "A temperature cannot be fitted", "Calibration cannot be judged"
_NEVER_CERTAIN = 1e-7  # probabilities of float32 reach 0 and 1, whose log odds are infinite


@dataclass(frozen=True, slots=True)
class CalibrationLine:
    """log odds of the truth = intercept + slope * log odds of p. 1 and 0 are perfect; NaN where no line fits best."""

    slope: float  # below 1: too sure; above 1: not sure enough
    intercept: float  # of the joint fit; above 0: at p = 0.5 the event is more frequent than half


def fit_temperature(logits: Any, y: Any) -> float:
    """T such that softmax(logits / T) has the least negative log likelihood (Guo et al., ICML 2017), 0.1 to 10.

    logits (n, C); y (n,) class index from 0. Above 1: the head was too sure. Fit it on validation data only. A sample's
    order of classes stays as it is; with more than two classes, the order of samples in one class may not. 1.0, which
    changes nothing, where data cannot tell: fewer than 10 samples, one class, or no sample with another class ahead of
    its own (the likelihood then wants T = 0).

    Raises UsageError for shapes, NaN or inf, and y that is no class index.
    """
    y, logits = classes(_TEMPERATURE, y, logits)
    right = y[:, None]
    ahead = logits - np.take_along_axis(logits, right, axis=1)  # (n, C) by how much a class outdoes the right one
    others = np.arange(logits.shape[1]) != right
    if len(y) < FEWEST or len(np.unique(y)) < 2 or ahead[others].max() <= 0:
        return 1.0
    bounds = [math.log(t) for t in T_RANGE]
    best = minimize_scalar(
        lambda log_t: logsumexp(ahead / math.exp(log_t), axis=1).mean(), bounds=bounds, method="bounded"
    )
    return math.exp(best.x)


def fit_temperature_binary(logits: Any, y: Any) -> float:
    """T such that sigmoid(logits / T) has the least negative log likelihood: `fit_temperature` of two classes.

    logits (n,); y (n,) 1, 0, or NaN where unknown. Range, 1.0 and errors are the same.
    """
    y, logits = answers(_TEMPERATURE, y, logits)
    return fit_temperature(np.stack([np.zeros_like(logits), logits], axis=1), y) if len(y) else 1.0


def reliability_curve(confidence: Any, correct: Any, bins: int = 10) -> tuple[Column, Column, NDArray[np.int64]]:
    """Mean confidence, share correct, and count (bins,) each, over equal bins of confidence.

    confidence (n,) 0..1; correct (n,) true or false. A bin holds its upper edge, the first 0 too. NaN in empty bins.
    For a yes-or-no question, confidence may be p of yes, and correct whether it was yes. UsageError for bad values.
    """
    confidence, correct = columns(_CALIBRATION, one_or_zero=("correct",), confidence=confidence, correct=correct)
    refuse_improbable(_CALIBRATION, confidence)
    refuse([] if bins >= 1 else [f"there are {bins} bins"], _CALIBRATION)
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin = np.searchsorted(inner_edges, confidence, side="left")
    count = np.bincount(bin, minlength=bins)
    divisor = np.where(count > 0, count, NAN)
    mean, share = (np.bincount(bin, column, minlength=bins) / divisor for column in (confidence, correct))
    return mean, share, count


def expected_calibration_error(confidence: Any, correct: Any, bins: int = 15) -> float:
    """Mean distance of confidence and share correct over the bins of `reliability_curve`, weighted by their counts.

    0..1, 0 is best. Biased upwards on few samples. Naeini et al., AAAI 2015; 15 bins as in Guo et al., ICML 2017.
    """
    mean, share, count = reliability_curve(confidence, correct, bins)
    return float(np.nansum(np.abs(mean - share) * count) / count.sum())


def calibration_line(y: Any, p: Any) -> CalibrationLine:
    """Slope and intercept of the logistic regression of y on the log odds of p (Cox, Biometrika 1958).

    y (n,) 1, 0, or NaN where unknown; p (n,) probability of 1, taken as at least 1e-7 from 0 and 1. NaN where one
    answer is absent, p is constant, or a threshold parts the answers, for then no slope is best.
    Raises UsageError for shapes and values.
    """
    y, p = answers(_CALIBRATION, y, p)
    refuse_improbable(_CALIBRATION, p)
    x = logit(p.clip(_NEVER_CERTAIN, 1 - _NEVER_CERTAIN))
    if not both(y) or _parted(x[y == 0], x[y == 1]):
        return CalibrationLine(NAN, NAN)
    z = (x - x.mean()) / x.std()  # fitted in standard units, where one step fits all
    flat, steep = minimize(_logistic, np.zeros(2), args=(z, y), jac=True, options={"gtol": 1e-9}).x
    return CalibrationLine(slope=float(steep / x.std()), intercept=float(flat - steep * x.mean() / x.std()))


def _logistic(line: Column, z: Column, y: Column) -> tuple[float, Column]:
    """Mean negative log likelihood of intercept and slope (2,), and its gradient."""
    eta = line[0] + line[1] * z
    miss = expit(eta) - y
    return float((np.logaddexp(0, eta) - y * eta).mean()), np.array([miss.mean(), (miss * z).mean()])


def _parted(no: Column, yes: Column) -> bool:
    """Whether a threshold parts the two, itself open to both: it does where all are equal."""
    return bool(no.max() <= yes.min() or yes.max() <= no.min())
