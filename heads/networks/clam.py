"""CLAM: clustering-constrained attention. Lu et al. 2021, doi 10.1038/s41551-020-00682-w.

Besides the bags' loss, tiles with the most and the least attention are told apart by a small classifier for each class:
the most attended tiles of a class are taken for examples of it, the least attended for counter-examples.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from heads.networks.attention import PART, AttentionNetwork
from heads.networks.base import Fit
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
        outputs = self.outputs(self._pooled(x, lengths))
        if labels is None:
            return Fit(outputs)
        own = [self._instance_loss(bag, int(label)) for bag, label in zip(x.split(lengths), labels, strict=True)]
        return Fit(outputs, own=torch.stack(own).mean())

    def _instance_loss(self, x: Tensor, label: int) -> Tensor:
        """Mean over the classes of the two-way cross-entropy of the tiles at the ends of their attention.

        The ends are found without gradients; only those tiles are embedded again, so a long bag costs no memory.
        """
        k = min(INSTANCES, len(x) // 2)
        if k == 0:
            return x.new_zeros(())
        with torch.no_grad():
            scores = torch.cat([self._tiles(part)[1] for part in x.split(PART)])  # (N, K)
        losses = []
        for c, classifier in enumerate(self.instances):
            branch = scores[:, c if self.branches > 1 else 0]
            top, bottom = branch.topk(k).indices, (-branch).topk(k).indices
            rows = torch.cat([top, bottom]) if c == label else top
            target = (torch.arange(len(rows), device=x.device) < k) & (c == label)
            losses.append(cross_entropy(classifier(self.embed(x[rows])), target.long()))
        return torch.stack(losses).mean()


def _single(a: Architecture) -> CLAM:
    return CLAM(a.in_dim, a.n_out, widths=(a.hidden, a.attention), dropout=a.dropout, multi=False)


def _multi(a: Architecture) -> CLAM:
    return CLAM(a.in_dim, a.n_out, widths=(a.hidden, a.attention), dropout=a.dropout, multi=True)


_RECIPE = Recipe(hidden=512, attention=256, dropout=0.25, lr=1e-4, weight_decay=1e-5)
SB = HeadKind(_single, _RECIPE)
MB = HeadKind(_multi, _RECIPE)
