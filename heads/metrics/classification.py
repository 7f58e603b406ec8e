"""How well predictions agree with the truth: classes, biomarkers and numbers.

Higher is better, but for brier, ece, mae and rmse, where 0 is best. What the data do not define is NaN, not an error:
draws of a bootstrap lose a class now and then. What is written wrongly is a UsageError.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, r2_score, roc_curve

from heads.concordance import columns
from heads.metrics.calibration import expected_calibration_error
from heads.metrics.inputs import NAN, Classes, Column, answers, both, classes, numbers, refuse_improbable
from heads.problems import refuse

_ABOUT = "Predictions cannot be judged"


def classification_metrics(y: Any, p: Any) -> dict[str, float]:
    """What is asked of probabilities of C classes. y (n,) class index from 0; p (n, C), rows sum to 1.

    auroc, auprc       of class 1 where C = 2, else the plain mean of each class against the rest (macro); 0..1
    balanced_accuracy  mean recall of the classes, 0..1; as all below of the most probable class, of equals the first
    f1                 plain mean of the classes' F1 (macro), where C = 2 too; 0..1
    kappa              Cohen 1960, unweighted; at most 1, 0 is chance
    kappa_quadratic    Cohen 1968, misses weigh by the square of their distance: for classes that have an order
    accuracy           0..1
    brier              Brier 1950, squared error summed over the classes, mean of the samples, 0..2; where C = 2 half
                       of it, 0..1: the squared error of class 1 alone, as everyone reports and `biomarker_metrics` does
    ece                of the highest probability, 0..1 (see `expected_calibration_error`)

    The first four are NaN where a class is absent from y, the kappas where y and predictions are all one class.
    Raises UsageError for shapes, y that is no class index, p outside 0..1 or rows of p that do not sum to 1.
    """
    y, p = _probabilities(y, p)
    label, n_classes = p.argmax(axis=1), p.shape[1]
    table = _confusion(y, label, n_classes)
    ranking = _ranking(y == 1, p[:, 1]) if n_classes == 2 else np.mean(_of_each(y, p), axis=0)
    squares = ((p - np.eye(n_classes)[y]) ** 2).sum(axis=1)
    return {
        "auroc": float(ranking[0]),
        "auprc": float(ranking[1]),
        "balanced_accuracy": float(_recall(table).mean()),
        "f1": float(_f1(table).mean()),
        "kappa": _kappa(table, _far(n_classes) > 0),
        "kappa_quadratic": _kappa(table, _far(n_classes) ** 2),
        "accuracy": float((y == label).mean()),
        "brier": float(squares.mean() / (2 if n_classes == 2 else 1)),
        "ece": expected_calibration_error(p.max(axis=1), y == label),
    }


def per_class_auroc(y: Any, p: Any) -> list[float]:
    """AUROC of each of C classes against the rest, NaN for a class that is absent or alone.

    y, p and errors as in `classification_metrics`.
    """
    return [auroc for auroc, _ in _of_each(*_probabilities(y, p))]


def biomarker_metrics(y: Any, p: Any, thresholds: Any) -> list[dict[str, float]]:
    """What is asked of k yes-or-no questions: one dict each, over its known answers.

    y (n, k) 1, 0 or NaN where unknown; p (n, k) probability of 1; thresholds (k,): from it up, p counts as 1.
    auroc, auprc, balanced_accuracy and f1 (of the 1s) are NaN where one of both answers is absent, kappa where answers
    and predictions are all the same, brier (mean squared error, 0..1) and ece (of p against the share of 1s) where no
    answer is known. Ranges and papers as in `classification_metrics`. Raises UsageError for shapes and values.
    """
    y, p, thresholds = (numbers(_ABOUT, given) for given in (y, p, thresholds))
    if y.ndim != 2 or p.shape != y.shape or thresholds.shape != y.shape[1:]:
        shapes = f"y {y.shape}, p {p.shape} and thresholds {thresholds.shape}"
        refuse([f"{shapes} are not (n, k), (n, k) and (k,)"], _ABOUT)
    return [_one_biomarker(*column) for column in zip(y.T, p.T, thresholds, strict=True)]


def regression_metrics(y: Any, prediction: Any) -> dict[str, float]:
    """Of numbers (n,) each: mae and rmse in their unit; r2, at most 1, 0 is the mean of y; pearson, spearman, -1..1.

    r2 is NaN where y is constant, the correlations where either is. Raises UsageError for shapes, NaN or inf.
    """
    y, prediction = columns(_ABOUT, y=y, prediction=prediction)
    error, varied = prediction - y, np.ptp(y) > 0
    related = varied and np.ptp(prediction) > 0
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float(r2_score(y, prediction)) if varied else NAN,
        "pearson": float(np.corrcoef(y, prediction)[0, 1]) if related else NAN,
        "spearman": float(spearmanr(y, prediction).statistic) if related else NAN,
    }


def youden_threshold(y: Any, p: Any) -> float:
    """The threshold with the highest sensitivity + specificity, to call 1 from it up (Youden, Cancer 1950).

    y (n,) 1, 0, or NaN where unknown; p (n,) higher = more likely 1. The threshold lies halfway down to the next p, so
    that it hugs no one's score; of equals it is the highest. 0.5 where one answer is absent or none beats chance.
    For validation data only: chosen on the data that are reported, it flatters every metric that uses it.
    Raises UsageError for shapes and values.
    """
    y, p = answers(_ABOUT, y, p)
    if not both(y):
        return 0.5
    false_alarms, found, cuts = roc_curve(y, p, drop_intermediate=False)
    best = int((found - false_alarms).argmax())  # 0 calls nobody
    return float(cuts[best : best + 2].mean()) if best else 0.5


def _probabilities(y: Any, p: Any) -> tuple[Classes, Column]:
    y, p = classes(_ABOUT, y, p)
    refuse_improbable(_ABOUT, p)
    # As much as probabilities lose in float16.
    refuse([] if np.abs(p.sum(axis=1) - 1).max() < 2e-3 else ["rows of probabilities do not sum to 1"], _ABOUT)
    return y, p


def _one_biomarker(y: Column, p: Column, threshold: float) -> dict[str, float]:
    known, p = answers(_ABOUT, y, p)
    refuse_improbable(_ABOUT, p)
    auroc, auprc = _ranking(known == 1, p)
    table = _confusion(known, p >= threshold, 2)
    return {
        "auroc": auroc,
        "auprc": auprc,
        "balanced_accuracy": float(_recall(table).mean()),
        "f1": float(_f1(table)[1]),
        "kappa": _kappa(table, _far(2)),
        "brier": float(((p - known) ** 2).mean()) if len(p) else NAN,
        "ece": expected_calibration_error(p, known) if len(p) else NAN,
    }


def _of_each(y: Classes, p: Column) -> list[tuple[float, float]]:
    return [_ranking(y == c, p[:, c]) for c in range(p.shape[1])]


def _ranking(y: NDArray[np.bool_], p: Column) -> tuple[float, float]:
    """AUROC, and AUPRC as average precision: the mean, over all who are found, of the precision at which they are.

    From one curve, because a bootstrap asks a thousand times and most of the time goes into checking its inputs.
    """
    if not both(y):
        return NAN, NAN
    false_alarms, found, _ = roc_curve(y, p, drop_intermediate=False)
    right, wrong = found[1:] * y.sum(), false_alarms[1:] * (~y).sum()
    return float(np.trapezoid(found, false_alarms)), float(np.diff(found) @ (right / (right + wrong)))


def _confusion(y: Classes, label: NDArray[Any], n_classes: int) -> Column:
    """(C, C) how many of each class (row) were given each label (column)."""
    if not len(y):
        return np.zeros((n_classes, n_classes))
    return confusion_matrix(y, label, labels=np.arange(n_classes)).astype(np.float64)


def _recall(table: Column) -> Column:
    return table.diagonal() / _divisor(table.sum(axis=1))


def _f1(table: Column) -> Column:
    """(C,) of each class; all NaN where one is absent, of which F1 would be 0 or nothing by whim of the labels."""
    truth, labels = table.sum(axis=1), table.sum(axis=0)
    return 2 * table.diagonal() / (truth + labels) if truth.all() else np.full(len(table), NAN)


def _kappa(table: Column, weights: NDArray[Any]) -> float:
    """1 - weighted misses / those expected of chance; NaN where chance cannot miss."""
    by_chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / _divisor(table.sum())
    return float(1 - (weights * table).sum() / _divisor((weights * by_chance).sum()))


def _far(n_classes: int) -> Column:
    """(C, C) how far each label lies from each class."""
    place = np.arange(n_classes, dtype=np.float64)
    return np.abs(place[:, None] - place)


def _divisor(of: Any) -> Any:
    return np.where(of == 0, NAN, of)
