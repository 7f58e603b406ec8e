"""The optimisers that heads' recipes name, under one schedule: the step size falls to 0 along a half cosine."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from heads.config import TrainConfig
from heads.networks.registry import Recipe
from wsi.errors import UsageError

LOOKAHEAD_STEPS, LOOKAHEAD_PULL = 5, 0.5  # Zhang et al. 2019, arXiv 1907.08610


class Steps:
    """Optimiser and schedule as one: `take` a loss."""

    def __init__(self, parameters: Iterable[Tensor], config: TrainConfig, recipe: Recipe, total: int) -> None:
        self._fast = list(parameters)
        self._optimiser = _optimiser(self._fast, config, recipe)
        self._schedule = CosineAnnealingLR(self._optimiser, T_max=total)
        self._slow = [p.detach().clone() for p in self._fast] if recipe.optimiser.startswith("lookahead") else None
        self._taken = 0

    def take(self, loss: Tensor) -> None:
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
        self._taken += 1
        if self._slow is not None and self._taken % LOOKAHEAD_STEPS == 0:
            self._look_ahead(self._slow)

    @torch.no_grad()
    def _look_ahead(self, slow: list[Tensor]) -> None:
        """Slow weights go half the way to the fast ones, and the fast ones start again from there."""
        for s, f in zip(slow, self._fast, strict=True):
            s.lerp_(f, LOOKAHEAD_PULL)
            f.copy_(s)


def _optimiser(parameters: list[Tensor], config: TrainConfig, recipe: Recipe) -> Optimizer:
    assert config.lr is not None and config.weight_decay is not None, "filled from the recipe"
    lr, decay, betas = config.lr, config.weight_decay, recipe.betas
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr, betas, weight_decay=decay, fused=True)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr, betas, weight_decay=decay, fused=True)
    if recipe.optimiser == "lookahead-radam":
        return torch.optim.RAdam(parameters, lr, betas, weight_decay=decay, decoupled_weight_decay=True)  # as Liu 2020
    raise UsageError(f"There is no optimiser {recipe.optimiser!r}.", hint="Use adam, adamw or lookahead-radam.")
