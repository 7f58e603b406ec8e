"""What a head is asked: how targets are read, what is minimised, and what the outputs mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from heads.losses import cox_loss
from heads.problems import some
from heads.targets import as_columns, as_labels, as_pairs
from wsi.errors import UsageError


class Task(Protocol):
    """One per kind of question. Frozen dataclasses, so that the saved head can name all that they know."""

    kind: ClassVar[str]
    batch_bags: ClassVar[int]  # bags a step, where the settings leave it open

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
        """All that is wrong with the targets, one sentence each; empty if `read` will work."""
        ...

    @classmethod
    def read(cls, targets: Any) -> tuple[Self, Tensor]:
        """The task and its targets as a tensor of one row per bag."""
        ...

    @property
    def n_out(self) -> int: ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, n_out) and rows of targets to a scalar."""
        ...

    def values(self, outputs: Tensor) -> Tensor:
        """Outputs (n_out,) to the values of a SlideScore."""
        ...

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        """What the values mean, as plain JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Classification:
    """One label a slide. Values: probability of each class, which sum to 1."""

    classes: tuple[str, ...] | tuple[int, ...]  # sorted
    kind: ClassVar[str] = "classification"
    batch_bags: ClassVar[int] = 4

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
    def read(cls, targets: Any) -> tuple[Self, Tensor]:
        labels = as_labels(targets)
        task = cls(classes=tuple(sorted(set(labels))))
        return task, torch.tensor([task.classes.index(label) for label in labels])

    @property
    def n_out(self) -> int:
        return len(self.classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(0)

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"classes": list(self.classes), "label": self.classes[int(values.argmax())]}


@dataclass(frozen=True, slots=True)
class Survival:
    """Time to an event that some slides are censored for. Values: (1,) log hazard ratio, higher = worse."""

    kind: ClassVar[str] = "survival"
    batch_bags: ClassVar[int] = 64  # Cox compares a dying patient with those of the same step only
    n_out: ClassVar[int] = 1

    @classmethod
    def problems(cls, targets: Any) -> list[str]:
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

    @classmethod
    def read(cls, targets: Any) -> tuple[Self, Tensor]:
        return cls(), torch.from_numpy(as_pairs(targets)[0])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cox_loss(outputs[:, 0], targets[:, 0], targets[:, 1])

    def values(self, outputs: Tensor) -> Tensor:
        return outputs

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"direction": "higher = worse"}


@dataclass(frozen=True, slots=True)
class Biomarker:
    """Several yes-or-no questions a slide, some without an answer. Values: probability of each being positive."""

    names: tuple[str, ...]
    kind: ClassVar[str] = "biomarker"
    batch_bags: ClassVar[int] = 4

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
    def read(cls, targets: Any) -> tuple[Self, Tensor]:
        columns, _ = as_columns(targets)
        return cls(names=tuple(columns)), torch.from_numpy(np.stack(list(columns.values()), axis=1)).float()

    @property
    def n_out(self) -> int:
        return len(self.names)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        total = binary_cross_entropy_with_logits(outputs[known], targets[known], reduction="sum")
        return total / known.sum().clamp(min=1)

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def detail(self, values: NDArray[np.float32]) -> dict[str, Any]:
        return {"names": list(self.names)}


def task_class(kind: str) -> type[Task]:
    """The task of that name. Raises UsageError listing those there are."""
    kinds: dict[str, type[Task]] = {task.kind: task for task in (Classification, Survival, Biomarker)}
    if kind not in kinds:
        raise UsageError(f"There is no task {kind!r}.", hint=f"Tasks are {', '.join(kinds)}.")
    return kinds[kind]
