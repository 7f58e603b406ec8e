"""What a head is asked: targets read, losses and values worked out by hand, and targets that were not learnt from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from heads.losses import cox_loss
from heads.member import Member, MemberCard
from heads.model import HeadModel
from heads.networks.registry import Architecture
from heads.tasks import Biomarker, Classification, DiscreteHazard, Regression, Survival, task_class
from wsi.errors import UsageError

LN3 = math.log(3)  # the logit of a chance of 3 in 4; minus it, of 1 in 4


def seen(*times):
    """Targets of patients who all died at these times."""
    return [(t, 1) for t in times]


def test_tasks_go_by_name():
    kinds = ["classification", "survival", "hazard", "biomarker", "regression"]
    assert [task_class(k).kind for k in kinds] == kinds
    with pytest.raises(UsageError, match="no task 'ranking'"):
        task_class("ranking")


# Classification


def test_classes_are_sorted_and_unseen_bags_are_numbered_by_them():
    task = Classification.learn(["luad", "normal", "lusc", "luad"], 4)
    assert task.classes == ("luad", "lusc", "normal") and task.n_out == 3
    rows = task.rows(["normal", "luad"])
    assert rows.tolist() == [2, 0] and task.labels(rows) is rows
    logits = torch.tensor([[0.0, 0.0, math.log(2)], [0.0, 0.0, math.log(2)]])  # chances 1/4, 1/4, 1/2
    np.testing.assert_allclose(task.values(logits), [[0.25, 0.25, 0.5]] * 2, rtol=1e-6)
    assert float(task.loss(logits, rows)) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert task.detail(np.array([0.2, 0.5, 0.3], dtype=np.float32)) == {"classes": [*task.classes], "label": "lusc"}


def test_whole_numbers_are_classes_whatever_gave_them():
    task = Classification.learn(np.array([10, 2, 10]), 4)
    assert task.classes == (2, 10) and [type(c) for c in task.classes] == [int, int]
    assert task.rows([np.int64(10), 2]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", "b"], []),
        ([0, 1, 1], []),
        (["a", "a"], ["two classes are needed at least, but the labels are ['a']"]),
        ([1.5, "a"], ["labels must be words or whole numbers, not 1.5"]),
        ([1, "a"], ["labels mix words and numbers"]),
    ],
)
def test_problems_of_labels(labels, said):
    assert Classification.problems(labels) == said


# Survival


def test_survival_is_cox_and_gives_the_log_hazard_ratio():
    task = Survival.learn(seen(5, 6), 4)
    rows = task.rows([(1, 1), (2.5, 0), (2, np.bool_(True))])
    assert rows.tolist() == [[1, 1], [2.5, 0], [2, 1]]
    risk = torch.tensor([[math.log(2)], [math.log(3)], [math.log(5)]])
    # Of all three, with hazards 2, 3 and 5, the first dies; then of 3 and 5 the third.
    assert float(task.loss(risk, rows)) == pytest.approx(-(math.log(2 / 10) + math.log(5 / 8)) / 2)
    assert float(task.loss(risk, rows)) == pytest.approx(float(cox_loss(risk[:, 0], rows[:, 0], rows[:, 1])))
    assert torch.equal(task.values(risk), risk) and task.labels(rows) is None
    assert task.n_out == 1 and task.least_bags == 64
    assert task.detail(np.ones(1, dtype=np.float32)) == {"direction": "higher = worse"}


def test_a_step_down_the_loss_raises_the_risk_of_those_who_die_first():
    for task in (Survival(), DiscreteHazard.learn(seen(1, 2, 3, 4), 2)):
        outputs = torch.zeros(2, task.n_out, requires_grad=True)
        task.loss(outputs, task.rows([(1, 1), (9, 0)])).backward()
        early, late = task.values(outputs.detach() - outputs.grad)[:, 0]
        assert early > late


TIMES = {
    "time must be a number (target 1)": [(1, 1), (None, 0)],
    "time must be above 0 (target 0, 2)": [(0, 1), (1, 1), (-3, 0)],
    "event must be 1 (seen) or 0 (censored) (target 1)": [(1, 1), (2, 2)],
    "no target has an event, so nothing tells high risk from low": [(1, 0), (2, 0)],
    "survival targets must be (time, event) pairs of numbers": [(1, "dead")],
}


@pytest.mark.parametrize("task", [Survival, DiscreteHazard])
@pytest.mark.parametrize("said", TIMES)
def test_problems_of_times(task, said):
    assert task.problems(TIMES[said]) == [said]
    assert task.problems([(1, 1), (2.5, 0), (3, True)]) == []


# Discrete time


def test_bins_are_quantiles_of_the_times_of_events_among_the_training_bags():
    deaths = seen(10, 2, 8, 4, 6)
    assert DiscreteHazard.learn(deaths, 4).edges == (4, 6, 8)
    assert DiscreteHazard.learn(deaths, 2).edges == (6,)
    censored = [(0.5, 0), (100, 0), (7, 0), (200, 0)]
    assert DiscreteHazard.learn([*censored, *deaths], 4).edges == (4, 6, 8)
    assert DiscreteHazard.learn(seen(1, 2, 3, 4), 2).edges == (2.5,)  # between two of them


def test_bins_that_fall_together_are_one():
    task = DiscreteHazard.learn(seen(5, 5, 5, 9), 4)
    assert task.edges == (5, 6) and task.n_out == 3
    assert DiscreteHazard.learn(seen(1, 2, 3), 1) == DiscreteHazard(edges=())
    lone = DiscreteHazard.learn([(7, 1), (9, 0)], 4)
    assert lone.edges == (7,) and lone.rows([(6.9, 0), (7, 1)]).tolist() == [[0, 0], [1, 1]]


def test_unseen_times_go_into_the_bins_and_a_time_on_a_border_into_the_later_one():
    task = DiscreteHazard.learn(seen(2, 4, 6, 8, 10), 4)
    assert task.n_out == 4
    unseen = [(0.1, 1), (np.nextafter(4.0, 0), 0), (4, 1), (5.9, 0), (6, 0), (8, 1), (1000, 0)]
    assert task.rows(unseen).tolist() == [[0, 1], [0, 0], [1, 1], [1, 0], [2, 0], [3, 1], [3, 0]]


HAZARDS = torch.tensor([0.0, -LN3, LN3])  # chances to die of 1/2, 1/4 and 3/4, having lived so far


def test_the_hazard_loss_by_hand():
    task = DiscreteHazard(edges=(4.0, 6.0))
    rows = task.rows([(3, 1), (4, 1), (5, 0), (99, 0)])
    outputs = HAZARDS.repeat(4, 1)
    # Dies in the first bin; lives through it and dies in the second; is alive after the second; after the third.
    chances = [1 / 2, 1 / 2 * 1 / 4, 1 / 2 * 3 / 4, 1 / 2 * 3 / 4 * 1 / 4]
    assert float(task.loss(outputs, rows)) == pytest.approx(-np.log(chances).mean())
    assert task.labels(rows) is None


def test_survival_past_each_bin_and_the_risk_that_sums_it():
    task = DiscreteHazard(edges=(4.0, 6.0))
    np.testing.assert_allclose(task.survival(HAZARDS), [1 / 2, 3 / 8, 3 / 32], rtol=1e-6)
    values = task.values(HAZARDS.repeat(2, 1))
    np.testing.assert_allclose(values, [[-31 / 32]] * 2, rtol=1e-6)
    detail = task.detail(np.zeros(1, dtype=np.float32))
    assert detail == {"direction": "higher = worse", "bin_edges": [4.0, 6.0]}


def test_risk_rises_with_every_hazard_from_all_live_to_all_die():
    task = DiscreteHazard(edges=(4.0, 6.0))
    base = float(task.values(HAZARDS)[0])
    for at in range(3):
        worse = HAZARDS + torch.eye(3)[at]
        assert float(task.values(worse)[0]) > base
    surely = torch.full((3,), 80.0)
    assert float(task.values(-surely)[0]) == -3 and float(task.values(surely)[0]) == pytest.approx(0, abs=1e-30)


def member(task):
    architecture = Architecture("mean", 2, task.n_out, 1, 1, 0.0)
    return Member(MemberCard(architecture, task, n_bags=2, n_validation=0, losses=()), HeadModel(architecture.build()))


def test_the_survival_curve_steps_down_at_the_ends_of_bins():
    times = np.array([0, 3.9, 4, 5, 5.9, 6, 1e6])
    curve = member(DiscreteHazard(edges=(4.0, 6.0))).survival(HAZARDS, times)
    np.testing.assert_allclose(curve, [1, 1, 1 / 2, 1 / 2, 1 / 2, 3 / 8, 3 / 8], rtol=1e-6)
    two = member(DiscreteHazard(edges=(4.0, 6.0))).survival(torch.stack([HAZARDS, -HAZARDS]), times)
    np.testing.assert_allclose(two[0], curve)
    np.testing.assert_allclose(two[1], [1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 8, 1 / 8], rtol=1e-6)


def test_survival_curves_of_the_training_bags_come_out_where_the_hazards_are_those_of_a_life_table():
    # Of 8 patients 2 die in the first bin and 3 of the 6 left in the second: fitted hazards are 1/4 and 1/2.
    targets = [*seen(1, 2), *seen(5, 5, 5), (9, 0), (9, 0), (9, 0)]
    task = DiscreteHazard(edges=(4.0, 6.0))
    outputs = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([outputs], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = task.loss(outputs.expand(8, 3), task.rows(targets))
        loss.backward()
        return loss

    optimiser.step(closure)
    np.testing.assert_allclose(task.survival(outputs.detach())[:2], [3 / 4, 3 / 8], atol=1e-3)


# Regression


def test_regression_is_learnt_on_unit_scale_and_given_back_in_the_targets_unit():
    task = Regression.learn([10, 14, 10, 14], 4)
    assert (task.mean, task.std, task.n_out) == (12, 2, 1)
    rows = task.rows([10, 14, 20, np.float32(11)])  # the last two were not learnt from
    assert rows.tolist() == [-1, 1, 4, -0.5] and rows.dtype == torch.float32
    assert task.values(rows[:, None])[:, 0].tolist() == [10, 14, 20, 11]
    assert float(task.loss(torch.tensor([[0.0], [1.0], [1.0], [-0.5]]), rows)) == (1 + 0 + 9 + 0) / 4
    assert task.labels(rows) is None and task.detail(np.zeros(1, dtype=np.float32)) == {}


def test_targets_far_from_nothing_keep_their_digits():
    years = [2000.25, 2000.5, 2000.75]
    task = Regression.learn(years, 4)
    np.testing.assert_allclose(task.values(task.rows(years)[:, None])[:, 0], years, atol=2e-4)
    assert task.rows(years).std(correction=0) == pytest.approx(1)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([1.5, 2], []),
        ([1.5, None], ["the target must be a number (target 1)"]),
        ([1.5, 2, math.inf], ["the target must be a number (target 2)"]),
        (["1.5", 2], ["the target must be a number"]),
        ([3, 3.0], ["the target is the same for every bag, so there is nothing to learn"]),
    ],
)
def test_problems_of_numbers(targets, said):
    assert Regression.problems(targets) == said


# Biomarkers


@pytest.mark.parametrize("missing", [None, math.nan, np.nan])
def test_missing_answers_cost_nothing_and_pull_nowhere(missing):
    task = Biomarker.learn({"MSI": [1, 0], "KRAS": [missing, 1]}, 4)
    rows = task.rows({"KRAS": [1, missing, 0], "MSI": [missing, missing, True], "TP53": [0, 0, 0]})
    assert task.names == ("MSI", "KRAS") and task.n_out == 2
    np.testing.assert_array_equal(rows, [[np.nan, 1], [np.nan, np.nan], [1, 0]])

    outputs = torch.tensor([[9.0, LN3], [9.0, 9.0], [0.0, LN3]], requires_grad=True)
    loss = task.loss(outputs, rows)
    loss.backward()
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 4)) / 3)
    expected = np.array([[0, 3 / 4 - 1], [0, 0], [1 / 2 - 1, 3 / 4]]) / 3
    np.testing.assert_allclose(outputs.grad, expected, atol=1e-7)


def test_a_step_without_any_answer_says_nothing():
    task = Biomarker(names=("MSI",))
    outputs = torch.ones(2, 1, requires_grad=True)
    loss = task.loss(outputs, task.rows({"MSI": [None, None]}))
    loss.backward()
    assert loss.item() == 0 and outputs.grad.tolist() == [[0], [0]]


def test_biomarkers_as_an_array_are_named_by_their_place():
    task = Biomarker.learn(np.array([[1, np.nan], [0, 1]]), 4)
    assert task.names == ("marker_0", "marker_1")
    np.testing.assert_array_equal(task.rows(np.array([[np.nan, 0]])), [[np.nan, 0]])
    np.testing.assert_allclose(task.values(torch.tensor([[0.0, LN3]])), [[0.5, 0.75]], rtol=1e-6)
    assert task.detail(np.zeros(2, dtype=np.float32)) == {"names": ["marker_0", "marker_1"]}


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({"MSI": [1, 0, None]}, []),
        (np.array([[1, np.nan], [0, 1], [1, 0]]), []),
        ({"MSI": [1, 0, 2]}, ["MSI must be 1, 0 or missing"]),
        ({"MSI": [1, None, 1]}, ["MSI needs both positive and negative slides"]),
        ({"MSI": [0, 1], "KRAS": [None, None]}, ["KRAS needs both positive and negative slides"]),
        ({"MSI": ["1", 0, 0]}, ["MSI must be 1, 0 or missing"]),
        ({}, ["there is no biomarker"]),
        ({"MSI": [1, 0], "KRAS": [1, 0, 1]}, ["biomarkers differ in length: {'MSI': 2, 'KRAS': 3}"]),
        ([1, 0], ["biomarkers are named columns or an array (slides, markers), not of shape (2,)"]),
    ],
)
def test_problems_of_biomarkers(targets, said):
    assert Biomarker.problems(targets) == said
