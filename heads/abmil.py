"""Attention-based multiple instance learning: Ilse, Tomczak and Welling 2018, arXiv 1802.04712, eq. 8 and 9."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsi.errors import UsageError


class AttentionMIL(nn.Module):
    """A slide's label from its tiles: each tile gets a weight, the slide is the weighted mean of its tiles.

    in_dim   D, length of a tile's vector
    n_out    number of outputs: logits of classes or biomarkers, or one risk
    hidden   width of the embedding, or the pair (embedding, attention); one number h means (h, h // 2)
    gated    eq. 9 (tanh times sigmoid) if True, eq. 8 (tanh alone) if False
    dropout  share of embedding units dropped in training

    The order of the tiles does not matter. Raises UsageError for anything but (N, D) with N of at least 1.
    """

    def __init__(
        self, in_dim: int, n_out: int, *, hidden: int | tuple[int, int] = 256, gated: bool = True, dropout: float = 0.25
    ) -> None:
        super().__init__()
        embedding, attention = (hidden, max(1, hidden // 2)) if isinstance(hidden, int) else hidden
        self.embed = nn.Sequential(nn.Linear(in_dim, embedding), nn.ReLU(), nn.Dropout(dropout))
        self.content = nn.Linear(embedding, attention)  # V
        self.gate = nn.Linear(embedding, attention) if gated else None  # U
        self.weigh = nn.Linear(attention, 1)  # w
        self.classify = nn.Linear(embedding, n_out)
        self.in_dim = in_dim

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles (N, D) to logits (n_out,) and attention (N,), which is at least 0 and sums to 1."""
        if x.ndim != 2 or len(x) == 0 or x.shape[1] != self.in_dim:
            raise UsageError(f"This head takes (tiles, {self.in_dim}) with at least one tile, not {tuple(x.shape)}.")
        h = self.embed(x)  # (N, E)
        v = torch.tanh(self.content(h))  # (N, A)
        if self.gate is not None:
            v = v * torch.sigmoid(self.gate(h))  # (N, A)
        a = torch.softmax(self.weigh(v).squeeze(1), dim=0)  # (N,)
        z = a @ h  # (E,)
        return self.classify(z), a
