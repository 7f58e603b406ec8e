"""Cross-validation: what a fold must leave to train on."""

from __future__ import annotations

import numpy as np
import pytest

from heads import Bag, TrainConfig, cross_validate
from wsi.errors import UsageError

BAGS = [Bag(x=np.eye(3)[[i % 3, (i + 1) % 3]], cells=None, slide_id=f"s{i}", encoder_digest="e") for i in range(6)]


@pytest.mark.parametrize(
    ("task", "targets", "told"),
    [
        ("classification", ["a", "b", "c", "c", "a", "b"], "no training bag is of class c"),
        ("survival", [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0), (6, 0)], "no target has an event"),
        ("regression", [1.0, 1.0, 2.0, 3.0, 1.0, 1.0], "nothing to learn"),
    ],
)
def test_a_fold_that_takes_too_much_is_refused_by_number(task: str, targets: list[object], told: str) -> None:
    folds = np.array([0, 0, 1, 1, 2, 2])
    with pytest.raises(UsageError, match=f"Fold 2 leaves too little.*{told}"):
        cross_validate(BAGS, targets, folds, task=task, config=TrainConfig(head="mean", epochs=1))
