"""Targets as callers have them, as plain lists and arrays. What cannot be read is said in sentences, not raised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def n_targets(targets: Any) -> int | None:
    """How many bags the targets speak of; None where columns of different lengths do not say."""
    lengths = {len(column) for column in targets.values()} if isinstance(targets, Mapping) else {len(targets)}
    return lengths.pop() if len(lengths) == 1 else None


def as_labels(targets: Any) -> list[Any]:
    """One label a bag, numpy's numbers turned into Python's own: JSON and `type` know those."""
    return [t.item() if isinstance(t, np.generic) else t for t in targets]


def as_pairs(targets: Any) -> tuple[NDArray[np.float64], list[str]]:
    """(n, 2) time and event, missing ones NaN; and what is wrong with their form."""
    try:
        pairs = np.array([[_number(v) for v in pair] for pair in targets]).reshape(len(targets), 2)
    except (TypeError, ValueError):
        return np.empty((0, 2)), ["survival targets must be (time, event) pairs of numbers"]
    return pairs, []


def as_columns(targets: Any, what: str = "1, 0 or missing") -> tuple[dict[str, Column], list[str]]:
    """Named columns (n,), missing answers NaN; and what is wrong with their form.

    `targets` maps names to sequences, or is an array (n, k), whose columns are then called marker_0 and on.
    """
    if not isinstance(targets, Mapping):
        table = np.asarray(targets, dtype=object)
        if table.ndim != 2:
            return {}, [f"biomarkers are named columns or an array (slides, markers), not of shape {table.shape}"]
        targets = {f"marker_{i}": column for i, column in enumerate(table.T)}
    strange = [] if targets else ["there is no biomarker"]
    if targets and n_targets(targets) is None:
        strange.append(f"biomarkers differ in length: { {name: len(c) for name, c in targets.items()} }")
    columns = {}
    for name, column in targets.items():
        try:
            columns[str(name)] = np.array([_number(value) for value in column])
        except (TypeError, ValueError):
            strange.append(f"{name} must be {what}")
    return columns, strange


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise ValueError(value)  # "1" is more often a slip in reading a table than a number
    return math.nan if value is None else float(value)


def take(targets: Any, rows: Any) -> Any:
    """The targets of some bags, in the form they came in."""
    if isinstance(targets, Mapping):
        return {name: [column[int(i)] for i in rows] for name, column in targets.items()}
    return [targets[int(i)] for i in rows]


def strata_of(targets: Any, task: str) -> list[Any]:
    """What folds are balanced by, one for each bag: the class, the event with its time, or the value's quantile.

    Of biomarkers all answers that are known, as a tuple: crossed, most would be rare.
    """
    from heads.splits import survival_strata, value_strata

    if task in ("survival", "hazard"):
        pairs = as_pairs(targets)[0]
        return list(survival_strata(pairs[:, 0].tolist(), pairs[:, 1].tolist()))
    if task == "regression":
        return list(value_strata([float(t) for t in targets]))
    if task == "biomarker":
        columns = as_columns(targets)[0]
        rows = zip(*columns.values(), strict=True)
        return [
            tuple(f"{name}={int(v)}" for name, v in zip(columns, row, strict=True) if not math.isnan(v)) for row in rows
        ]
    return as_labels(targets)
