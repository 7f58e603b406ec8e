"""Attention pooling in bounded memory: what ABMIL and CLAM share.

A bag of any length is weighed in parts. For tiles h and scores s, a part gives its weighted mean and the log of the sum
of exp(s); the bag's mean is the parts' means weighed by the softmax of those logs. This is exact. In training the parts
of a long bag are computed twice and kept never (gradient checkpoints), so memory holds one part's activations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from heads.networks.base import PART, Fit, MILNetwork, again, each_bag


class AttentionNetwork(MILNetwork):
    """An embedding, K attention branches (Ilse 2018, eq. 8 or 9) and, in a subclass, outputs from K weighted means."""

    def __init__(self, in_dim: int, n_out: int, widths: tuple[int, int], branches: int = 1, *, gated: bool) -> None:
        super().__init__(in_dim, n_out)
        embedding, attention = widths
        self.embed = nn.Sequential(nn.Linear(in_dim, embedding), nn.ReLU())
        self.content = nn.Linear(embedding, attention)  # V
        self.gate = nn.Linear(embedding, attention) if gated else None  # U
        self.attention_drop: nn.Module = nn.Identity()
        self.weigh = nn.Linear(attention, branches)  # w
        self.branches = branches

    def outputs(self, z: Tensor) -> Tensor:
        """Weighted means (B, K, E) to outputs (B, n_out)."""
        raise NotImplementedError(type(self).__name__)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check(x)
        parts = [self._part(part) for part in x.split(PART)]
        scores = torch.cat([s for s, _, _ in parts])  # (N, K)
        z = _joined([mean for _, mean, _ in parts], [log for _, _, log in parts])  # (K, E)
        a = scores.softmax(0)
        return self.outputs(z[None])[0], a[:, 0] if self.branches == 1 else a

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        return Fit(self.outputs(self._pooled(x, lengths)))

    def _pooled(self, x: Tensor, lengths: list[int]) -> Tensor:
        """(B, K, E) weighted means of the bags in `x`, those that fit together through the layers at once."""
        if len(lengths) == 1:
            return self._long(x)[None]
        if sum(lengths) <= PART:
            h, scores = self._tiles(x)
            means = [weighted_mean(s, t)[0] for s, t in zip(scores.split(lengths), h.split(lengths), strict=True)]
            return torch.stack(means)
        return torch.stack(each_bag(self._long, x, lengths))

    def _long(self, x: Tensor) -> Tensor:
        if len(x) <= PART:
            return self._part(x)[1]
        parts = [again(self._part, part) for part in x.split(PART)]
        return _joined([mean for _, mean, _ in parts], [log for _, _, log in parts])

    def _part(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (n, K), their weighted mean (K, E) and the log of the sum of their exponentials (K,)."""
        h, scores = self._tiles(x)
        return scores, *weighted_mean(scores, h)

    def _tiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded tiles (n, E) and their scores (n, K), before the softmax."""
        h = self.embed(x)
        v = self.attention_drop(torch.tanh(self.content(h)))  # (n, A)
        if self.gate is not None:
            v = v * self.attention_drop(torch.sigmoid(self.gate(h)))
        return h, self.weigh(v)


def weighted_mean(scores: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Means (K, E) of tiles (n, E) weighed by scores (n, K), and the logs of the sums of their exponentials (K,)."""
    return scores.softmax(0).T @ h, scores.logsumexp(0)


def _joined(means: list[Tensor], logs: list[Tensor]) -> Tensor:
    share = torch.stack(logs).softmax(0)  # (parts, K)
    return (share[:, :, None] * torch.stack(means)).sum(0)
