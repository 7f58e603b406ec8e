"""Heads: a bag of tile features to slide scores. Attention MIL, survival, biomarkers, and zero-shot from words.

    bag = Bag.from_grid(FeatureGrid.open(path))
    score = load_head("heads/abmil").score(bag)                  # or train_head(bags, labels).score(bag)
    scores = zero_shot(bag, class_embeddings(load_prompts("nsclc"), encoder))

What needs torch is imported when first asked for: prompts, zero-shot and concordance do without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heads.bag import Bag, SlideScore
from heads.concordance import concordance_index, concordance_index_ipcw
from heads.config import TrainConfig
from heads.prompts import PromptClass, PromptSet, available_prompts, class_embeddings, ensemble, load_prompts, text_bank
from heads.similarity import tile_similarity
from heads.spread import PromptSpread, prompt_spread
from heads.zeroshot import LOGIT_SCALE, TOP_K, zero_shot, zero_shot_pooled, zero_shot_probabilities

if TYPE_CHECKING:
    from heads.abmil import AttentionMIL
    from heads.losses import cox_loss, discrete_hazard_loss
    from heads.trained import TrainedHead, load_head
    from heads.training import train_head

__all__ = [
    "LOGIT_SCALE",
    "TOP_K",
    "AttentionMIL",
    "Bag",
    "PromptClass",
    "PromptSet",
    "PromptSpread",
    "SlideScore",
    "TrainConfig",
    "TrainedHead",
    "available_prompts",
    "class_embeddings",
    "concordance_index",
    "concordance_index_ipcw",
    "cox_loss",
    "discrete_hazard_loss",
    "ensemble",
    "load_head",
    "load_prompts",
    "prompt_spread",
    "text_bank",
    "tile_similarity",
    "train_head",
    "zero_shot",
    "zero_shot_pooled",
    "zero_shot_probabilities",
]


def __getattr__(name: str) -> Any:
    with_torch = {
        "AttentionMIL": "heads.abmil",
        "cox_loss": "heads.losses",
        "discrete_hazard_loss": "heads.losses",
        "TrainedHead": "heads.trained",
        "load_head": "heads.trained",
        "train_head": "heads.training",
    }
    if name not in with_torch:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(importlib.import_module(with_torch[name]), name)
