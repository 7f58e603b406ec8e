"""How far a number would move with other patients: the bootstrap over patients, alone and in pairs.

    intervals = bootstrap(lambda rows: classification_metrics(y[rows], p[rows]), patients)
    intervals["auroc"]                                    # Interval(value=0.81, low=0.72, high=0.89, draws=1000)

A statistic is any function from row numbers to named numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heads.problems import refuse

Rows = NDArray[np.intp]
Statistic = Callable[[Rows], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic of all rows, and where it lies in most draws. NaN where it, or every draw, has no value."""

    value: float
    low: float
    high: float
    draws: int  # those in which it had a value: far fewer than asked for, and the interval is of the lucky ones


@dataclass(frozen=True, slots=True)
class Difference:
    """The statistic of a minus that of b on the same rows, as `Interval`; and how well it could be chance."""

    value: float
    low: float
    high: float
    p: float  # two-sided, above 0, at most 1
    draws: int


def bootstrap(
    statistic: Statistic, groups: Sequence[str], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile intervals of all that `statistic(row numbers)` returns (Efron 1979).

    groups (n,): the patient of each row. As many patients as there are are drawn with replacement, each with all
    rows, because slides of one patient are no independent witnesses. Draws in which a statistic is NaN or inf are
    left out of its interval. The same seed gives the same patients, whatever the order of rows.

    Raises UsageError for no rows, fewer than one draw, or a level outside 0..1.
    """
    _refuse(groups, draws, level)
    whole = dict(statistic(np.arange(len(groups))))
    drawn = [statistic(rows) for rows in _draws(groups, draws, seed)]
    return {name: _interval(whole[name], _finite(drawn, name), level) for name in whole}


def paired_bootstrap(
    statistic_a: Statistic,
    statistic_b: Statistic,
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """`bootstrap` of a minus b, of all names that both return, on the same draws of patients; and a p-value.

    p = (k + 1) / (n + 1) for no difference, two-sided: k of n draws d* lie at least as far from the observed
    difference d as 0 does, |d* - d| >= |d| (Davison and Hinkley 1997, section 4.4, draws moved to the null). It is
    never 0, and cannot be less than 1 / (n + 1). Many comparisons want a correction, which is the caller's.
    """

    def difference(rows: Rows) -> dict[str, float]:
        a, b = statistic_a(rows), statistic_b(rows)
        return {name: a[name] - b[name] for name in a if name in b}

    _refuse(groups, draws, level)
    whole = difference(np.arange(len(groups)))
    drawn = [difference(rows) for rows in _draws(groups, draws, seed)]
    return {name: _difference(whole[name], _finite(drawn, name), level) for name in whole}


def _draws(groups: Sequence[str], draws: int, seed: int) -> Iterator[Rows]:
    """Row numbers of each draw: all rows of a patient as often as the patient was drawn."""
    patients, patient = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.concatenate([rows_of[i] for i in rng.integers(0, len(patients), len(patients))])


def _finite(drawn: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    values = np.array([draw[name] for draw in drawn], dtype=np.float64)
    return values[np.isfinite(values)]


def _interval(value: float, drawn: NDArray[np.float64], level: float) -> Interval:
    if not len(drawn):
        return Interval(float(value), float("nan"), float("nan"), 0)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), len(drawn))


def _difference(value: float, drawn: NDArray[np.float64], level: float) -> Difference:
    around = _interval(value, drawn, level)
    as_far = int((np.abs(drawn - value) >= abs(value)).sum())
    p = (as_far + 1) / (len(drawn) + 1) if len(drawn) and np.isfinite(value) else float("nan")
    return Difference(around.value, around.low, around.high, p, around.draws)


def _refuse(groups: Sequence[str], draws: int, level: float) -> None:
    problems = [] if len(groups) else ["there are no rows"]
    if draws < 1:
        problems.append(f"draws is {draws}, not at least 1")
    if not 0 < level < 1:
        problems.append(f"level is {level}, not between 0 and 1")
    refuse(problems, "Intervals cannot be drawn")
