"""What every network is: one signature, a weight for every tile, and what a training step judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsi.errors import UsageError

PART = 16_384  # tiles at a time: 512-d activations of a part are 32 MiB a layer
KEPT = 4 * PART  # tiles of a step whose activations are kept for the way back; of more, they are computed again

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Fit:
    """What one training step of B bags is judged by."""

    outputs: Tensor  # (B, n_out) of the bags
    also: Tensor | None = None  # (B, n_out) a second prediction, judged by the task's loss too
    own: Tensor | None = None  # scalar, a loss of the network's own


class MILNetwork(nn.Module):
    """Base of all. A subclass gives `forward` and, where it can, `evidence` and a faster `fit`."""

    ordered: ClassVar[bool] = False  # whether the order of tiles changes the outputs
    bag_share: ClassVar[float] = 1.0  # of the bags' loss in the sum; the rest is for `also` or `own`, if there is one

    def __init__(self, in_dim: int, n_out: int) -> None:
        super().__init__()
        self.in_dim, self.n_out = in_dim, n_out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles (N, D) to outputs (n_out,) and attention, (N,) or one column for each output (N, n_out).

        Attention is at least 0 and sums to 1 over the tiles. Raises UsageError for anything but (N, D), N at least 1.
        """
        raise UsageError(f"{type(self).__name__} has no forward pass.")

    def evidence(self, x: Tensor) -> Tensor | None:
        """(N, n_out) what each tile says for itself, on the scale of the outputs; None where a tile alone says nothing.

        Attention times evidence is a tile's contribution: over the tiles it sums to the bag's outputs, wherever the
        outputs are a linear layer on a weighted mean.
        """
        return None

    def fit(self, x: Tensor, lengths: list[int], labels: Tensor | None) -> Fit:
        """Bags one after another in `x` (sum of lengths, D), for a training step.

        `labels` (B,) are class indices where the task is to classify, else None.
        """
        return Fit(torch.stack(each_bag(lambda bag: self(bag)[0], x, lengths)))

    def check(self, x: Tensor) -> None:
        if x.ndim != 2 or len(x) == 0 or x.shape[1] != self.in_dim:
            raise UsageError(f"This head takes (tiles, {self.in_dim}) with at least one tile, not {tuple(x.shape)}.")


def each_bag(function: Callable[..., Found], x: Tensor, lengths: list[int], *others: Iterable[Any]) -> list[Found]:
    """`function` of every bag in `x` (sum of lengths, D), and its share of `others`.

    Takes the memory of KEPT tiles or of the longest bag, whichever is more.
    """
    run = function if len(lengths) == 1 or len(x) <= KEPT else partial(again, function)
    return [run(*given) for given in zip(x.split(lengths), *others, strict=True)]


def again(function: Callable[..., Found], *given: Any) -> Found:
    """`function(*given)`, whose insides are not kept but computed again on the way back, with the same dropout."""
    found: Any = checkpoint(function, *given, use_reentrant=False)
    return found
