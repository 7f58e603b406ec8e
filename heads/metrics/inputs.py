"""What metrics are given, read once: class indices beside a table of scores, answers beside a column of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.concordance import columns
from heads.problems import refuse
from wsi.errors import UsageError

Classes = NDArray[np.int64]
Column = NDArray[np.float64]

NAN = float("nan")  # of a metric that the data at hand do not define


def classes(about: str, y: Any, scores: Any) -> tuple[Classes, Column]:
    """y (n,) as class indices, scores (n, C) as float64, n > 0, C > 1. UsageError beginning with `about` otherwise."""
    y, scores = numbers(about, y), numbers(about, scores)
    if scores.ndim != 2 or y.shape != scores.shape[:1] or len(y) == 0 or scores.shape[1] < 2:
        raise UsageError(
            f"{about}: there are {scores.shape} scores for labels {y.shape}, not (n, classes) for (n,).",
            hint="Give at least one sample and two classes.",
        )
    problems = [] if np.isfinite(scores).all() else ["scores hold NaN or inf"]
    if not np.isin(y, np.arange(scores.shape[1])).all():
        problems.append(f"labels are not all class indices, 0 to {scores.shape[1] - 1}")
    refuse(problems, about)
    return y.astype(np.int64), scores


def answers(about: str, y: Any, scores: Any) -> tuple[Classes, Column]:
    """y (n,) 1, 0 or NaN and scores (n,) where y is known: int64 and float64 (m,), m may be 0. UsageError as above.

    A score may be NaN only where the answer is.
    """
    y, scores = numbers(about, y), numbers(about, scores)
    unknown = np.isnan(y)
    if y.shape == scores.shape:
        y, scores = np.where(unknown, 0, y), np.where(unknown, 0, scores)
    y, scores = columns(about, one_or_zero=("answers",), answers=y, scores=scores)
    return y[~unknown].astype(np.int64), scores[~unknown]


def numbers(about: str, values: Any) -> Column:
    """Anything array-like as float64. UsageError where it holds words."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{about}: {error}.", hint="Give numbers, NaN where one is missing.") from error


def refuse_improbable(about: str, p: Column) -> None:
    """UsageError unless all of p are within 0..1."""
    refuse([] if ((p >= 0) & (p <= 1)).all() else ["probabilities lie outside 0 to 1"], about)


def both(y: NDArray[Any]) -> bool:
    """Whether there are positives and negatives; without, nothing tells one from the other."""
    return bool(y.any() and not y.all())
