"""How a head is trained: every setting with its unit, its default and the reason for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from heads.problems import refuse

WEIGHTS, CARD = "head.safetensors", "head.json"  # files of a trained head: here, where nothing heavy is imported

if TYPE_CHECKING:
    from heads.networks.registry import Recipe

LEAST_STEPS = 200

_COUNTS = ("epochs", "hidden", "attention", "batch_bags", "tiles_per_bag", "bins", "patience")


def _open_or(value: Any, fits: Callable[[float], bool]) -> bool:
    """Whether a setting is left open (None), or a number that fits. NaN fits nothing."""
    return value is None or (type(value) in (int, float) and fits(value))


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
    validation: float = 0.15  # share of the patients kept back for temperature and thresholds, where enough for these
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
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            problems.append(f"seed is {self.seed!r}, not a whole number from 0 to below 2^63")
        names = {"head": self.head, "device": self.device}
        problems += [f"{name} is {value!r}, not a name" for name, value in names.items() if not isinstance(value, str)]
        if not _open_or(self.lr, lambda lr: 0 < lr < math.inf):
            problems.append(f"lr is {self.lr!r}, not a number above 0")
        if not _open_or(self.weight_decay, lambda decay: 0 <= decay < math.inf):
            problems.append(f"weight_decay is {self.weight_decay!r}, not a number of at least 0")
        for name in ("dropout", "validation"):
            share = getattr(self, name)
            if not _open_or(share, lambda s: 0 <= s < 1) or (name == "validation" and share is None):
                problems.append(f"{name} is {share!r}, not a share from 0 to below 1")
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
