"""DSMIL: dual-stream multiple instance learning. Li, Li and Eliceiri 2021, arXiv 2011.08939."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from heads.networks.base import Fit, MILNetwork, each_bag
from heads.networks.registry import Architecture, HeadKind, Recipe


class DSMIL(MILNetwork):
    """One stream scores every tile; the other weighs tiles by their likeness to the highest-scored tile of a class.

    Classes exclude each other here and in the other heads, so they are judged by cross-entropy over a softmax, where
    the papers' code has one sigmoid a class. In training both streams are judged, half and half; the outputs are their
    mean, as in the paper.
    """

    bag_share: ClassVar[float] = 0.5

    def __init__(self, in_dim: int, n_out: int, *, query: int, dropout: float) -> None:
        super().__init__(in_dim, n_out)
        self.score = nn.Linear(in_dim, n_out)
        self.query = nn.Sequential(nn.Linear(in_dim, query), nn.ReLU(), nn.Linear(query, query), nn.Tanh())
        self.drop = nn.Dropout(dropout)
        self.classify = nn.Conv1d(n_out, n_out, in_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bag, a, highest = self._both(x)
        return (bag + highest) / 2, a

    def evidence(self, x: Tensor) -> Tensor:
        return self.score(x)

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        bags = each_bag(self._both, x, lengths)
        return Fit(torch.stack([b[0] for b in bags]), also=torch.stack([b[2] for b in bags]))

    def _both(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the weighted mean (n_out,), attention (N, n_out), and the highest tile's outputs (n_out,)."""
        self.check(x)
        highest, which = self.score(x).max(0)  # (n_out,) each
        q = self.query(x)  # (N, Q)
        a = (q @ q[which].T / math.sqrt(q.shape[1])).softmax(0)  # (N, n_out)
        b = a.T @ self.drop(x)  # (n_out, D)
        return self.classify(b[None])[0, :, 0], a, highest


def _build(a: Architecture) -> DSMIL:
    return DSMIL(a.in_dim, a.n_out, query=a.attention, dropout=a.dropout)


KIND = HeadKind(
    _build,
    Recipe(attention=128, dropout=0.0, lr=2e-4, weight_decay=5e-3, betas=(0.5, 0.9)),
)
