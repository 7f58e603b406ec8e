"""The network inside a saved head: standardisation and attention MIL as one module with one set of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heads.abmil import AttentionMIL
from heads.problems import refuse
from wsi.errors import ArtefactError

ABMIL = "abmil"


@dataclass(frozen=True, slots=True)
class Architecture:
    """All it takes to build the network again, but its weights."""

    name: str
    in_dim: int  # D of the bags
    n_out: int
    hidden: int  # width of the tile embedding; attention has half
    gated: bool
    dropout: float

    def __post_init__(self) -> None:
        sizes = {"in_dim": self.in_dim, "n_out": self.n_out, "hidden": self.hidden}
        problems = [
            f"{name} is {n!r}, not a whole number of at least 1" for name, n in sizes.items() if not _positive(n)
        ]
        refuse(problems, "No head can be built like this")

    def build(self) -> HeadModel:
        """The network with random weights from torch's global generator. Raises ArtefactError for an unknown name."""
        if self.name != ABMIL:
            raise ArtefactError(f"There is no architecture {self.name!r}.", hint=f"This version knows {ABMIL}.")
        mil = AttentionMIL(self.in_dim, self.n_out, hidden=self.hidden, gated=self.gated, dropout=self.dropout)
        return HeadModel(mil)


def _positive(n: object) -> bool:
    return type(n) is int and n >= 1


class HeadModel(nn.Module):
    """Features to standard scores, then the MIL network. The scale is of the training bags and saved with them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mil: AttentionMIL) -> None:
        super().__init__()
        self.mil = mil
        self.register_buffer("mean", torch.zeros(mil.in_dim))
        self.register_buffer("std", torch.ones(mil.in_dim))

    def standardise_by(self, bags: Sequence[NDArray[np.float32]]) -> None:
        """Take the mean and deviation of every dimension over all tiles of all bags, each (N, D)."""
        n = sum(map(len, bags))
        mean = np.sum([x.sum(axis=0, dtype=np.float64) for x in bags], axis=0) / n
        std = np.sqrt(np.sum([np.square(x - mean).sum(axis=0) for x in bags], axis=0) / n)
        # A dimension that does not vary beyond float32's own rounding carries nothing: it is centred, not blown up.
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles (N, D) as the encoder gave them to outputs (n_out,) and attention (N,)."""
        outputs: tuple[Tensor, Tensor] = self.mil((x - self.mean) / self.std)
        return outputs
