"""What a head is asked: how targets are read, what is minimised, and what the outputs mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, mse_loss

from heads.losses import cox_loss, discrete_hazard_loss
from heads.problems import some
from heads.targets import as_columns, as_labels, as_pairs
from wsi.errors import UsageError


class Task(Protocol):
    """One per kind of question. Frozen dataclasses, so that the saved head can name all that they know."""

    kind: ClassVar[str]
    least_bags: ClassVar[int]  # bags a step, where the settings leave it open and the head's recipe has fewer

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        """All that is wrong with the targets, one sentence each; empty if `read` will work."""
        ...

    @classmethod
    def learn(cls, targets: Any, bins: int) -> Self:
        """The task as the training bags define it: classes, names, bins, scale. `bins` is for discrete time alone."""
        ...

    def rows(self, targets: Any) -> Tensor:
        """Targets of any bags as a tensor of one row per bag."""
        ...

    @property
    def n_out(self) -> int: ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, n_out) and rows of targets to a scalar."""
        ...

    def labels(self, rows: Tensor) -> Tensor | None:
        """(B,) class indices, where there is one class a bag."""
        ...

    def values(self, outputs: Tensor) -> Tensor:
        """Outputs (..., n_out) to the values of a SlideScore."""
        ...

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        """What the values mean, as plain JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Classification:
    """One label a slide. Values: probability of each class, which sum to 1."""

    classes: tuple[str, ...] | tuple[int, ...]  # sorted, by number where all are numbers
    kind: ClassVar[str] = "classification"
    least_bags: ClassVar[int] = 1

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        labels = as_labels(targets)
        kinds = {type(label) for label in labels}
        if odd := sorted({repr(label) for label in labels if not isinstance(label, str | int)}):
            return [f"labels must be words or whole numbers, not {some(odd)}"]
        if str in kinds and len(kinds) > 1:
            return ["labels mix words and numbers"]
        found = sorted(set(labels))
        return [] if len(found) > 1 else [f"two classes are needed at least, but the labels are {found}"]

    @classmethod
    def learn(cls, targets: Any, bins: int) -> Self:
        found = set(as_labels(targets))
        return cls(classes=tuple(sorted(found, key=float if all(map(_is_number, found)) else None)))

    @property
    def ordered(self) -> bool:
        """Whether the classes are steps of a scale, as far as their names tell: three numbers or more."""
        return len(self.classes) > 2 and all(map(_is_number, self.classes))

    def rows(self, targets: Any) -> Tensor:
        return torch.tensor([self.classes.index(label) for label in as_labels(targets)])

    @property
    def n_out(self) -> int:
        return len(self.classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def labels(self, rows: Tensor) -> Tensor:
        return rows

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"classes": list(self.classes), "label": self.classes[int(values.argmax())]}


def _is_number(label: str | int) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Survival:
    """Time to an event that some slides are censored for. Values: (1,) log hazard ratio, higher = worse."""

    kind: ClassVar[str] = "survival"
    least_bags: ClassVar[int] = 64  # Cox compares a dying patient with those of the same step only
    n_out: ClassVar[int] = 1

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        return survival_problems(targets)

    @classmethod
    def learn(cls, targets: Any, bins: int) -> Self:
        return cls()

    def rows(self, targets: Any) -> Tensor:
        return torch.from_numpy(as_pairs(targets)[0])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cox_loss(outputs[:, 0], targets[:, 0], targets[:, 1])

    def labels(self, rows: Tensor) -> None:
        return None

    def values(self, outputs: Tensor) -> Tensor:
        return outputs

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"direction": "higher = worse"}


@dataclass(frozen=True, slots=True)
class DiscreteHazard:
    """Time to an event in bins: the chance to die in a bin, having lived so far. Values: (1,) risk, higher = worse.

    Bins are quantiles of the times of *events* among the training bags, the last one open (Zadeh and Schmid 2021).
    The risk is minus the sum of the survival past each bin, as in MCAT: from -bins (nobody dies) to 0; a trained head
    gives it with the mean of its training bags taken off.
    """

    edges: tuple[float, ...]  # inner borders of the bins, ascending, in the unit of time; a time on a border is above
    kind: ClassVar[str] = "hazard"
    least_bags: ClassVar[int] = 16  # steps of one bag follow every single patient about

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        return survival_problems(targets)

    @classmethod
    def learn(cls, targets: Any, bins: int) -> Self:
        pairs = as_pairs(targets)[0]
        inner = np.quantile(pairs[pairs[:, 1] == 1, 0], np.arange(1, bins) / bins)
        return cls(edges=tuple(float(e) for e in np.unique(inner)))

    def rows(self, targets: Any) -> Tensor:
        pairs = as_pairs(targets)[0]
        return torch.from_numpy(np.stack([np.searchsorted(self.edges, pairs[:, 0], "right"), pairs[:, 1]], axis=1))

    @property
    def n_out(self) -> int:
        return len(self.edges) + 1

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return discrete_hazard_loss(outputs, targets[:, 0].long(), targets[:, 1])

    def labels(self, rows: Tensor) -> None:
        return None

    def survival(self, outputs: Tensor) -> Tensor:
        """Outputs (..., bins) to survival past each bin (..., bins), at the times `edges` and beyond."""
        return logsigmoid(-outputs).cumsum(-1).exp()

    def values(self, outputs: Tensor) -> Tensor:
        return -self.survival(outputs).sum(-1, keepdim=True)

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"direction": "higher = worse", "bin_edges": list(self.edges)}


@dataclass(frozen=True, slots=True)
class Regression:
    """One number a slide. Values: (1,) in the unit of the targets. Least squares on training targets of unit scale."""

    mean: float  # of the training targets
    std: float
    kind: ClassVar[str] = "regression"
    least_bags: ClassVar[int] = 1
    n_out: ClassVar[int] = 1

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        columns, strange = as_columns({"the target": targets}, "a number")
        if strange:
            return strange
        y = columns["the target"]
        if not np.isfinite(y).all():
            return [f"the target must be a number (target {some(np.flatnonzero(~np.isfinite(y)).tolist())})"]
        return (
            [] if len(set(y.tolist())) > 1 else ["the target is the same for every bag, so there is nothing to learn"]
        )

    @classmethod
    def learn(cls, targets: Any, bins: int) -> Self:
        y = np.asarray(targets, dtype=np.float64)
        return cls(mean=float(y.mean()), std=float(y.std()))

    def rows(self, targets: Any) -> Tensor:
        return torch.from_numpy((np.asarray(targets, dtype=np.float64) - self.mean) / self.std).float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs[:, 0], targets)

    def labels(self, rows: Tensor) -> None:
        return None

    def values(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class Biomarker:
    """Several yes-or-no questions a slide, some without an answer. Values: probability of each being positive."""

    names: tuple[str, ...]
    kind: ClassVar[str] = "biomarker"
    least_bags: ClassVar[int] = 1

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        columns, strange = as_columns(targets)
        found = list(strange)
        for name, column in columns.items():
            known = column[~np.isnan(column)]
            if not np.isin(known, (0, 1)).all():
                found.append(f"{name} must be 1, 0 or missing")
            elif len(set(known.tolist())) < 2:
                found.append(f"{name} needs both positive and negative slides")
        return found

    @classmethod
    def learn(cls, targets: Any, bins: int) -> Self:
        return cls(names=tuple(as_columns(targets)[0]))

    def rows(self, targets: Any) -> Tensor:
        columns, _ = as_columns(targets)
        return torch.from_numpy(np.stack([columns[name] for name in self.names], axis=1)).float()

    @property
    def n_out(self) -> int:
        return len(self.names)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        total = binary_cross_entropy_with_logits(outputs[known], targets[known], reduction="sum")
        return total / known.sum().clamp(min=1)

    def labels(self, rows: Tensor) -> None:
        return None

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"names": list(self.names)}


def task_class(kind: str) -> type[Task]:
    """The task of that name. Raises UsageError listing those there are."""
    known = (Classification, Survival, DiscreteHazard, Biomarker, Regression)
    kinds: dict[str, type[Task]] = {task.kind: task for task in known}
    if kind not in kinds:
        raise UsageError(f"There is no task {kind!r}.", hint=f"Tasks are {', '.join(kinds)}.")
    return kinds[kind]


def survival_problems(targets: Any) -> list[str]:
    """What is wrong with (time, event) pairs."""
    pairs, strange = as_pairs(targets)
    if strange:
        return strange
    time, event = pairs[:, 0], pairs[:, 1]
    faults = {
        "time must be a number": ~np.isfinite(time),
        "time must be above 0": time <= 0,
        "event must be 1 (seen) or 0 (censored)": ~np.isin(event, (0, 1)),
    }
    found = [f"{what} (target {some(np.flatnonzero(at).tolist())})" for what, at in faults.items() if at.any()]
    return found if (event == 1).any() else [*found, "no target has an event, so nothing tells high risk from low"]
