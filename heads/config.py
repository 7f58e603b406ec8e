"""How a head is trained: every setting with its unit, its default and the reason for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heads.problems import refuse

if TYPE_CHECKING:
    from heads.networks.registry import Recipe

LEAST_STEPS = 200

_COUNTS = ("epochs", "hidden", "attention", "batch_bags", "tiles_per_bag", "bins", "patience")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of `train_head`. None leaves a setting to the head's own recipe, or switches a thing off where said so.

    All are written into the saved head as they were used. Raises UsageError naming all that are wrong.
    """

    head: str = "abmil"  # see `heads.available_heads`
    epochs: int | None = (
        None  # passes over the bags; the step size falls to 0 along a half cosine, the last epoch counts
    )
    lr: float | None = None  # first step size
    weight_decay: float | None = None
    hidden: int | None = None  # width of the tile embedding
    attention: int | None = None  # width of the attention layer
    dropout: float | None = None  # share of units dropped in training
    batch_bags: int | None = None  # bags a step, evened out; Cox takes up to 64, since a step compares its bags only
    tiles_per_bag: int | None = None  # at most so many, drawn anew each epoch; None: all of them, always
    validation: float = 0.15  # share of the patients kept back for temperature and thresholds; none below 20 patients
    patience: int | None = None  # epochs without a better validation loss after which to stop; None: the last epoch
    bins: int = 4  # of discrete-time survival
    seed: int = 0  # of the first weights, dropout, the order of bags and the draws of tiles
    device: str = "auto"  # auto, cpu, cuda; a GPU trains in bfloat16 where it can

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {n!r}, not a whole number of at least 1"
            for name in _COUNTS
            if (n := getattr(self, name)) is not None and (type(n) is not int or n < 1)
        ]
        if type(self.seed) is not int:
            problems.append(f"seed is {self.seed!r}, not a whole number")
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            problems.append(f"lr is {self.lr}, not above 0")
        if self.weight_decay is not None and not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            problems.append(f"weight_decay is {self.weight_decay}, not at least 0")
        for name in ("dropout", "validation"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                problems.append(f"{name} is {share}, not a share from 0 to below 1")
        if self.patience is not None and not self.validation:
            problems.append("patience needs a validation share")
        refuse(problems, "The training settings are wrong")

    def filled(self, recipe: Recipe, least_bags: int, n_bags: int) -> TrainConfig:
        """With what was left open taken from the head's recipe, for `n_bags` training bags.

        At least `least_bags` a step, which the task needs; and epochs enough for LEAST_STEPS steps, since the papers
        count epochs of one bag a step.
        """
        parts = ("hidden", "attention", "dropout")
        foreign = [n for n in parts if getattr(recipe, n) is None and getattr(self, n) is not None]
        refuse([f"it has no {n}" for n in foreign], f"The head {self.head!r} cannot be trained so", "Leave these out.")
        open_ones = {n: getattr(recipe, n) for n in ("lr", "weight_decay", *parts) if getattr(self, n) is None}
        batch = min(self.batch_bags or max(least_bags, recipe.batch_bags), n_bags)
        epochs = self.epochs or max(recipe.epochs, -(-LEAST_STEPS // -(-n_bags // batch)))
        return replace(self, **open_ones, batch_bags=batch, epochs=epochs)
