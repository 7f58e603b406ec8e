"""Heads in scikit-learn's manner, and two of them compared on the same patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from heads import MILEstimator, TrainConfig, cross_validate
from heads.evaluation import compare, evaluate
from wsi.errors import UsageError

SETTINGS = {"hidden": 16, "attention": 8}


def cohort(n: int = 24, shift: float = 2.0) -> tuple[list[np.ndarray], np.ndarray]:
    """Bags of 10 tiles; in every second one, half of them are shifted."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % 2
    return [rng.normal(size=(10, 6)) + shift * label * (np.arange(10) < 5)[:, None] for label in y], y


def test_it_can_be_cloned_and_cross_validated() -> None:
    bags, y = cohort()
    estimator = MILEstimator(epochs=8, lr=0.01, settings=SETTINGS)
    assert clone(estimator).get_params() == estimator.get_params()
    holder = np.empty(len(bags), dtype=object)
    holder[:] = bags
    assert cross_val_score(estimator, holder, y, cv=3).mean() > 0.85


def test_labels_come_back_as_they_were_given() -> None:
    bags, y = cohort()
    words = ["high" if label else "low" for label in y]
    fitted = MILEstimator(epochs=8, lr=0.01, settings=SETTINGS).fit(bags[:16], words[:16])
    assert list(fitted.classes_) == ["high", "low"] and set(fitted.predict(bags)) == {"high", "low"}
    assert fitted.predict_proba(bags).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert fitted.score(bags[16:], words[16:]) == np.mean(fitted.predict(bags[16:]) == np.array(words[16:]))


def test_survival_scores_by_concordance_and_has_no_probabilities() -> None:
    bags, y = cohort()
    outcome = [(3.0 + i % 3 + 9 * (1 - label), 1) for i, label in enumerate(y)]
    fitted = MILEstimator("survival", epochs=40, lr=0.01, settings=SETTINGS).fit(bags, outcome)
    assert fitted.score(bags, outcome) > 0.75 and fitted.predict(bags).shape == (24,)
    with pytest.raises(AttributeError, match="use predict"):
        fitted.predict_proba(bags)


def test_a_head_that_sees_beats_one_that_cannot() -> None:
    from heads.estimator import as_bags

    bags, y = cohort(40)
    blind, _ = cohort(40, shift=0.0)
    folds, targets = np.arange(40) // 2 % 4, [int(label) for label in y]
    config = TrainConfig(epochs=8, lr=0.01, **SETTINGS)  # type: ignore[arg-type]
    a, b = (cross_validate(as_bags(x), targets, folds, config=config).answers for x in (bags, blind))
    found = compare(a, b, draws=200)["auroc"]
    assert found.low > 0 and found.p < 0.05
    chance = evaluate(b, draws=200).overall["auroc"]
    assert chance.low < 0.5 < chance.high  # nothing to see: chance lies in the interval
    with pytest.raises(UsageError, match="cannot be compared"):
        compare(a, cross_validate(as_bags(bags), targets, (folds + 1) % 4, config=config).answers)
