"""Mean and maximum over tiles with a linear layer: the baselines that every other head has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from heads.networks.base import Fit, MILNetwork
from heads.networks.registry import Architecture, HeadKind, Recipe


class MeanMIL(MILNetwork):
    """A linear layer on the mean tile. All tiles weigh the same; the evidence tells them apart."""

    def __init__(self, in_dim: int, n_out: int) -> None:
        super().__init__(in_dim, n_out)
        self.classify = nn.Linear(in_dim, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check(x)
        return self.classify(x.mean(0)), x.new_full((len(x),), 1 / len(x))

    def evidence(self, x: Tensor) -> Tensor:
        return self.classify(x)

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        return Fit(self.classify(torch.stack([bag.mean(0) for bag in x.split(lengths)])))


class MaxMIL(MILNetwork):
    """A linear layer on every tile; for each output the highest tile speaks for the slide (Campanella et al. 2019)."""

    def __init__(self, in_dim: int, n_out: int) -> None:
        super().__init__(in_dim, n_out)
        self.classify = nn.Linear(in_dim, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check(x)
        best, which = self.classify(x).max(0)  # (n_out,) each
        return best, one_hot(which, len(x)).T.to(x.dtype)  # (N, n_out)

    def evidence(self, x: Tensor) -> Tensor:
        return self.classify(x)

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        return Fit(torch.stack([bag.amax(0) for bag in self.classify(x).split(lengths)]))


def _mean(a: Architecture) -> MeanMIL:
    return MeanMIL(a.in_dim, a.n_out)


def _max(a: Architecture) -> MaxMIL:
    return MaxMIL(a.in_dim, a.n_out)


# No paper gives settings for these two: a small step and weight decay, as for any logistic regression.
_RECIPE = Recipe(lr=1e-3, weight_decay=1e-2, optimiser="adamw", epochs=40, batch_bags=16)
MEAN = HeadKind(_mean, _RECIPE)
MAX = HeadKind(_max, _RECIPE)
