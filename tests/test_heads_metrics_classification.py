"""Metrics of classes, biomarkers and numbers against scikit-learn 1.9 and by hand; and what draws may lack."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from heads.metrics import (
    biomarker_metrics,
    classification_metrics,
    per_class_auroc,
    regression_metrics,
    youden_threshold,
)
from wsi.errors import UsageError


def some_predictions(n_classes, n=80, seed=1):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    z = rng.normal(size=(n, n_classes)) + 1.2 * np.eye(n_classes)[y]
    return y, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes_as_scikit_learn_sees_them(n_classes):
    y, p = some_predictions(n_classes)
    label = p.argmax(axis=1)
    want = {
        "auroc": sk.roc_auc_score(y, p[:, 1] if n_classes == 2 else p, multi_class="ovr", average="macro"),
        "balanced_accuracy": sk.recall_score(y, label, average="macro"),
        "f1": sk.f1_score(y, label, average="macro"),
        "kappa": sk.cohen_kappa_score(y, label),
        "kappa_quadratic": sk.cohen_kappa_score(y, label, weights="quadratic"),
        "accuracy": sk.accuracy_score(y, label),
        "brier": sk.brier_score_loss(y, p),  # scaled by half for two classes, and only then
    }
    got = classification_metrics(y, p)
    assert {name: got[name] for name in want} == pytest.approx(want)
    truth = np.eye(n_classes)[y]
    of_each = [sk.average_precision_score(truth[:, c], p[:, c]) for c in range(n_classes)]
    assert got["auprc"] == pytest.approx(of_each[1] if n_classes == 2 else np.mean(of_each))


def test_auroc_of_each_class():
    y, p = some_predictions(3)
    want = [sk.roc_auc_score(y == c, p[:, c]) for c in range(3)]
    assert per_class_auroc(y, p) == pytest.approx(want)
    assert classification_metrics(y, p)["auroc"] == pytest.approx(np.mean(want))


def test_five_samples_by_hand():
    y, p1 = [0, 0, 1, 1, 1], np.array([0.1, 0.7, 0.4, 0.8, 0.9])
    got = classification_metrics(y, np.stack([1 - p1, p1], axis=1))
    # (.4, .8, .9) against (.1, .7): 5 of 6 pairs won. Called 1: .7 (wrong), .8, .9. Called 0: .1, .4 (wrong).
    assert got["auroc"] == pytest.approx(5 / 6)
    assert got["auprc"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert got["accuracy"] == pytest.approx(3 / 5)
    assert got["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert got["f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert got["kappa"] == pytest.approx((0.6 - 0.52) / (1 - 0.52))  # chance: .4 * .4 + .6 * .6
    assert got["brier"] == pytest.approx((0.01 + 0.49 + 0.36 + 0.04 + 0.01) / 5)
    # Confidence .9 twice (right), .8 (right), .7 (wrong), .6 (wrong: p1 = .4), each in a bin of its own.
    assert got["ece"] == pytest.approx((2 * 0.1 + 0.2 + 0.7 + 0.6) / 5)


def test_quadratic_kappa_keeps_the_place_of_a_class_that_nobody_has():
    # Classes 0, 2 and 3 of four, with a distant miss: were 1 left out, 0 and 2 would be neighbours.
    y, label = np.array([0, 0, 2, 3, 3]), np.array([0, 2, 2, 3, 3])
    got = classification_metrics(y, np.eye(4)[label])["kappa_quadratic"]
    assert got == pytest.approx(sk.cohen_kappa_score(y, label, labels=[0, 1, 2, 3], weights="quadratic"))
    assert got != pytest.approx(sk.cohen_kappa_score(y, label, weights="quadratic"))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_class_that_a_draw_lost_makes_some_metrics_nan(n_classes):
    y, p = some_predictions(n_classes)
    got = classification_metrics(y[y > 0], p[y > 0])
    undefined = {name for name, value in got.items() if math.isnan(value)}
    assert undefined == {"auroc", "auprc", "balanced_accuracy", "f1"}
    assert np.isnan(per_class_auroc(y[y > 0], p[y > 0])).tolist() == [True] + [n_classes == 2] * (n_classes - 1)


def test_agreement_beyond_chance_is_nan_where_all_is_one_class():
    got = classification_metrics([1, 1], [[0.2, 0.8], [0.1, 0.9]])
    assert math.isnan(got["kappa"]) and math.isnan(got["kappa_quadratic"])
    assert got["accuracy"] == 1 and got["brier"] == pytest.approx(0.025)
    assert classification_metrics([1, 1], [[0.8, 0.2], [0.1, 0.9]])["kappa"] == 0


@pytest.mark.parametrize(
    ("y", "p", "said"),
    [
        ([0, 1], [0.5, 0.5], r"\(2,\) scores for labels \(2,\)"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], r"\(2, 2\) scores for labels \(1,\)"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "class indices, 0 to 1"),
        ([0, np.nan], [[0.5, 0.5], [0.5, 0.5]], "class indices, 0 to 1"),
        ([0, 1], [[0.5, 0.5], [0.5, np.nan]], "NaN or inf"),
        ([0, 1], [[1.5, -0.5], [0.5, 0.5]], "outside 0 to 1"),
        ([0, 1], [[0.7, 0.7], [0.5, 0.5]], "do not sum to 1"),
        (["tumour", "normal"], [[0.5, 0.5], [0.5, 0.5]], "could not convert.*Give numbers"),
        ([], np.empty((0, 2)), "at least one sample"),
        ([0, 0], [[1.0], [1.0]], "two classes"),
    ],
)
def test_classes_refuse(y, p, said):
    for metrics in (classification_metrics, per_class_auroc):
        with pytest.raises(UsageError, match=f"Predictions cannot be judged.*{said}"):
            metrics(y, p)


def test_biomarkers_are_judged_by_their_known_answers():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, (60, 2)).astype(float)
    p = np.clip(0.3 * y + rng.uniform(0, 0.7, (60, 2)), 0, 1)
    y[:20, 1] = np.nan
    p[0, 1] = np.nan  # no answer, no prediction needed
    got = biomarker_metrics(y, p, [0.5, 0.4])
    for j, rows, threshold in [(0, slice(0, 60), 0.5), (1, slice(20, 60), 0.4)]:
        truth, score = y[rows, j], p[rows, j]
        want = {
            "auroc": sk.roc_auc_score(truth, score),
            "auprc": sk.average_precision_score(truth, score),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, score >= threshold),
            "f1": sk.f1_score(truth, score >= threshold),
            "kappa": sk.cohen_kappa_score(truth, score >= threshold),
            "brier": sk.brier_score_loss(truth, score),
        }
        assert {name: got[j][name] for name in want} == pytest.approx(want)
        assert 0 < got[j]["ece"] < 0.5


def test_a_threshold_counts_as_positive_itself():
    got = biomarker_metrics([[0], [1], [1]], [[0.2], [0.5], [0.5]], [0.5])[0]
    assert got["f1"] == got["kappa"] == got["balanced_accuracy"] == 1
    assert got["ece"] == pytest.approx((0.2 + 2 * 0.5) / 3)


def test_biomarkers_without_answers_are_nan():
    unknown, one_sided = biomarker_metrics([[np.nan, 1], [np.nan, 1]], [[0.5, 0.9], [0.5, 0.7]], [0.5, 0.5])
    assert all(math.isnan(value) for value in unknown.values())
    assert {name for name, value in one_sided.items() if not math.isnan(value)} == {"brier", "ece"}


@pytest.mark.parametrize(
    ("y", "p", "said"),
    [
        ([[1], [0]], [[0.5, 0.5], [0.5, 0.5]], "are not"),
        ([[2], [0]], [[0.5], [0.5]], "other values than 0 and 1"),
        ([[1], [0]], [[0.5], [1.5]], "outside 0 to 1"),
        ([[1], [0]], [[0.5], [np.nan]], "scores holds NaN"),
    ],
)
def test_biomarkers_refuse(y, p, said):
    with pytest.raises(UsageError, match=f"Predictions cannot be judged.*{said}"):
        biomarker_metrics(y, p, [0.5])
    with pytest.raises(UsageError, match=r"thresholds \(2,\) are not"):
        biomarker_metrics([[1], [0]], [[0.5], [0.5]], [0.5, 0.5])


def test_regression_against_scikit_learn_and_scipy():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 9, 50).astype(float)
    prediction = y + rng.normal(scale=2, size=50)
    assert regression_metrics(y, prediction) == pytest.approx(
        {
            "mae": sk.mean_absolute_error(y, prediction),
            "rmse": sk.root_mean_squared_error(y, prediction),
            "r2": sk.r2_score(y, prediction),
            "pearson": stats.pearsonr(y, prediction).statistic,
            "spearman": stats.spearmanr(y, prediction).statistic,
        }
    )


def test_regression_of_constants():
    flat = regression_metrics([1, 2], [3, 3])
    assert flat["mae"] == 1.5 and flat["r2"] == -9
    assert math.isnan(flat["pearson"]) and math.isnan(flat["spearman"])
    assert math.isnan(regression_metrics([2], [3])["r2"])


def test_youden_by_hand():
    # From .8 up: 2 of 3 positives, no false alarm; from .3 up: 3 of 3, 2 of 3 false.
    y, p = [1, 1, 0, 0, 1, 0], [0.9, 0.8, 0.5, 0.4, 0.3, 0.1]
    assert youden_threshold(y, p) == pytest.approx(0.65)
    assert youden_threshold([*y, np.nan], [*p, np.nan]) == pytest.approx(0.65)
    assert youden_threshold([1, 0, 1, 0], [0.9, 0.6, 0.4, 0.1]) == pytest.approx(0.75)  # .4 is as good, but lower
    assert youden_threshold([0, 0, 1, 1], [0.2, 0.2, 0.2, 0.8]) == pytest.approx(0.5)


def test_youden_is_the_best_of_all_thresholds():
    y, p = some_predictions(2)
    cut = youden_threshold(y, p[:, 1])
    every = [sk.balanced_accuracy_score(y, p[:, 1] >= t) for t in p[:, 1]]
    assert sk.balanced_accuracy_score(y, p[:, 1] >= cut) == pytest.approx(max(every))


@pytest.mark.parametrize(("y", "p"), [([1, 1], [0.1, 0.2]), ([0, 1], [0.9, 0.1]), ([0, 1], [0.3, 0.3])])
def test_youden_has_nothing_to_say(y, p):
    assert youden_threshold(y, p) == 0.5


def test_heads_and_its_metrics_start_without_the_heavy_libraries():
    code = "import sys, heads, heads.metrics; print(','.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.strip().split(",")) & {"sklearn", "lifelines", "torch", "pandas"} == set()


def test_every_public_name_is_there():
    import heads.metrics

    assert [name for name in heads.metrics.__all__ if not hasattr(heads.metrics, name)] == []
    with pytest.raises(AttributeError, match="accuracy_at"):
        heads.metrics.accuracy_at  # noqa: B018
