"""Cross-validation: a member for each fold, and for every bag the answer of the member that never saw its patient."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.bag import BagLike
from heads.config import TrainConfig
from heads.evaluation import Answers, Outcome, judged_times
from heads.feed import Feed
from heads.fitting import Lesson, fit_member
from heads.member import Member
from heads.metrics.survival import usual_tau
from heads.networks.registry import head_kind
from heads.problems import refuse
from heads.splits import check_split
from heads.targets import as_pairs, strata_of
from heads.trained import TrainedHead
from heads.training import assemble, check_lesson, divide, gaps


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """k heads as the members of one, and what they say of the bags they were not trained on."""

    head: TrainedHead = field(repr=False)  # member i is the head of fold i
    answers: Answers  # of the member whose fold a bag is in: nothing of it was learnt from the bag's patient


def cross_validate(
    bags: Sequence[BagLike],
    targets: Any,
    folds: Sequence[Hashable] | NDArray[np.int64],
    *,
    task: str = "classification",
    groups: Sequence[str] | None = None,
    config: TrainConfig | None = None,
    progress: Callable[[str], None] = lambda said: None,
) -> CrossValidation:
    """Trains a head for each fold and tests it there.

    `folds` (n,) from `heads.splits`, or names of your own; `groups` the patient of each bag (default: each its own).
    Scale, bins, temperature and thresholds come from the training folds alone, and the last epoch counts, so nothing is
    chosen on a test fold. Raises UsageError as `train_head` does, where a patient is in two folds, and where a fold's
    training bags lack what the task needs.
    """
    config = config or TrainConfig()
    head_kind(config.head)
    patients = [bag.slide_id for bag in bags] if groups is None else list(groups)
    check_lesson(bags, targets, task, patients)
    folds = check_split(patients, np.asarray(folds).tolist())  # numbered from 0, whatever they were called
    feed, strata = Feed(bags), strata_of(targets, task)
    members = []
    for fold in range(int(folds.max()) + 1):
        training, validation = divide(np.flatnonzero(folds != fold), patients, strata, task, config)
        refuse(gaps(targets, training, task), f"Fold {fold + 1} leaves too little to train on", "Use other folds.")
        members.append(fit_member(Lesson(feed, targets, task, training, validation), config))
        progress(
            f"fold {fold + 1} of {int(folds.max()) + 1}: {len(training)} bags, loss {members[-1].card.losses[-1]:.3f}"
        )
    times = _times(targets, task, folds)
    values, survival = _out_of_fold(members, feed, folds, times)
    answers = Answers(
        task=members[0].card.task,
        targets=targets,
        patients=tuple(patients),
        folds=folds,
        values=values,
        thresholds=_thresholds(members, folds),
        times=times,
        survival=survival,
        training=tuple(_outcomes(targets, folds)) if task in ("survival", "hazard") else (),
    )
    return CrossValidation(assemble(bags, members, config), answers)


def _thresholds(members: Sequence[Member], folds: NDArray[np.int64]) -> NDArray[np.float64] | None:
    if not all(m.card.thresholds for m in members):
        return None
    return np.array([m.card.thresholds for m in members])[folds]


def _outcomes(targets: Any, folds: NDArray[np.int64]) -> Iterator[Outcome]:
    time, event = as_pairs(targets)[0].T
    for fold in range(int(folds.max()) + 1):
        yield time[folds != fold], event[folds != fold]


def _times(targets: Any, task: str, folds: NDArray[np.int64]) -> NDArray[np.float64] | None:
    if task not in ("survival", "hazard"):
        return None
    time, event = as_pairs(targets)[0].T
    ends = [usual_tau(time[folds != f], event[folds != f], time, event) for f in range(int(folds.max()) + 1)]
    return judged_times(time, event, ends)


def _out_of_fold(
    members: Sequence[Member], feed: Feed, folds: NDArray[np.int64], times: NDArray[np.float64] | None
) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
    values, curves = [], []
    for bag, fold in zip(feed.bags, folds, strict=True):
        member = members[int(fold)]
        outputs, _ = member.outputs(bag)
        values.append(member.values(outputs))
        if times is not None:
            curves.append(member.survival(outputs, times))
    return np.stack(values), np.stack(curves) if curves else None
