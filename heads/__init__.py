"""Heads: a bag of tile features to slide scores. Attention MIL, survival, biomarkers, and zero-shot from words.

    bag = Bag.from_grid(FeatureGrid.open(path))
    score = load_head("heads/abmil").score(bag)                  # or train_head(bags, labels).score(bag)
    scores = zero_shot(bag, class_embeddings(load_prompts("nsclc"), encoder))

What needs torch is imported when first asked for: prompts, zero-shot and concordance do without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heads.bag import Bag, BagLike, PatientBag, SlideScore, StoredBag
from heads.concordance import concordance_index, concordance_index_ipcw
from heads.config import TrainConfig
from heads.prompts import PromptClass, PromptSet, available_prompts, class_embeddings, ensemble, load_prompts, text_bank
from heads.similarity import tile_similarity
from heads.spread import PromptSpread, prompt_spread
from heads.zeroshot import LOGIT_SCALE, TOP_K, zero_shot, zero_shot_pooled, zero_shot_probabilities

if TYPE_CHECKING:
    from heads.crossval import CrossValidation, cross_validate
    from heads.estimator import MILEstimator
    from heads.evaluation import evaluate
    from heads.losses import cox_loss, discrete_hazard_loss
    from heads.networks.abmil import AttentionMIL
    from heads.networks.registry import available_heads
    from heads.splits import site_folds, stratified_folds
    from heads.trained import TrainedHead, load_head
    from heads.training import train_head

__all__ = [
    "LOGIT_SCALE",
    "TOP_K",
    "AttentionMIL",
    "Bag",
    "BagLike",
    "CrossValidation",
    "MILEstimator",
    "PatientBag",
    "PromptClass",
    "PromptSet",
    "PromptSpread",
    "SlideScore",
    "StoredBag",
    "TrainConfig",
    "TrainedHead",
    "available_heads",
    "available_prompts",
    "class_embeddings",
    "concordance_index",
    "concordance_index_ipcw",
    "cox_loss",
    "cross_validate",
    "discrete_hazard_loss",
    "ensemble",
    "evaluate",
    "load_head",
    "load_prompts",
    "prompt_spread",
    "site_folds",
    "stratified_folds",
    "text_bank",
    "tile_similarity",
    "train_head",
    "zero_shot",
    "zero_shot_pooled",
    "zero_shot_probabilities",
]


def __getattr__(name: str) -> Any:
    with_torch = {
        "AttentionMIL": "heads.networks.abmil",
        "CrossValidation": "heads.crossval",
        "MILEstimator": "heads.estimator",
        "available_heads": "heads.networks.registry",
        "cross_validate": "heads.crossval",
        "evaluate": "heads.evaluation",
        "site_folds": "heads.splits",
        "stratified_folds": "heads.splits",
        "cox_loss": "heads.losses",
        "discrete_hazard_loss": "heads.losses",
        "TrainedHead": "heads.trained",
        "load_head": "heads.trained",
        "train_head": "heads.training",
    }
    if name not in with_torch:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(importlib.import_module(with_torch[name]), name)
