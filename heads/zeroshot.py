"""Slide scores from words alone: tiles are compared with class sentences, and the tiles most like a class speak for it.

Top-K pooling as in MI-Zero (Lu et al., CVPR 2023) and CONCH (Lu et al., Nat Med 2024), with both sides normalised.
Classes are rows of an array here; which of them compete for the slide's label is for `PromptSet.compete` to say.
Scores rank tiles and slides by their likeness to words. They are no diagnosis.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.bag import Bag, SlideScore
from heads.similarity import Lattice, softmax, tile_similarity
from wsi.errors import UsageError
from wsi.identity import canonical_json

TOP_K = (1, 5, 10, 50, 100)  # CONCH's choice; none of them is best everywhere, so all are reported
LOGIT_SCALE = math.log(100)  # natural log; where CLIP training clamps it. An encoder's own is `encoder.logit_scale`


def zero_shot(
    bag: Bag,
    class_embeddings: NDArray[np.float32],
    *,
    top_k: Sequence[int] = TOP_K,
    logit_scale: float = LOGIT_SCALE,
    smooth_over: Lattice | None = None,
) -> dict[int, SlideScore]:
    """One score for each K: S_c is the mean of the K highest similarities of class c, each class by its own K tiles.

    class_embeddings (C, D), of any length but 0; logit_scale natural log, p = softmax(exp(logit_scale) * S);
    smooth_over `grid.keep.shape` to average each tile with its neighbours first (see `tile_similarity`).

    Of each score: `values` (C,) float32 p, sums to 1; `per_tile` (N, C) the similarities pooled, -1..1;
    `detail`: "similarity" S, "k" tiles used (N where K is more), "k_asked" K.

    Raises UsageError for a bag without tiles, a K below 1 or given twice, a logit scale that is no logarithm;
    EncoderMismatch where the dimensions of tiles and classes differ.
    """
    asked = list(top_k)
    if not asked or len(set(asked)) < len(asked) or any(k != int(k) or k < 1 for k in asked):
        raise UsageError(f"top_k holds different whole numbers of at least 1, not {asked}.")
    slide = _compare(bag, class_embeddings, logit_scale, smooth_over)
    ranked = np.sort(slide.similarity, axis=0)[::-1]  # (N, C), each class by itself
    return {int(k): slide.by_mean(ranked[: int(k)], pooling="top-k", k_asked=int(k)) for k in asked}


def zero_shot_pooled(
    bag: Bag,
    class_embeddings: NDArray[np.float32],
    *,
    logit_scale: float = LOGIT_SCALE,
    smooth_over: Lattice | None = None,
) -> dict[str, SlideScore]:
    """The two poolings that use every tile, beside `zero_shot`, whose arguments and errors they share.

    "mean"   S_c is the mean over all tiles: what the slide mostly is; small tumours drown in it
    "share"  `values` (C,) are the shares of tiles that are most like each class, as in KEEP; they sum to 1
    """
    slide = _compare(bag, class_embeddings, logit_scale, smooth_over)
    counts = np.bincount(slide.similarity.argmax(axis=1), minlength=len(class_embeddings))
    share = slide.score(counts / len(bag), pooling="share", k=len(bag), tiles=counts.tolist())
    return {"mean": slide.by_mean(slide.similarity, pooling="mean"), "share": share}


def zero_shot_probabilities(per_tile: NDArray[np.float32], logit_scale: float = LOGIT_SCALE) -> NDArray[np.float32]:
    """Similarities (N, C) to float32 (N, C): softmax over the classes in every tile, for maps. Rows sum to 1."""
    return softmax(per_tile, logit_scale).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """One slide against one set of classes: all that its scores have in common."""

    slide_id: str
    similarity: NDArray[np.float32]  # (N, C)
    classes: bytes  # of the embeddings: part of the score's identity
    logit_scale: float
    smoothed: bool

    def by_mean(self, chosen: NDArray[np.float32], **how: Any) -> SlideScore:
        """The score whose S is the mean of the chosen similarities (K, C)."""
        s = chosen.mean(axis=0, dtype=np.float64)
        return self.score(softmax(s, self.logit_scale), **how, k=len(chosen), similarity=s.tolist())

    def score(
        self, values: NDArray[np.float64], *, pooling: str, k: int, k_asked: int | None = None, **facts: Any
    ) -> SlideScore:
        how = {"pooling": pooling, "k_asked": k_asked, "logit_scale": self.logit_scale, "smoothed": self.smoothed}
        head = hashlib.sha256(self.classes + canonical_json(how).encode()).hexdigest()
        return SlideScore(
            values.astype(np.float32), self.similarity, head, {"slide_id": self.slide_id, **how, "k": k, **facts}
        )


def _compare(bag: Bag, classes: NDArray[np.float32], logit_scale: float, smooth_over: Lattice | None) -> _Comparison:
    similarity = tile_similarity(bag, classes, smooth_over)
    content = np.ascontiguousarray(classes, np.float32).tobytes()
    return _Comparison(bag.slide_id, similarity, content, float(logit_scale), smooth_over is not None)
