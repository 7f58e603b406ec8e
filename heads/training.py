"""Training a head: bags and targets in, a head that scores more of them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from features.header import toolkit_version
from heads.bag import BagLike, PatientBag
from heads.checkpoint import HeadCard
from heads.config import TrainConfig
from heads.feed import Feed
from heads.fitting import Lesson, fit_member
from heads.member import Member
from heads.metrics.calibration import FEWEST
from heads.networks.registry import head_kind
from heads.problems import refuse, some
from heads.splits import validation_rows
from heads.targets import as_labels, n_targets, strata_of, take
from heads.tasks import task_class
from heads.trained import TrainedHead
from wsi.wording import number_of

USES_VALIDATION = ("classification", "biomarker")  # temperature and thresholds are fitted on patients kept back


def train_head(
    bags: Sequence[BagLike],
    targets: Any,
    *,
    task: str = "classification",
    config: TrainConfig | None = None,
    groups: Sequence[str] | None = None,
    **settings: Any,
) -> TrainedHead:
    """Fit a head to bags and their targets; the weights of the last epoch are the head's.

    task             targets, one per bag                                     values of a score
    classification   labels, words or whole numbers                           probability of each class, sorted
    biomarker        {name: [1, 0 or None, ...]} or (n, k) with NaN           probability of each being positive
    regression       numbers                                                  (1,) in the unit of the targets
    survival         (time, event) pairs; event 1 seen, 0 censored; time > 0  (1,) log hazard ratio, higher = worse
    hazard           the same, by discrete time                               (1,) risk, higher = worse

    Settings are those of `config`, or single ones by name (`head="clam_sb", epochs=50`). `groups` names each bag's
    patient: patients are kept whole when a share of them is kept back (`TrainConfig.validation`) to fit temperature
    and thresholds. Features are standardised by all tiles of the training bags, and the scale is saved with the head.
    The same bags, settings and machine give the same bytes; torch's global random state, thread count and gradient
    mode are left as they are.

    Raises UsageError naming all that is wrong with the bags and targets at once.
    """
    config = dataclasses.replace(config or TrainConfig(), **settings)
    patients = [bag.slide_id for bag in bags] if groups is None else list(groups)
    check_lesson(bags, targets, task, patients)
    feed = Feed(bags)
    training, validation = divide(np.arange(len(bags)), patients, strata_of(targets, task), task, config)
    too_little = "Too little is left to train on beside the patients kept back for validation"
    refuse(gaps(targets, training, task), too_little, "Set validation=0, or bring more patients.")
    member = fit_member(Lesson(feed, targets, task, training, validation), config)
    return assemble(bags, [member], config)


def check_lesson(bags: Sequence[BagLike], targets: Any, task: str, patients: Sequence[str]) -> None:
    """Raises UsageError naming all that is wrong with the bags and targets at once."""
    problems = [*_bag_problems(bags), *task_class(task).problems(targets)]
    if n_targets(targets) != len(bags):
        problems.append(f"there are {len(bags)} bags and {n_targets(targets)} targets")
    if len(patients) != len(bags):
        problems.append(f"there are {len(bags)} bags and {len(patients)} groups")
    refuse(problems, "No head can be trained on this")


def divide(
    rows: np.ndarray, patients: Sequence[str], strata: Sequence[Any], task: str, config: TrainConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows kept back, patients whole, strata in proportion.

    None is kept back where nothing would be fitted on them: for other tasks than those of USES_VALIDATION, and where
    they would be fewer than calibration takes. With `patience` some always are, since it watches them.
    """
    own = [patients[i] for i in rows]
    enough = task in USES_VALIDATION and config.validation * len(set(own)) >= FEWEST
    if not config.validation or not (enough or config.patience):
        return rows, rows[:0]
    kept = validation_rows(own, [strata[i] for i in rows], config.validation, config.seed)
    return rows[~kept], rows[kept]


def gaps(targets: Any, training: np.ndarray, task: str) -> list[str]:
    """What the training bags lack, when others are left out."""
    own = take(targets, training)
    problems = task_class(task).problems(own)
    if task == "classification" and (gone := sorted(set(map(str, as_labels(targets))) - set(map(str, as_labels(own))))):
        problems.append(f"no training bag is of class {some(gone)}")
    return problems


def assemble(
    bags: Sequence[BagLike], members: Sequence[Member], config: TrainConfig, about: dict[str, Any] | None = None
) -> TrainedHead:
    """A head of the members trained on `bags`."""
    first = members[0].card
    used = config.filled(head_kind(config.head).recipe, first.task.least_bags, first.n_bags)
    card = HeadCard(
        members=tuple(m.card for m in members),
        encoder_digest=bags[0].encoder_digest,
        tile=bags[0].tile,
        config=used,
        versions={"toolkit": toolkit_version(), "torch": str(torch.__version__), "numpy": np.__version__},
        about=about or {},
    )
    return TrainedHead(card, tuple(members))


def _bag_problems(bags: Sequence[BagLike]) -> list[str]:
    if not len(bags):
        return ["there are no bags"]
    problems = []
    if empty := [bag.slide_id for bag in bags if not len(bag)]:
        problems.append(f"{number_of(len(empty), 'bag has', 'bags have')} no tiles ({some(empty)})")
    if len(encoders := sorted({bag.encoder_digest[:12] for bag in bags})) > 1:
        problems.append(f"features of {len(encoders)} encoders are mixed ({some(encoders)})")
    elif len(dims := sorted({bag.dim for bag in bags})) > 1:
        problems.append(f"bags differ in features a tile ({some(dims)})")
    if len({bag.tile for bag in bags}) > 1:
        problems.append(_mixed_tiles(bags))
    return problems


def _mixed_tiles(bags: Sequence[BagLike]) -> str:
    slides = [part for bag in bags for part in (bag.parts if isinstance(bag, PatientBag) else (bag,))]
    kinds: dict[str, list[str]] = {}
    for slide in slides:
        kinds.setdefault(slide.tile or "of a kind that is not told", []).append(slide.slide_id)
    told = "; ".join(f"{tile}: {number_of(len(ids), 'slide')}, {some(ids)}" for tile, ids in sorted(kinds.items()))
    return (
        f"tiles of {len(kinds)} kinds are mixed ({told}); run those of one kind once more with the settings of the "
        "other, or leave them out of the table of labels"
    )
