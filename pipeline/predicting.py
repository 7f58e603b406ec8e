"""A trained head over features: each slide's values with the folds' spread, and answers where truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.bag import BagLike
from heads.evaluation import Answers, Outcome, judged_times
from heads.metrics.survival import usual_tau
from heads.targets import as_pairs
from heads.tasks import Biomarker, Classification, DiscreteHazard, Survival
from heads.trained import TrainedHead
from pipeline.headfolder import training_outcomes, unseen_by, value_names
from pipeline.labels import Question
from pipeline.training import FeatureSet, join, labelled, whole
from wsi.errors import ManifestError, ToolkitError

TRAINED_ON = "in training: told by the fold that left it out"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One slide's row."""

    slide_id: str
    values: NDArray[np.float32]  # mean over the members
    spread: NDArray[np.float32]  # standard deviation over the members; 0 where one answers
    label: str  # the class, the positive biomarkers, or ""
    note: str = ""

    def row(self, names: list[str]) -> dict[str, Any]:
        told = {name: float(v) for name, v in zip(names, self.values, strict=True)}
        spread = {f"spread {name}": float(v) for name, v in zip(names, self.spread, strict=True)}
        return {"id": self.slide_id, "label": self.label, **told, **spread, "note": self.note}


def predict(features: FeatureSet, head: TrainedHead, abstain: float | None) -> tuple[list[Prediction], list[str]]:
    """Every slide's prediction, and a sentence for each that cannot be had.

    `abstain`: no label where the most probable class (or, for a biomarker, the likelier answer) has less.
    """
    found, skipped = [], []
    for slide_id, bag in features.bags.items():
        try:
            patient = features.patients.get(slide_id, slide_id)
            members = unseen_by(head, (slide_id,), patient, features.source)
            found.append(_one(slide_id, bag, head, members, abstain))
        except ToolkitError as error:
            skipped.append(f"{slide_id}: {error.code}. {error}")
    return found, skipped


def _one(
    slide_id: str, bag: BagLike, head: TrainedHead, members: tuple[int, ...] | None, abstain: float | None
) -> Prediction:
    score = head.score(bag, members)
    spread = np.asarray(score.detail.get("spread", np.zeros_like(score.values)))
    label, unsure = _label(score.values, head, members, abstain)
    notes = [TRAINED_ON] if members else []
    return Prediction(slide_id, score.values, spread, label, "; ".join([*notes, *unsure]))


def _label(
    values: NDArray[np.float32], head: TrainedHead, members: tuple[int, ...] | None, abstain: float | None
) -> tuple[str, list[str]]:
    task = head.card.task
    if isinstance(task, Classification):
        best = int(values.argmax())
        if abstain is not None and values[best] < abstain:
            return "", [f"abstained: {task.classes[best]} has {values[best]:.2f}, less than {abstain:g}"]
        return str(task.classes[best]), []
    if not isinstance(task, Biomarker):
        return "", []
    chosen = head.thresholds(members)
    cuts = np.full(len(task.names), 0.5) if chosen is None else chosen
    unsure = [n for n, p in zip(task.names, values, strict=True) if abstain is not None and max(p, 1 - p) < abstain]
    positive = [n for n, p, cut in zip(task.names, values, cuts, strict=True) if p >= cut and n not in unsure]
    return " ".join(f"{n}+" for n in positive), [f"abstained: {n}" for n in unsure]


def answers_on(
    features: FeatureSet, head: TrainedHead, labels: Path | None, question: Question
) -> tuple[Answers, list[str]]:
    """What the head says of a labelled cohort, by patient; those it was trained on by the fold that left them out."""
    features = whole(features)
    told = labelled(features, labels, question, learning=False)
    joined = join(features, told, slide_level=question.slide_level)
    task = head.card.task
    if isinstance(task, Classification):
        _check_classes(task, joined.targets, labels)
    seen = [
        unseen_by(head, [part.slide_id for part in bag.parts], patient, features.source)
        for bag, patient in zip(joined.bags, joined.patients, strict=True)
    ]
    groups = sorted({members or () for members in seen})  # who answers: folds of training, and all for those unseen
    folds = np.array([groups.index(members or ()) for members in seen], np.int64)
    training = _training(head, groups)
    times = _times(training, joined.targets)
    values, curves, cuts = [], [], []
    for bag, members in zip(joined.bags, seen, strict=True):
        values.append(head.score(bag, members).values)
        if (cut := head.thresholds(members)) is not None:
            cuts.append(cut)
        if times is not None:
            curves.append(head.survival(bag, times, members))
    known = sum(members is not None for members in seen)
    notes = [*(f"left out: {why}" for why in features.damaged), *features.notes, *told.notes]
    notes += [f"{known} of {len(values)} bags were {TRAINED_ON}"] if known else []
    notes += _absent(task, joined.targets)
    return Answers(
        task=task,
        targets=joined.targets,
        patients=tuple(joined.patients),
        folds=folds,
        values=np.stack(values),
        thresholds=np.stack(cuts) if len(cuts) == len(values) else None,
        times=times,
        survival=np.stack(curves) if curves else None,
        training=training,
    ), notes


def _training(head: TrainedHead, groups: list[tuple[int, ...]]) -> tuple[Outcome, ...]:
    """Of each group of members the patients they were trained on; none for tasks without time."""
    if not isinstance(head.card.task, Survival | DiscreteHazard):
        return ()
    return tuple(training_outcomes(head, members[0] if members else None) for members in groups)


def _absent(task: Any, targets: Any) -> list[str]:
    """What this cohort cannot judge a head by."""
    if not isinstance(task, Classification):
        return []
    gone = sorted({str(c) for c in task.classes} - {str(t) for t in targets})
    return [f"nobody here is {', '.join(gone)}: metrics over all classes cannot be told"] if gone else []


def _check_classes(task: Classification, targets: list[str], labels: Path | None) -> None:
    unknown = sorted({str(t) for t in targets} - {str(c) for c in task.classes})
    if unknown:
        raise ManifestError(
            f"{labels}: the head knows no class {', '.join(unknown)}.",
            hint=f"It knows {', '.join(map(str, task.classes))}: rename them in the table, or leave these rows out.",
        )


def _times(training: tuple[Outcome, ...], targets: Any) -> NDArray[np.float64] | None:
    if not training:
        return None
    time, event = as_pairs(targets)[0].T
    return judged_times(time, event, [usual_tau(*outcome, time, event) for outcome in training])


def columns(head: TrainedHead) -> list[str]:
    """Of predictions.csv."""
    names = value_names(head.card.task)
    return ["id", "label", *names, *(f"spread {name}" for name in names), "note"]


def written(predictions: list[Prediction], head: TrainedHead) -> Iterator[dict[str, Any]]:
    """Rows of predictions.csv."""
    names = value_names(head.card.task)
    yield from (p.row(names) for p in predictions)
