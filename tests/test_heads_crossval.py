"""Cross-validation: what a fold must leave to train on, and who answers for whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from heads import Bag, TrainConfig, cross_validate
from heads.evaluation import evaluate
from heads.member import Member
from heads.tasks import Classification
from heads.trained import TrainedHead
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


@pytest.fixture(scope="module")
def noise() -> list[Bag]:
    rng = np.random.default_rng(1)
    return [Bag(x=rng.normal(size=(9, 6)), cells=None, slide_id=f"n{i}", encoder_digest="e") for i in range(12)]


LABELS = ["a", "b"] * 6
SHORT = TrainConfig(head="abmil", hidden=8, attention=4, epochs=3)


@pytest.mark.parametrize("names", [(-1, 0), (1, 2), ("test", "train")])
def test_folds_may_be_called_anything(noise: list[Bag], names: tuple[object, object]) -> None:
    """A fold called -1 once meant the last member: bags answered by the one that was trained on them."""
    plain = [i // 2 % 2 for i in range(12)]
    expected = cross_validate(noise, LABELS, plain, config=SHORT)
    found = cross_validate(noise, LABELS, [names[f] for f in plain], config=SHORT)
    assert len(found.head.members) == 2 and found.answers.folds.tolist() == plain
    np.testing.assert_array_equal(found.answers.values, expected.answers.values)


def test_contributions_of_several_members_sum_to_the_mean_of_their_outputs(noise: list[Bag]) -> None:
    head = cross_validate(noise, LABELS, [i // 2 % 3 for i in range(12)], config=SHORT).head
    outputs = np.mean([m.outputs(noise[0])[0].numpy() for m in head.members], axis=0)
    found = head.contribution(noise[0])
    assert found is not None and found.shape == (9, 2)
    np.testing.assert_allclose(found.sum(axis=0), outputs - outputs.mean(), rtol=1e-4, atol=1e-6)


def test_groups_are_as_many_as_the_bags(noise: list[Bag]) -> None:
    with pytest.raises(UsageError, match="12 bags and 3 groups"):
        cross_validate(noise, LABELS, [0, 1] * 6, groups=["p", "q", "r"], config=SHORT)


def test_classes_that_are_numbers_are_in_their_order_and_others_are_in_none(noise: list[Bag]) -> None:
    scale = [str(6 + i % 5) for i in range(12)]  # as text 10 would come before 6
    found = cross_validate(noise, scale, [0] * 5 + [1] * 7, config=SHORT)
    assert found.answers.task.classes == ("6", "7", "8", "9", "10")
    assert "kappa_quadratic" in evaluate(found.answers, draws=1).overall
    named = cross_validate(noise, LABELS, [i // 2 % 2 for i in range(12)], config=SHORT)
    assert "kappa_quadratic" not in evaluate(named.answers, draws=1).overall
    # Of two classes there is one distance: the weighed kappa is the plain one.
    assert not Classification(("0", "1")).ordered


def test_thresholds_are_those_of_the_members_that_answer(noise: list[Bag]) -> None:
    """Those of the others were chosen with the help of the very patient."""
    head = cross_validate(noise, LABELS, [i // 2 % 3 for i in range(12)], config=SHORT).head
    assert head.thresholds() is None  # too few patients to choose by
    members = [
        Member(replace(m.card, thresholds=cut), m.model)
        for m, cut in zip(head.members, ((0.2,), (0.8,), ()), strict=True)
    ]
    chosen = TrainedHead(replace(head.card, members=tuple(m.card for m in members)), tuple(members))
    for asked, cut in ((None, 0.5), ((0,), 0.2), ((1,), 0.8), ((2,), None), ((1, 2), 0.65)):
        found = chosen.thresholds(asked)
        assert (found is None) if cut is None else found == pytest.approx([cut])
