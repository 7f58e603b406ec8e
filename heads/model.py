"""The network inside a saved head: standardisation and a MIL network as one module with one set of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from heads.networks.base import PART, Fit, MILNetwork


class HeadModel(nn.Module):
    """Features to standard scores, then the MIL network. The scale is of the training bags and saved with them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mil: MILNetwork) -> None:
        super().__init__()
        self.mil = mil
        self.register_buffer("mean", torch.zeros(mil.in_dim))
        self.register_buffer("std", torch.ones(mil.in_dim))

    def standardise_by(self, mean: Any, std: Any) -> None:
        """Take the mean and deviation (D,) of the training tiles."""
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))

    def standard(self, x: Tensor) -> Tensor:
        return torch.sub(x, self.mean).div_(self.std)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles (N, D) as the encoder gave them to outputs (n_out,) and attention (N,) or (N, n_out)."""
        self.mil.check(x)
        outputs: tuple[Tensor, Tensor] = self.mil(self.standard(x))
        return outputs

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        """See `MILNetwork.fit`."""
        return self.mil.fit(self.standard(x), lengths, labels)

    def evidence(self, x: Tensor) -> Tensor | None:
        """See `MILNetwork.evidence`; (N, n_out)."""
        parts = [self.mil.evidence(self.standard(part)) for part in x.split(PART)]
        return None if parts[0] is None else torch.cat([p for p in parts if p is not None])
