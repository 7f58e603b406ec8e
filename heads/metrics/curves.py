"""Survival of groups: Kaplan-Meier curves, the log-rank test and hazard ratios, by lifelines.

Its import takes seconds, so that it happens where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.concordance import columns
from heads.metrics.inputs import NAN, Column
from heads.problems import refuse

_ABOUT = "Groups cannot be compared"


@dataclass(frozen=True, slots=True, eq=False)
class KMCurve:
    """Share without the event from each time on, to be drawn as steps. All (T,), times ascending from 0."""

    times: Column  # every time at which someone had the event or was censored
    survival: Column  # 0..1, falls
    low: Column  # confidence interval, 0..1; the curve itself while nobody has died and when all have
    high: Column
    at_risk: NDArray[np.int64]  # patients neither dead nor censored before that time


@dataclass(frozen=True, slots=True)
class LogRank:
    """Whether groups differ in survival. NaN with one group or without events."""

    chi2: float
    p: float


@dataclass(frozen=True, slots=True)
class HazardRatio:
    """Hazard of group 1 over that of group 0, above 1: group 1 is worse. NaN where it has no finite best value."""

    value: float
    low: float  # confidence interval, Wald on the logarithm
    high: float
    p: float  # Wald, two-sided


def kaplan_meier(time: Any, event: Any, level: float = 0.95) -> KMCurve:
    """Kaplan-Meier curve of patients (n,); interval of `level`, log-log with Greenwood's variance (as in lifelines).

    time at least 0; event 1 seen, 0 censored. Kaplan and Meier, JASA 1958. UsageError for shapes and values.
    """
    time, event = columns(_ABOUT, time=time, event=event)
    refuse([] if time.min() >= 0 else ["times lie before 0"], _ABOUT)
    with _quiet():
        from lifelines import KaplanMeierFitter

        fitted = KaplanMeierFitter(alpha=1 - level).fit(time, event)
    survival = fitted.survival_function_.iloc[:, 0]
    low, high = fitted.confidence_interval_.to_numpy(dtype=np.float64).T
    at_risk = fitted.event_table["at_risk"].to_numpy(dtype=np.int64)
    return KMCurve(survival.index.to_numpy(dtype=np.float64), survival.to_numpy(dtype=np.float64), low, high, at_risk)


def logrank(time: Any, event: Any, group: Any) -> LogRank:
    """Log-rank test of two groups or more, with (groups - 1) degrees of freedom. Mantel 1966.

    time, event (n,) as in `kaplan_meier`; group (n,) any numbers, equal in a group. UsageError for shapes and values.
    """
    time, event, group = columns(_ABOUT, time=time, event=event, group=group)
    if len(np.unique(group)) < 2 or not event.any():
        return LogRank(NAN, NAN)
    with _quiet():
        from lifelines.statistics import multivariate_logrank_test

        tested = multivariate_logrank_test(time, group, event)
    return LogRank(float(tested.test_statistic), float(tested.p_value))


def hazard_ratio(time: Any, event: Any, group: Any, level: float = 0.95) -> HazardRatio:
    """Cox model (1972) of the group alone, ties by Efron. time, event, group (n,); group 1 or 0, as `risk_groups` says.

    NaN where a group is empty, or one dies only while nobody of the other is left: the best ratio is then 0 or
    infinite, and what a solver stops at means nothing. UsageError for shapes and values.
    """
    binary = ("event", "group")
    time, event, group = columns(_ABOUT, one_or_zero=binary, time=time, event=event, group=group)
    if not all(_dies_before_the_last(time, event, group == g) for g in (0, 1)):
        return HazardRatio(NAN, NAN, NAN, NAN)
    with _quiet():
        import pandas as pd
        from lifelines import CoxPHFitter

        table = pd.DataFrame({"time": time, "event": event, "group": group})
        found = CoxPHFitter(alpha=1 - level).fit(table, "time", "event").summary.loc["group"]
    low, high = (float(found[name]) for name in found.index if name.startswith("exp(coef) "))  # lower 95%, upper 95%
    return HazardRatio(float(found["exp(coef)"]), low, high, float(found["p"]))


def risk_groups(train_risk: Any, risk: Any, n: int = 2) -> NDArray[np.int64]:
    """(m,) group of each risk, 0 the lowest to n - 1 the highest, cut at the n-quantiles of the *training* risks.

    A risk on a cut belongs below it. Cut by the training patients alone, a patient's group depends neither on who else
    is tested nor on how they fared. train_risk (n,), risk (m,). UsageError for NaN, inf, or n below 2.
    """
    train_risk, risk = columns(_ABOUT, train_risk=train_risk)[0], columns(_ABOUT, risk=risk)[0]
    refuse([] if n >= 2 else [f"{n} groups are none to compare"], _ABOUT)
    cuts = np.quantile(train_risk, np.arange(1, n) / n)
    return np.searchsorted(cuts, risk, side="left").astype(np.int64)


def _dies_before_the_last(time: Column, event: Column, mine: NDArray[np.bool_]) -> bool:
    """Whether one of mine has an event while one of the others is still at risk."""
    events, others = time[mine & (event == 1)], time[~mine]
    return bool(len(events) and len(others) and events.min() <= others.max())


@contextmanager
def _quiet() -> Iterator[None]:
    """lifelines warns of approximations and of its own use of pandas; no caller here can act on either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
