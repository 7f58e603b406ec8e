"""CLAM: clustering-constrained attention. Lu et al. 2021, doi 10.1038/s41551-020-00682-w.

Besides the bags' loss, tiles with the most and the least attention are told apart by a small classifier for each class:
the most attended tiles of a class are taken for examples of it, the least attended for counter-examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from heads.networks.attention import AttentionNetwork, weighted_mean
from heads.networks.base import PART, Fit, each_bag
from heads.networks.registry import Architecture, HeadKind, Recipe

INSTANCES = 8  # tiles taken at each end of the attention


class CLAM(AttentionNetwork):
    """Single-branch (SB, one attention for all classes) or multi-branch (MB, one for each output).

    Classes are taken to exclude each other, as in the paper's subtyping: the tiles most attended for one class are
    counter-examples of the others. For tasks other than classification there is no instance loss, and CLAM-SB is gated
    ABMIL with dropout in the attention as well.
    """

    bag_share: ClassVar[float] = 0.7

    def __init__(self, in_dim: int, n_out: int, *, widths: tuple[int, int], dropout: float, multi: bool) -> None:
        super().__init__(in_dim, n_out, widths, branches=n_out if multi else 1, gated=True)
        self.embed.append(nn.Dropout(dropout))
        self.attention_drop = nn.Dropout(dropout)
        self.classify = nn.Linear(widths[0], n_out)  # MB: row c reads the mean of branch c alone
        self.instances = nn.ModuleList(nn.Linear(widths[0], 2) for _ in range(n_out))

    def outputs(self, z: Tensor) -> Tensor:
        if self.branches == 1:
            return self.classify(z[:, 0])
        return (z * self.classify.weight).sum(-1) + self.classify.bias

    def evidence(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        if labels is None:
            return super().fit(x, lengths, labels)
        judged = each_bag(self._judged, x, lengths, labels.tolist())
        means, own = zip(*judged, strict=True)
        return Fit(self.outputs(torch.stack(means)), own=torch.stack(own).mean())

    def _judged(self, x: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """Weighted means (K, E) of one bag, and its instance loss.

        In a long bag the ends are found without gradients, and only their tiles are embedded again: it costs no memory.
        """
        if len(x) <= PART:
            h, scores = self._tiles(x)
            return weighted_mean(scores, h)[0], self._instance_loss(scores, label, lambda rows: h[rows])
        with torch.no_grad():
            scores = torch.cat([self._tiles(part)[1] for part in x.split(PART)])
        return self._long(x), self._instance_loss(scores, label, lambda rows: self.embed(x[rows]))

    def _instance_loss(self, scores: Tensor, label: int, embedded: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over the classes of the two-way cross-entropy of the tiles at the ends of their scores (N, K).

        `embedded` gives rows of tiles as their embeddings (rows, E).
        """
        k = min(INSTANCES, len(scores) // 2)
        if k == 0:
            return scores.new_zeros(())
        losses = []
        for c, classifier in enumerate(self.instances):
            branch = scores.detach()[:, c if self.branches > 1 else 0]
            top, bottom = branch.topk(k).indices, (-branch).topk(k).indices
            rows = torch.cat([top, bottom]) if c == label else top
            target = (torch.arange(len(rows), device=rows.device) < k) & (c == label)
            losses.append(cross_entropy(classifier(embedded(rows)), target.long()))
        return torch.stack(losses).mean()


def _single(a: Architecture) -> CLAM:
    return CLAM(a.in_dim, a.n_out, widths=(a.hidden, a.attention), dropout=a.dropout, multi=False)


def _multi(a: Architecture) -> CLAM:
    return CLAM(a.in_dim, a.n_out, widths=(a.hidden, a.attention), dropout=a.dropout, multi=True)


_RECIPE = Recipe(hidden=512, attention=256, dropout=0.25, lr=1e-4, weight_decay=1e-5)
SB = HeadKind(_single, _RECIPE)
MB = HeadKind(_multi, _RECIPE)
