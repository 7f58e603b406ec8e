"""One trained network with all that was learnt beside its weights: a saved head has one, or one for each fold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heads.bag import BagLike
from heads.feed import tensors
from heads.metrics.survival import BaselineHazard
from heads.model import HeadModel
from heads.networks.registry import Architecture
from heads.tasks import DiscreteHazard, Regression, Survival, Task
from wsi.errors import UsageError


@dataclass(frozen=True, slots=True)
class MemberCard:
    """What a member is, beside its weights. Everything here was learnt from its training and validation bags alone."""

    architecture: Architecture
    task: Task
    n_bags: int  # it was trained on
    n_validation: int  # kept back for what follows
    losses: tuple[float, ...]  # mean training loss of each epoch: shows whether it has settled
    validation_losses: tuple[float, ...] = ()
    temperature: tuple[float, ...] = (1.0,)  # outputs are divided by it; one, or one for each biomarker
    thresholds: tuple[
        float, ...
    ] = ()  # best (Youden) on validation: of the second of two classes, or of each biomarker
    centre: float = 0.0  # mean risk of the training bags, taken off so that members' risks can be averaged
    cut: float = 0.0  # median risk of the training bags after that: what lies above is the group of high risk
    baseline: tuple[tuple[float, ...], ...] = ()  # of the training bags (Cox): times, log of the cumulative hazard


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """Scores bags by one network."""

    card: MemberCard
    model: HeadModel = field(repr=False)

    def outputs(self, bag: BagLike) -> tuple[Tensor, Tensor]:
        """Outputs (n_out,) as the network gives them and attention (N,) or (N, n_out), on the CPU in float32."""
        device = self.model.mean.device
        with torch.inference_mode():
            outputs, attention = self.model(tensors([bag.load()]).to(device))
        return outputs.float().cpu(), attention.float().cpu()

    def values(self, outputs: Tensor) -> NDArray[np.float32]:
        """Outputs (..., n_out) to calibrated values: probabilities, a centred risk, or a number."""
        task = self.card.task
        if isinstance(task, Survival | DiscreteHazard | Regression):
            return task.values(outputs).numpy() - np.float32(self.card.centre)
        return task.values(outputs / torch.tensor(self.card.temperature)).numpy()

    def survival(self, outputs: Tensor, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Survival (..., T) at `times`, which steps down at events (Cox) or at bins' ends.

        Raises UsageError for tasks without time.
        """
        task = self.card.task
        if isinstance(task, DiscreteHazard):
            steps = np.concatenate([np.ones((*outputs.shape[:-1], 1)), task.survival(outputs).numpy()], axis=-1)
            return steps[..., np.searchsorted(task.edges, times, "right")]
        if isinstance(task, Survival) and self.card.baseline:
            risk = np.asarray(self.values(outputs)[..., 0], dtype=np.float64)
            baseline = BaselineHazard(*map(np.array, self.card.baseline))
            return baseline.survival(risk.reshape(-1), times).reshape(*risk.shape, len(times))
        raise UsageError(f"A head for {task.kind} knows no survival curves.")
