"""How good a head is on patients it never saw: every metric with its interval over patients, whole and by fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.metrics.bootstrap import Difference, Interval, Rows, bootstrap, paired_bootstrap
from heads.metrics.classification import (
    biomarker_metrics,
    classification_metrics,
    per_class_auroc,
    regression_metrics,
)
from heads.metrics.survival import survival_metrics, usual_tau
from heads.problems import refuse
from heads.targets import as_pairs
from heads.tasks import Biomarker, Classification, DiscreteHazard, Regression, Survival, Task

CURVE_TIMES = 50  # times at which survival curves are kept and judged

Statistic = Callable[[Rows], dict[str, float]]
Outcome = tuple[NDArray[np.float64], NDArray[np.float64]]  # time and event


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What heads say of bags whose patients they never saw, beside the truth. From `cross_validate` or a new cohort."""

    task: Task  # as one of the members has learnt it: its classes or names
    targets: Any
    patients: tuple[str, ...]  # of each bag
    folds: NDArray[np.int64]  # (n,) 0..k-1, whose head answered; a new cohort is one fold
    values: NDArray[np.float32]  # (n, V)
    thresholds: NDArray[np.float64] | None = None  # (n, 1 or k) of the head that answered, from its validation bags
    times: NDArray[np.float64] | None = None  # (T,) for tasks with time
    survival: NDArray[np.float64] | None = None  # (n, T)
    training: tuple[Outcome, ...] = ()  # of each fold's training patients: censoring is weighed by them

    @property
    def k(self) -> int:
        return int(self.folds.max()) + 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a head is worth on patients it never saw."""

    overall: dict[str, Interval]  # out-of-fold values of all bags together; survival: mean over the folds
    folds: tuple[dict[str, float], ...]  # the same metrics within each fold
    level: float = 0.95

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; NaN as null."""
        intervals = {
            name: {"value": _known(i.value), "low": _known(i.low), "high": _known(i.high), "draws": i.draws}
            for name, i in self.overall.items()
        }
        folds = [{name: _known(value) for name, value in fold.items()} for fold in self.folds]
        return {"overall": intervals, "folds": folds, "level": self.level}


def judged_times(
    time: NDArray[np.float64], event: NDArray[np.float64], ends: Sequence[float]
) -> NDArray[np.float64] | None:
    """Up to CURVE_TIMES times between the 5th and the 80th percentile of the events, before every fold's end.

    None where fewer than two are left: then no curve is drawn.
    """
    seen = time[event == 1]
    grid = np.unique(np.quantile(seen, np.linspace(0.05, 0.8, CURVE_TIMES))) if len(seen) else seen
    grid = grid[grid < min(ends)]
    return grid if len(grid) > 1 else None


def evaluate(answers: Answers, *, draws: int = 1000, seed: int = 0) -> Evaluation:
    """Metrics with 95 % percentile intervals from `draws` bootstrap samples of the patients.

    classification: see `classification_metrics`, and balanced accuracy at the validation thresholds for two classes;
    biomarker: `biomarker_metrics` as "er: auroc"; regression: `regression_metrics`; survival and hazard:
    `survival_metrics` within each fold (risks of two folds are of two heads), mean over the folds.
    The intervals are of the patients drawn, not of the training: the heads stay as they are.
    """
    statistic = statistic_of(answers)
    folds = tuple(statistic(np.flatnonzero(answers.folds == fold)) for fold in range(answers.k))
    return Evaluation(bootstrap(statistic, answers.patients, draws=draws, seed=seed), folds)


def compare(a: Answers, b: Answers, *, draws: int = 1000, seed: int = 0) -> dict[str, Difference]:
    """Metrics of `a` minus those of `b` on the same patients, with intervals and p of the paired bootstrap.

    Raises UsageError where the two are not of the same bags and folds.
    """
    same = a.patients == b.patients and np.array_equal(a.folds, b.folds)
    refuse([] if same else ["they are not of the same bags and folds"], "Two heads cannot be compared")
    return paired_bootstrap(statistic_of(a), statistic_of(b), a.patients, draws=draws, seed=seed)


def statistic_of(answers: Answers) -> Statistic:
    """Rows of the bags to a dictionary of metrics."""
    task = answers.task
    if isinstance(task, Survival | DiscreteHazard):
        return _survival(answers)
    if isinstance(task, Regression):
        y = np.asarray(answers.targets, dtype=np.float64)
        return lambda rows: regression_metrics(y[rows], answers.values[rows, 0])
    if isinstance(task, Biomarker):
        return _biomarkers(answers, task)
    assert isinstance(task, Classification)
    return _classes(answers, task)


def _classes(answers: Answers, task: Classification) -> Statistic:
    y, p, cuts = task.rows(answers.targets).numpy(), answers.values, answers.thresholds

    def statistic(rows: Rows) -> dict[str, float]:
        found = classification_metrics(y[rows], p[rows])
        if not task.ordered:
            del found["kappa_quadratic"]
        if len(task.classes) > 2:
            each = per_class_auroc(y[rows], p[rows])
            return found | {f"auroc: {name}": value for name, value in zip(task.classes, each, strict=True)}
        if cuts is not None:
            found["balanced_accuracy_tuned"] = _mean_recall(y[rows], p[rows, 1] >= cuts[rows, 0])
        return found

    return statistic


def _mean_recall(y: NDArray[np.int64], called: NDArray[np.bool_]) -> float:
    recalls = [(called[y == c] == c).mean() if (y == c).any() else np.nan for c in (0, 1)]
    return float(np.mean(recalls))


def _biomarkers(answers: Answers, task: Biomarker) -> Statistic:
    y, p = task.rows(answers.targets).numpy().astype(np.float64), answers.values.astype(np.float64)
    halves = (0.5,) * len(task.names)
    # Each row has the threshold of the head that answered it: what depends on calls is computed from the calls.
    called = (p >= (0.5 if answers.thresholds is None else answers.thresholds)).astype(np.float64)

    def statistic(rows: Rows) -> dict[str, float]:
        found: dict[str, float] = {}
        of_p, of_calls = (biomarker_metrics(y[rows], given[rows], halves) for given in (p, called))
        for name, by_p, by_call in zip(task.names, of_p, of_calls, strict=True):
            calls = {metric: by_call[metric] for metric in ("balanced_accuracy", "f1", "kappa")}
            found |= {f"{name}: {metric}": value for metric, value in {**by_p, **calls}.items()}
        return found

    return statistic


def _survival(answers: Answers) -> Statistic:
    time, event = as_pairs(answers.targets)[0].T
    here = [answers.folds == fold for fold in range(answers.k)]
    taus = [usual_tau(*train, time[h], event[h]) for train, h in zip(answers.training, here, strict=True)]

    def within(fold: int, rows: Rows) -> dict[str, float]:
        rows = rows[answers.folds[rows] == fold]
        if not len(rows):
            return {}
        curves = None if answers.survival is None else answers.survival[rows]
        outcome = (*answers.training[fold], time[rows], event[rows])
        return survival_metrics(*outcome, answers.values[rows, 0], curves, answers.times, tau=taus[fold])

    return lambda rows: _mean([within(fold, rows) for fold in range(answers.k)])


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the folds in which it has a value."""
    names = dict.fromkeys(name for fold in found for name in fold)
    each = {name: np.array([fold[name] for fold in found if name in fold]) for name in names}
    return {name: float(np.nanmean(v)) if np.isfinite(v).any() else np.nan for name, v in each.items()}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
