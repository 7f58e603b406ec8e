"""How much a zero-shot score owes to the choice of words: MI-Zero's draws of names and templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heads.bag import Bag
from heads.similarity import Lattice, softmax, tile_similarity, unit
from heads.zeroshot import LOGIT_SCALE
from wsi.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class PromptSpread:
    """Probabilities of one slide over draws of prompts. A wide spread means the words decide, not the slide."""

    p: NDArray[np.float32]  # (draws, C), each row sums to 1
    median: NDArray[np.float32]  # (C,)
    lower: NDArray[np.float32]  # (C,) first quartile
    upper: NDArray[np.float32]  # (C,) third quartile
    wins: NDArray[np.float32]  # (C,) share of draws in which the class has the highest p
    k: int  # tiles pooled in each draw and class


def prompt_spread(
    bag: Bag,
    bank: Sequence[NDArray[np.float32]],
    *,
    draws: int = 50,
    top_k: int = 50,
    seed: int = 0,
    logit_scale: float = LOGIT_SCALE,
    smooth_over: Lattice | None = None,
) -> PromptSpread:
    """Top-K probabilities under `draws` random prompts: one name a class, and one random subset of templates for all.

    bank: per class (names, templates, D), from `text_bank`. K is capped at the number of tiles. The subset has any
    size from 1 to all, equally likely, as in MI-Zero (Lu et al., CVPR 2023), whose 50 draws are the default. The
    other arguments and errors are those of `zero_shot`. The same seed gives the same draws.
    """
    if draws < 1 or top_k < 1:
        raise UsageError(f"draws and top_k are at least 1, not {draws} and {top_k}.")
    rng = np.random.default_rng(seed)
    classes = np.concatenate([_draw(bank, rng) for _ in range(draws)])  # (draws * C, D)
    s = tile_similarity(bag, classes, smooth_over)
    k = min(top_k, len(s))
    pooled = np.partition(s, len(s) - k, axis=0)[len(s) - k :].mean(axis=0, dtype=np.float64)
    p = softmax(pooled.reshape(draws, len(bank)), logit_scale)
    wins = np.bincount(p.argmax(axis=1), minlength=len(bank)) / draws
    lower, median, upper = np.quantile(p, (0.25, 0.5, 0.75), axis=0).astype(np.float32)
    return PromptSpread(p.astype(np.float32), median, lower, upper, wins.astype(np.float32), k)


def _draw(bank: Sequence[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float64]:
    """(C, D) class embeddings of one draw."""
    n_templates = bank[0].shape[1]
    templates = rng.permutation(n_templates)[: rng.integers(1, n_templates + 1)]
    return unit([texts[rng.integers(len(texts))][templates].mean(axis=0) for texts in bank])
