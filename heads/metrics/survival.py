"""How well risks and survival curves foresee events, where some patients are censored.

Event 1 seen, 0 censored; risk higher = earlier event; times in one unit throughout. Censored patients are stood for by
others: weights are 1 / G, with G the Kaplan-Meier estimate of not being censored yet, always of the training patients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.concordance import columns, concordance_index, concordance_index_ipcw, share_left, uncensored
from heads.metrics.inputs import NAN, Column, numbers
from heads.problems import refuse
from wsi.errors import UsageError

_ABOUT = "Survival cannot be judged"


@dataclass(frozen=True, slots=True, eq=False)
class BaselineHazard:
    """What turns risks into survival curves: the hazard of a patient of risk 0, summed up over time.

    Kept as a logarithm, since risks of any offset are allowed and the hazard of risk 0 may then not be a float.
    """

    times: Column  # (T,) distinct event times of the training patients, ascending
    log_cumulative: Column  # (T,) log of the cumulative hazard from each of them on; before the first it is 0

    @property
    def cumulative(self) -> Column:
        """(T,) cumulative hazard of a patient of risk 0."""
        return np.exp(self.log_cumulative)

    def survival(self, risk: Any, times: Any) -> Column:
        """(n, T) probability of no event up to and including each time, of risks (n,). 0..1.

        1 before the first event; after the last one it stays as it is, which is no more than a guess.
        """
        risk, times = columns(_ABOUT, risk=risk)[0], columns(_ABOUT, times=times)[0]
        at = np.append(-np.inf, self.log_cumulative)[np.searchsorted(self.times, times, side="right")]  # (T,)
        with np.errstate(over="ignore"):  # an infinite hazard is a survival of 0
            return np.exp(-np.exp(at + risk[:, None]))


def breslow_baseline(time: Any, event: Any, risk: Any) -> BaselineHazard:
    """Baseline of the training patients (n,): at each event time, deaths / sum of e^risk at risk (Breslow 1972).

    risk: log hazard ratio, as a head trained with `cox_loss` gives it. Raises UsageError where there is no event.
    """
    time, event, risk = columns(_ABOUT, time=time, event=event, risk=risk)
    refuse([] if event.any() else ["no training patient has an event"], _ABOUT)
    order = np.argsort(time, kind="stable")
    times, deaths = np.unique(time[event == 1], return_counts=True)
    at_risk = np.logaddexp.accumulate(risk[order][::-1])[::-1]  # (n,) log of the sum over this row and all later
    first = np.searchsorted(time[order], times)
    return BaselineHazard(times, np.logaddexp.accumulate(np.log(deaths) - at_risk[first]))


def brier_score(  # noqa: PLR0917 (the order of concordance_index_ipcw)
    train_time: Any, train_event: Any, time: Any, event: Any, survival: Any, times: Any
) -> Column:
    """(T,) weighted mean squared error of survival curves at each time; 0 is best, 0.25 a coin. Graf et al., 1999.

    survival (n, T) probability of no event up to each of `times` (T,), ascending. Of who had the event by then
    S(t)^2 / G(time), of who outlived it (1 - S(t))^2 / G(t), of who was censored 0; mean over all n. NaN at a time for
    which nobody's fate is known. Raises UsageError for shapes, survival outside 0..1, and times at which G is 0.
    """
    time, event, times = _follow_up(time, event, times)
    survival = _curves(survival, time, times)
    died, alive, weight = _fates(train_time, train_event, time, event, times)
    error = weight[:, None] * died * survival**2 + alive * (1 - survival) ** 2 / _g(train_time, train_event, times)
    return np.where((died | alive).any(axis=0), error.mean(axis=0), NAN)


def integrated_brier_score(  # noqa: PLR0917
    train_time: Any, train_event: Any, time: Any, event: Any, survival: Any, times: Any
) -> float:
    """Mean of `brier_score` over the span of `times`, two at least: trapezoids / (last - first). Graf et al., 1999."""
    score = brier_score(train_time, train_event, time, event, survival, times)
    times = np.asarray(times, dtype=np.float64)
    refuse([] if len(times) > 1 else ["a span needs two times"], _ABOUT)
    return float(np.trapezoid(score, times) / (times[-1] - times[0]))


def cumulative_dynamic_auc(  # noqa: PLR0917
    train_time: Any, train_event: Any, time: Any, event: Any, risk: Any, times: Any
) -> tuple[Column, float]:
    """(T,) AUC of the risks (n,) at each time: those who had the event by then against those who outlived it; and mean.

    Cases weigh 1 / G(their time) (Uno et al., JASA 2007); equal risks count half. The mean weighs each time by how
    much the test patients' Kaplan-Meier curve fell since the one before (Lambert and Chevret, 2016). A time without
    cases or without survivors is NaN and left out of the mean. Raises UsageError as `brier_score` does.
    """
    time, event, times = _follow_up(time, event, times)
    risk = columns(_ABOUT, time=time, risk=risk)[1]
    died, alive, weight = _fates(train_time, train_event, time, event, times)
    auc = np.array([_weighted_auc(risk[d], weight[d], risk[a]) for d, a in zip(died.T, alive.T, strict=True)])
    fall = -np.diff(share_left(time, event == 1, times), prepend=1.0)
    known = ~np.isnan(auc)
    return auc, float(auc[known] @ fall[known] / fall[known].sum()) if fall[known].any() else NAN


def survival_metrics(  # noqa: PLR0917
    train_time: Any,
    train_event: Any,
    time: Any,
    event: Any,
    risk: Any,
    survival: Any = None,
    times: Any = None,
    *,
    tau: float | None = None,
) -> dict[str, float]:
    """harrell_c and uno_c, td_auc (the mean) where times (T,) are given, ibs where survival (n, T) is given, too.

    Higher is better, but for ibs. `tau` of Uno's C: None takes `usual_tau`. It then follows the patients at hand; draws
    of a bootstrap should be given that of all of them. What a draw does not define is NaN.
    Raises UsageError for shapes, values, survival without times, a tau or times at which G is 0.
    """
    train_time, train_event = columns(_ABOUT, train_time=train_time, train_event=train_event)
    time, event, risk = columns(_ABOUT, time=time, event=event, risk=risk)
    train, test = (train_time, train_event), (time, event)
    tau = usual_tau(*train, *test) if tau is None else tau
    uncensored(*train, time[(event == 1) & (time < tau)])  # a tau too large is no matter of the draw
    metrics = {
        "harrell_c": _or_nan(lambda: concordance_index(*test, risk)),
        "uno_c": _or_nan(lambda: concordance_index_ipcw(*train, *test, risk, tau)),
    }
    if survival is not None:
        metrics["ibs"] = integrated_brier_score(*train, *test, survival, times)
    if times is not None:
        metrics["td_auc"] = cumulative_dynamic_auc(*train, *test, risk, times)[1]
    return metrics


def usual_tau(train_time: Any, train_event: Any, time: Any, event: Any) -> float:
    """The last event of the test patients before the last training time at which G > 0; NaN where there is none.

    Uno's C with this tau counts the events before it, and all of them have a weight.
    """
    train_time, train_event = columns(_ABOUT, train_time=train_time, train_event=train_event)
    time, event = columns(_ABOUT, time=time, event=event)
    weighted = train_time[share_left(train_time, train_event == 0, train_time, others_first=True) > 0]
    before = time[(event == 1) & (time < weighted.max(initial=-np.inf))]
    return float(before.max()) if len(before) else NAN


def _or_nan(concordance: Callable[[], float]) -> float:
    """Its columns have been checked: what it still refuses are patients that cannot be compared."""
    try:
        return concordance()
    except UsageError:
        return NAN


def _fates(
    train_time: Any, train_event: Any, time: Column, event: Column, times: Column
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Column]:
    """Who had the event by each time, and who outlived it, (n, T) each; 1 / G of those who ever count as the former."""
    died = (time[:, None] <= times) & (event == 1)[:, None]
    ever, weight = died.any(axis=1), np.zeros(len(time))
    weight[ever] = 1 / _g(train_time, train_event, time[ever])
    return died, time[:, None] > times, weight


def _g(train_time: Any, train_event: Any, at: Column) -> Column:
    train_time, train_event = columns(_ABOUT, train_time=train_time, train_event=train_event)
    return uncensored(train_time, train_event, at, cure="Give times below")


def _weighted_auc(cases: Column, weight: Column, survivors: Column) -> float:
    if not len(cases) or not len(survivors):
        return NAN
    ranked = np.sort(survivors)
    # Those of lower risk count twice, those of equal risk once: half of the sum is wins and half ties.
    won = np.searchsorted(ranked, cases, side="left") + np.searchsorted(ranked, cases, side="right")
    return float(weight @ won / (2 * weight.sum() * len(ranked)))


def _follow_up(time: Any, event: Any, times: Any) -> list[Column]:
    checked = [*columns(_ABOUT, time=time, event=event), *columns(_ABOUT, times=times)]
    refuse([] if (np.diff(checked[-1]) > 0).all() else ["times do not ascend"], _ABOUT)
    return checked


def _curves(survival: Any, time: Column, times: Column) -> Column:
    survival = numbers(_ABOUT, survival)
    problems = []
    if survival.shape != (len(time), len(times)):
        problems.append(f"survival has shape {survival.shape}, not {(len(time), len(times))}: (patients, times)")
    if not ((survival >= 0) & (survival <= 1)).all():
        problems.append("survival lies outside 0 to 1")
    refuse(problems, _ABOUT)
    return survival
