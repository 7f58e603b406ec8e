"""Attention-based multiple instance learning: Ilse, Tomczak and Welling 2018, arXiv 1802.04712, eq. 8 and 9."""

from __future__ import annotations

from torch import Tensor, nn

from heads.networks.attention import AttentionNetwork
from heads.networks.registry import Architecture, HeadKind, Recipe


class AttentionMIL(AttentionNetwork):
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
        widths = (hidden, max(1, hidden // 2)) if isinstance(hidden, int) else hidden
        super().__init__(in_dim, n_out, widths, gated=gated)
        self.embed.append(nn.Dropout(dropout))
        self.classify = nn.Linear(widths[0], n_out)

    def outputs(self, z: Tensor) -> Tensor:
        return self.classify(z[:, 0])

    def evidence(self, x: Tensor) -> Tensor:
        return self.classify(self.embed(x))


def _plain(a: Architecture) -> AttentionMIL:
    return AttentionMIL(a.in_dim, a.n_out, hidden=(a.hidden, a.attention), gated=False, dropout=a.dropout)


def _gated(a: Architecture) -> AttentionMIL:
    return AttentionMIL(a.in_dim, a.n_out, hidden=(a.hidden, a.attention), gated=True, dropout=a.dropout)


# The paper's for images: a 500-wide embedding (512 here), L = 128, Adam 5e-4, weight decay 1e-4, one bag a step, 20
# epochs. Dropout is what pathology adds (Lu 2021): slides are fewer than digits.
_RECIPE = Recipe(hidden=512, attention=128, dropout=0.25, lr=5e-4, weight_decay=1e-4)
GATED = HeadKind(_gated, _RECIPE)
PLAIN = HeadKind(_plain, _RECIPE)
