"""Training a head on bags in memory: a sequence of slides in, a head that scores more of them out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.header import toolkit_version
from heads.bag import Bag
from heads.checkpoint import HeadCard
from heads.config import TrainConfig
from heads.model import ABMIL, Architecture, HeadModel
from heads.problems import refuse, some
from heads.targets import n_targets
from heads.tasks import Task, task_class
from heads.trained import TrainedHead
from wsi.errors import UsageError


def train_head(
    bags: Sequence[Bag],
    targets: Any,
    *,
    task: str = "classification",
    config: TrainConfig | None = None,
    **settings: Any,
) -> TrainedHead:
    """Fit attention MIL to bags and their targets; the weights of the last epoch are the head's.

    task             targets, one per bag                                     values of a score
    classification   labels, words or whole numbers                           probability of each class, sorted
    survival         (time, event) pairs; event 1 seen, 0 censored; time > 0  (1,) risk, higher = worse
    biomarker        {name: [1, 0 or None, ...]} or (n, k) with NaN           probability of each being positive

    Settings are those of `config`, or single ones by name (`epochs=50`). Features are standardised by all tiles of
    the training bags, and the scale is saved with the head. The same bags, settings and machine give the same bytes;
    torch's global random state, thread count and gradient mode are left as they are.

    Raises UsageError naming all that is wrong with the bags and targets at once.
    """
    config = dataclasses.replace(config or TrainConfig(), **settings)
    kind = task_class(task)
    problems = [*_bag_problems(bags), *kind.problems(targets)]
    if n_targets(targets) != len(bags):
        problems.append(f"there are {len(bags)} bags and {n_targets(targets)} targets")
    refuse(problems, "No head can be trained on this")
    asked, rows = kind.read(targets)
    architecture = Architecture(ABMIL, bags[0].x.shape[1], asked.n_out, config.hidden, config.gated, config.dropout)
    model, losses = _fit(architecture, asked, bags, rows, config)
    card = HeadCard(architecture, asked, bags[0].encoder_digest, config, len(bags), tuple(losses), _versions())
    return TrainedHead(card, model)


def _fit(
    architecture: Architecture, task: Task, bags: Sequence[Bag], rows: Tensor, config: TrainConfig
) -> tuple[HeadModel, list[float]]:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reach for the GPUs' states too
        model = architecture.build()
        model.standardise_by([bag.x for bag in bags])
        return model, _descend(model.train(), task, [torch.from_numpy(bag.x) for bag in bags], rows, config)


def _descend(model: HeadModel, task: Task, xs: list[Tensor], rows: Tensor, config: TrainConfig) -> list[float]:
    """AdamW under a half cosine. Gives the mean loss of each epoch."""
    batches = -(-len(xs) // (config.batch_bags or task.batch_bags))
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=config.epochs * batches)
    losses = []
    for epoch in range(config.epochs):
        total = 0.0
        for batch in torch.randperm(len(xs)).tensor_split(batches):
            outputs = torch.stack([model(xs[i])[0] for i in batch])
            loss = task.loss(outputs, rows[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch)
        if not math.isfinite(total):
            raise UsageError(f"Training went out of bounds in epoch {epoch + 1}.", hint=f"Set lr below {config.lr:g}.")
        losses.append(total / len(xs))
    return losses


def _bag_problems(bags: Sequence[Bag]) -> list[str]:
    if not len(bags):
        return ["there are no bags"]
    problems = []
    if empty := [bag.slide_id for bag in bags if not len(bag)]:
        problems.append(f"{len(empty)} bags have no tiles ({some(empty)})")
    if len(encoders := sorted({bag.encoder_digest[:12] for bag in bags})) > 1:
        problems.append(f"features of {len(encoders)} encoders are mixed ({some(encoders)})")
    elif len(dims := sorted({bag.x.shape[1] for bag in bags})) > 1:
        problems.append(f"bags differ in features a tile ({some(dims)})")
    return problems


def _versions() -> dict[str, str]:
    return {"toolkit": toolkit_version(), "torch": str(torch.__version__), "numpy": np.__version__}
