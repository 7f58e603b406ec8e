"""How well risks order patients by their survival: Harrell's and Uno's concordance."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.problems import refuse
from wsi.errors import UsageError

Column = NDArray[np.float64]

_ABOUT = "Concordance cannot be computed"


def concordance_index(time: Any, event: Any, risk: Any) -> float:
    """Harrell's C: of all pairs whose order is known, the share in which the earlier event has the higher risk.

    time (n,) of event or censoring; event (n,) 1 seen, 0 censored; risk (n,) higher = earlier event.
    A pair is comparable if its earlier time is an event; an event and a censoring at one time are comparable (the
    event came first), two events at one time are not. Equal risks count half. 0.5 is chance, 1 perfect.
    Harrell, Lee and Mark, Stat Med 1996. O(n log n), but for moving the numbers of a sorted list.

    Raises UsageError for NaN, lengths that differ, events other than 0 and 1, or no comparable pair.
    """
    time, event, risk = columns(_ABOUT, time=time, event=event, risk=risk)
    return _weighted_concordance(time, event, risk, np.ones(len(time)))


def concordance_index_ipcw(  # noqa: PLR0917 (the order that users of Uno's C expect)
    train_time: Any, train_event: Any, time: Any, event: Any, risk: Any, tau: float | None = None
) -> float:
    """Uno's C: Harrell's, each pair weighted by 1 / G(t)^2 of its earlier time t, and only events before `tau`.

    G is the Kaplan-Meier estimate of not being censored yet, fitted on the *training* patients, so that the result does
    not depend on who was censored when. Directions and pairs as in `concordance_index`; `tau` in the unit of time, None
    takes every event. Uno et al., Stat Med 2011.

    Raises UsageError as `concordance_index` does, and where an event before `tau` has G = 0 or lies beyond the last
    training time: choose a smaller tau.
    """
    train_time, train_event = columns(_ABOUT, train_time=train_time, train_event=train_event)
    time, event, risk = columns(_ABOUT, time=time, event=event, risk=risk)
    counted = (event == 1) & (time < (np.inf if tau is None else tau))
    weight = np.zeros(len(time))
    weight[counted] = uncensored(train_time, train_event, time[counted]) ** -2.0
    return _weighted_concordance(time, event, risk, weight)


def _weighted_concordance(time: Column, event: Column, risk: Column, weight: Column) -> float:
    won = pairs = 0.0
    outliving: list[float] = []  # sorted risks of those known to live longer than the time at hand
    for censored, dying in _from_the_last(time, event):
        for r in risk[censored].tolist():
            insort(outliving, r)
        for r, w in zip(risk[dying].tolist(), weight[dying].tolist(), strict=True):
            # Those of lower risk count twice, those of equal risk once: half of the sum is wins and half ties.
            won += w * (bisect_left(outliving, r) + bisect_right(outliving, r)) / 2
            pairs += w * len(outliving)
        for r in risk[dying].tolist():
            insort(outliving, r)
    if pairs == 0:
        raise UsageError(
            "No two patients can be compared: nobody is known to have outlived an event.",
            hint="Concordance needs at least one event followed by a later time.",
        )
    return won / pairs


def _from_the_last(time: Column, event: Column) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Row numbers of the censored and of the dying at each distinct time, the latest first."""
    order = np.argsort(-time, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(time[order])) + 1):
        yield rows[event[rows] == 0], rows[event[rows] == 1]


def uncensored(time: Column, event: Column, at: Column, *, cure: str = "Give a tau of at most") -> Column:
    """Kaplan-Meier estimate of being uncensored, G(at). Who dies at a time leaves before others are censored at it.

    Raises UsageError where G is 0 or not known; `cure` begins its last sentence, which ends in the time to stay below.
    """
    if len(at) and at.max() > time.max():
        raise UsageError(
            f"Time {at.max():g} lies beyond the last training time {time.max():g}: no weight is known there.",
            hint=f"{cure} {time.max():g}.",
        )
    g = share_left(time, event == 0, at, others_first=True)
    if (g <= 0).any():
        first = float(at[g <= 0].min())
        raise UsageError(
            f"Every training patient is censored by {first:g}, so events from there on have no weight.",
            hint=f"{cure} {first:g}.",
        )
    return g


def share_left(time: Column, lost: NDArray[np.bool_], at: Column, *, others_first: bool = False) -> Column:
    """Kaplan-Meier estimate of not being lost by each time in `at` (m,): 1 before the first, flat after the last.

    time (n,); lost (n,) whether a patient's time is a loss. Of those of one time, the others still count as at risk
    of it, or with `others_first` have left already. Kaplan and Meier, JASA 1958.
    """
    times, row = np.unique(time, return_inverse=True)
    n_lost, n = np.bincount(row, weights=lost), np.bincount(row)
    at_risk = len(time) - np.cumsum(n) + (n_lost if others_first else n)
    left = np.cumprod(1 - n_lost / np.maximum(at_risk, 1))
    return np.append(1.0, left)[np.searchsorted(times, at, side="right")]


def columns(about: str, *, one_or_zero: Sequence[str] = ("event", "train_event"), **given: Any) -> list[Column]:
    """All as float64 (n,), n > 0, or one UsageError that begins with `about` and says all that is wrong with them.

    Those named in `one_or_zero` hold nothing else.
    """
    try:
        table = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(f"{', '.join(given)} must be numbers: {error}.") from error
    problems = [f"{name} has shape {c.shape}, not (patients,)" for name, c in table.items() if c.ndim != 1]
    lengths = {name: len(c) for name, c in table.items() if c.ndim == 1}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        problems.append(f"lengths differ or are 0: {lengths}")
    problems += [f"{name} holds NaN or inf" for name, c in table.items() if not np.isfinite(c).all()]
    problems += [
        f"{name} holds other values than 0 and 1"
        for name, c in table.items()
        if name in one_or_zero and not np.isin(c[np.isfinite(c)], (0, 1)).all()
    ]
    refuse(problems, about)
    return list(table.values())
