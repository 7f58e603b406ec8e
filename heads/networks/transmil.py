"""TransMIL: a transformer over the tiles of a slide. Shao et al. 2021, arXiv 2106.00908; Xiong et al. 2021 (Nystrom).

The one head here for which the order of tiles matters: they are laid row by row on a square, as in the paper, and
neighbours on that square are mixed by convolutions. Bags keep the lattice's row-major order, so neighbours in a row
are neighbours on the slide; those above and below are only where the tissue happens to be a square. Tiles that fill the
square up (the first ones again, as in the paper) take part; the padding of the attention itself does not, which the
paper's code leaves open.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from heads.networks.base import MILNetwork
from heads.networks.registry import Architecture, HeadKind, Recipe
from wsi.errors import UsageError

HEADS, LANDMARKS, PINV_STEPS, KERNEL = 8, 256, 6, 33


class NystromAttention(nn.Module):
    """Softmax attention through landmarks: memory grows with the number of tokens, not with its square."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.residual = nn.Conv2d(HEADS, HEADS, (KERNEL, 1), padding=(KERNEL // 2, 0), groups=HEADS, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (T, E) to tokens (T, E), and how the first token attends to all (T,), mean over the heads."""
        tokens, dim = x.shape
        q, k, v = self.qkv(x).view(tokens, 3, HEADS, dim // HEADS).permute(1, 2, 0, 3)  # (8, T, E / 8) each
        q = q / math.sqrt(q.shape[-1])
        q_mark, k_mark = _landmarks(q), _landmarks(k)  # (8, M, E / 8)
        first = (q @ k_mark.mT).softmax(-1)  # (8, T, M)
        middle = _pseudo_inverse((q_mark @ k_mark.mT).softmax(-1))  # (8, M, M)
        last = (q_mark @ k.mT).softmax(-1)  # (8, M, T)
        mixed = first @ (middle @ (last @ v)) + self.residual(v[None])[0]
        seen = (first[:, :1] @ middle @ last)[:, 0].mean(0)  # (T,)
        return self.out(mixed.transpose(0, 1).reshape(tokens, dim)), seen


def _landmarks(x: Tensor) -> Tensor:
    """Means of M runs of tokens (H, T, d) -> (H, M, d); runs differ by one token where T is no multiple of M."""
    tokens = x.shape[1]
    marks = min(LANDMARKS, tokens)
    ends = torch.arange(marks + 1, device=x.device) * tokens // marks
    wide = x.float() if x.dtype.itemsize < 4 else x  # bfloat16 sums of a few hundred tokens stand still
    runs = torch.segment_reduce(wide.transpose(0, 1).contiguous(), "mean", lengths=ends.diff())  # (M, H, d)
    return runs.transpose(0, 1).to(x.dtype)


def _pseudo_inverse(a: Tensor) -> Tensor:
    """Moore-Penrose inverse by Razavi's iteration, six steps as in the paper."""
    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    z = a.mT / (a.abs().sum(-1).amax() * a.abs().sum(-2).amax())
    for _ in range(PINV_STEPS):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


class PositionMix(nn.Module):
    """PPEG: tokens on their square, mixed by depthwise convolutions of 7, 5 and 3; the class token is left alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim) for k in (7, 5, 3))

    def forward(self, x: Tensor, side: int) -> Tensor:
        square = x[1:].T.view(1, -1, side, side)
        mixed = square + sum(c(square) for c in self.convolutions)
        return torch.cat([x[:1], mixed.view(x.shape[1], -1).T])


class TransMIL(MILNetwork):
    """Two layers of Nystrom attention with a class token, and position mixing between them.

    Raises UsageError for a width that the heads of the attention cannot share.
    """

    ordered: ClassVar[bool] = True

    def __init__(self, in_dim: int, n_out: int, *, hidden: int, dropout: float) -> None:
        super().__init__(in_dim, n_out)
        if hidden % HEADS:
            raise UsageError(f"hidden is {hidden}; for this head it must be a multiple of {HEADS}.")
        self.embed = nn.Sequential(nn.Linear(in_dim, hidden), nn.ReLU())
        self.token = nn.Parameter(torch.randn(1, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(3))
        self.layers = nn.ModuleList(NystromAttention(hidden, dropout) for _ in range(2))
        self.positions = PositionMix(hidden)
        self.classify = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.check(x)
        side = math.ceil(math.sqrt(len(x)))
        h = self.embed(x)
        h = torch.cat([self.token, h, h[: side * side - len(x)]])  # (1 + side^2, E)
        h = h + self.layers[0](self.norms[0](h))[0]
        h = self.positions(h, side)
        change, seen = self.layers[1](self.norms[1](h))
        outputs = self.classify(self.norms[2](h + change)[0])
        return outputs, _shares(seen[1:], len(x))


def _shares(seen: Tensor, tiles: int) -> Tensor:
    """How the class token attends to each tile, a tile's repeats counted with it, as shares that sum to 1.

    The Nystrom approximation of a softmax dips below 0, the more the sharper it is; such tiles get 0.
    """
    again = seen[tiles:]
    total = (seen[:tiles] + pad(again, (0, tiles - len(again)))).clamp(min=0)
    return total / total.sum().clamp(min=1e-12)


def _build(a: Architecture) -> TransMIL:
    return TransMIL(a.in_dim, a.n_out, hidden=a.hidden, dropout=a.dropout)


KIND = HeadKind(
    _build,
    Recipe(hidden=512, dropout=0.1, lr=2e-4, weight_decay=1e-5, optimiser="lookahead-radam"),
)
