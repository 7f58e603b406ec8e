"""One network fitted to training bags, then calibrated on those kept back. Nothing here sees a test bag."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.encoders.compute import resolve
from heads.calibrating import calibrated
from heads.config import TrainConfig
from heads.feed import Feed, ahead, tensors
from heads.member import Member, MemberCard
from heads.model import HeadModel
from heads.networks.base import Fit
from heads.networks.registry import Architecture, Recipe, head_kind
from heads.optimise import Steps
from heads.targets import take
from heads.tasks import Task, task_class
from wsi.errors import SetupError, UsageError

SMALL_STEP = 5e7  # multiplications in a step's first layer; two threads gain nothing below


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learnt from."""

    feed: Feed
    targets: Any  # of all bags of the feed, in the form of the task
    task: str
    training: NDArray[np.int64]  # rows of the feed
    validation: NDArray[np.int64]  # rows kept back, may be none


def fit_member(lesson: Lesson, config: TrainConfig) -> Member:
    """Trains one network on `lesson.training`. Torch's global state is left as it was."""
    kind = head_kind(config.head)
    task = task_class(lesson.task).learn(take(lesson.targets, lesson.training), config.bins)
    config = config.filled(kind.recipe, task.least_bags, len(lesson.training))
    device = resolve(config.device, "float32").device
    architecture = _architecture(config, lesson.feed.bags[0].dim, task.n_out)
    with torch.random.fork_rng(), torch.enable_grad(), _threads(lesson, config):
        torch.manual_seed(config.seed)
        model = HeadModel(architecture.build())
        model.standardise_by(*lesson.feed.scale(lesson.training))
        course = _Course(lesson, task, config, kind.recipe, model.to(device))
        try:
            course.run()
        except torch.OutOfMemoryError as error:
            hint = "Set tiles_per_bag, or a smaller batch_bags."
            raise SetupError("The device has too little memory for a training step of this head.", hint=hint) from error
        calibrating = Member(_card(architecture, task, lesson, course), model.eval())
        return calibrated(calibrating, lesson.feed, lesson.targets, lesson.training, lesson.validation)


def _card(architecture: Architecture, task: Task, lesson: Lesson, course: _Course) -> MemberCard:
    return MemberCard(
        architecture,
        task,
        n_bags=len(lesson.training),
        n_validation=len(lesson.validation),
        losses=tuple(course.losses),
        validation_losses=tuple(course.validation_losses),
    )


@contextlib.contextmanager
def _threads(lesson: Lesson, config: TrainConfig) -> Iterator[None]:
    """One thread where a step is so small that threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    tiles = np.mean([len(lesson.feed.bags[int(i)]) for i in lesson.training]) * (config.batch_bags or 1)
    if tiles * lesson.feed.bags[0].dim * (config.hidden or 1) < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _architecture(config: TrainConfig, in_dim: int, n_out: int) -> Architecture:
    """The head's own where it has such a part; 1 and 0 stand for none."""
    return Architecture(config.head, in_dim, n_out, config.hidden or 1, config.attention or 1, config.dropout or 0.0)


class _Course:
    """The epochs of one network."""

    def __init__(self, lesson: Lesson, task: Task, config: TrainConfig, recipe: Recipe, model: HeadModel) -> None:
        self.lesson, self.task, self.config, self.model = lesson, task, config, model
        self.device = model.mean.device
        self.rows = task.rows(take(lesson.targets, lesson.training)).to(self.device)
        self.batches = -(-len(lesson.training) // (config.batch_bags or 1))
        self.draws = np.random.default_rng(config.seed)
        self.steps = Steps(model.mil.parameters(), config, recipe, self.batches * (config.epochs or 1))
        self.losses: list[float] = []
        self.validation_losses: list[float] = []

    def run(self) -> None:
        best: tuple[float, dict[str, Tensor]] | None = None
        for epoch in range(self.config.epochs or 1):
            self.losses.append(self._epoch(epoch))
            if self.config.patience is None or not len(self.lesson.validation):
                continue
            self.validation_losses.append(self._validation_loss())
            if best is None or self.validation_losses[-1] < best[0]:
                best = self.validation_losses[-1], copy.deepcopy(self.model.state_dict())
            if epoch - int(np.argmin(self.validation_losses)) >= self.config.patience:
                break
        if best is not None:
            self.model.load_state_dict(best[1])

    def _epoch(self, epoch: int) -> float:
        """One pass over the training bags; gives their mean loss."""
        self.model.train()
        order = torch.randperm(len(self.rows))
        total = 0.0
        for chosen, (x, lengths) in ahead(self._loaded, order.tensor_split(self.batches)):
            rows = self.rows[chosen]
            with self._mixed_precision():
                found = self.model.fit(x, lengths, self.task.labels(rows))
                loss = self._judged(found, rows)
            self.steps.take(loss)
            total += loss.item() * len(chosen)
        if not math.isfinite(total):
            raise UsageError(
                f"Training went out of bounds in epoch {epoch + 1}.", hint=f"Set lr below {self.config.lr:g}."
            )
        return total / len(self.rows)

    def _judged(self, found: Fit, rows: Tensor) -> Tensor:
        """The bags' loss, and the network's other predictions or its own loss for the rest of the whole."""
        loss = self.task.loss(found.outputs.float(), rows)
        share = self.model.mil.bag_share
        if found.also is not None:
            return share * loss + (1 - share) * self.task.loss(found.also.float(), rows)
        return loss if found.own is None else share * loss + (1 - share) * found.own

    def _loaded(self, chosen: Tensor) -> tuple[Tensor, tuple[Tensor, list[int]]]:
        arrays = [self._sampled(self.lesson.feed.array(int(self.lesson.training[i]))) for i in chosen]
        return chosen, (tensors(arrays).to(self.device), [len(a) for a in arrays])

    def _sampled(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        most = self.config.tiles_per_bag
        if most is None or len(x) <= most:
            return x
        return x[np.sort(self.draws.choice(len(x), most, replace=False))]  # in order: for some heads order matters

    def _validation_loss(self) -> float:
        self.model.eval()
        rows = self.task.rows(take(self.lesson.targets, self.lesson.validation)).to(self.device)
        with torch.inference_mode():
            feed = self.lesson.feed
            outputs = [self.model(tensors([feed.array(int(i))]).to(self.device))[0] for i in self.lesson.validation]
            return float(self.task.loss(torch.stack(outputs), rows))

    @contextlib.contextmanager
    def _mixed_precision(self) -> Iterator[None]:
        fit = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fit):
            yield
