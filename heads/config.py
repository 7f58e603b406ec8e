"""How a head is trained: every setting with its unit, its default and the reason for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from heads.problems import refuse


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of `train_head`. All are written into the saved head. Raises UsageError naming all that are wrong."""

    epochs: int = 30  # passes over the bags; few bags are learnt by then, and the step size has come down to 0
    lr: float = 1e-3  # first step size of AdamW, falls as a half cosine; standardised features bear a large one
    weight_decay: float = 1e-3  # AdamW's, a share of each weight per unit of lr; makes little odds below 1
    hidden: int = 128  # width of the tile embedding; attention has half. Wider gained nothing on tens of slides
    gated: bool = True  # Ilse 2018, eq. 9; False is eq. 8
    dropout: float = 0.5  # share of embedding units dropped in training: on tens of slides 0.25 let attention wander
    batch_bags: int | None = None  # bags per step; None: 4, or 64 for survival, where a step compares its bags only
    seed: int = 0  # of the first weights, dropout and the order of bags

    def __post_init__(self) -> None:
        batch = 1 if self.batch_bags is None else self.batch_bags
        counts = {"epochs": self.epochs, "hidden": self.hidden, "batch_bags": batch}
        problems = [
            f"{name} is {n!r}, not a whole number of at least 1"
            for name, n in counts.items()
            if type(n) is not int or n < 1
        ]
        if type(self.seed) is not int:
            problems.append(f"seed is {self.seed!r}, not a whole number")
        if not (math.isfinite(self.lr) and self.lr > 0):
            problems.append(f"lr is {self.lr}, not above 0")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            problems.append(f"weight_decay is {self.weight_decay}, not at least 0")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}, not a share from 0 to below 1")
        refuse(problems, "The training settings are wrong")
