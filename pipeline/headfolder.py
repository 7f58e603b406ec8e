"""What a head's folder holds beside its weights: metrics, folds, predictions and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.files import storage_errors
from heads.config import CARD
from heads.evaluation import Answers
from heads.targets import as_columns, as_pairs
from heads.tasks import Biomarker, Classification, DiscreteHazard, Regression, Survival
from heads.trained import TrainedHead
from pipeline.output import write_csv, write_text
from pipeline.plots import NAMES
from pipeline.training import Trained
from wsi.errors import UsageError

FOLDS, METRICS, PREDICTIONS, PAGE = "folds.csv", "metrics.json", "predictions.csv", "report.html"
CHIEF = ("auroc", "spearman", "harrell_c")  # the metric a head is known by: of classes and markers, numbers, risks


def save(trained: Trained, folder: Path, asked: dict[str, Any]) -> TrainedHead:
    """Writes head.safetensors, head.json, metrics.json, folds.csv and predictions.csv; gives the head as saved."""
    metrics = trained.evaluation.as_json()
    about = {
        "asked": asked,
        "patients": len(set(trained.patients)),
        "slides": sum(map(len, trained.slides)),
        "caution": trained.caution,
        "notes": list(trained.notes),
        "metrics": metrics["overall"],
        "seen": [[row["slide"], row["patient"], row["fold"]] for row in _fold_rows(trained)],
    }
    if isinstance(trained.cv.answers.task, Survival | DiscreteHazard):
        pairs = as_pairs(trained.cv.answers.targets)[0].tolist()
        about["outcomes"] = [[*pair, int(fold)] for pair, fold in zip(pairs, trained.cv.answers.folds, strict=True)]
    head = TrainedHead(replace(trained.cv.head.card, about=about), trained.cv.head.members)
    for old in [folder / f"{name}.png" for name in NAMES] + list(folder.glob("evaluation-*.json")):
        with storage_errors(old):
            old.unlink(missing_ok=True)  # of the head that was here before
    head.save(folder)
    write_text(folder / METRICS, json.dumps(metrics, indent=1) + "\n")
    rows = list(_fold_rows(trained))
    write_csv(folder / FOLDS, list(rows[0]), rows)
    table = list(prediction_rows(trained.cv.answers, trained.slides))
    write_csv(folder / PREDICTIONS, list(table[0]), table)
    return head


def check_free(folder: Path) -> None:
    """Raises UsageError for a folder that holds other things than a head: they might be overwritten."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CARD).is_file():
        raise UsageError(
            f"{folder}: holds other files and no head.", hint="Name a folder of its own for the head with -o."
        )


def _fold_rows(trained: Trained) -> Iterator[dict[str, Any]]:
    """A line for every slide."""
    for i, (patient, slides) in enumerate(zip(trained.patients, trained.slides, strict=True)):
        for slide in slides:
            row = {"slide": slide, "patient": patient, "fold": int(trained.cv.answers.folds[i])}
            yield row | ({"site": trained.sites[i]} if trained.sites else {})


def prediction_rows(answers: Answers, slides: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """A line for every bag, with its slides: truth, and what the head that never saw the patient says."""
    names, truth = value_names(answers.task), list(_truth(answers))
    for i, patient in enumerate(answers.patients):
        values = {name: float(v) for name, v in zip(names, answers.values[i], strict=True)}
        yield {"patient": patient, "slides": " ".join(slides[i]), "fold": int(answers.folds[i]), **truth[i], **values}


def value_names(task: Any) -> list[str]:
    """What a head's values are called in tables."""
    if isinstance(task, Classification):
        return [f"p({name})" for name in task.classes]
    if isinstance(task, Biomarker):
        return [f"p({name})" for name in task.names]
    return ["value"] if isinstance(task, Regression) else ["risk"]


def _truth(answers: Answers) -> Iterator[dict[str, Any]]:
    if isinstance(answers.task, Survival | DiscreteHazard):
        for time, event in as_pairs(answers.targets)[0]:
            yield {"time": time, "event": int(event)}
    elif isinstance(answers.task, Biomarker):
        columns = as_columns(answers.targets)[0]
        for row in zip(*columns.values(), strict=True):
            yield {name: "" if np.isnan(v) else int(v) for name, v in zip(columns, row, strict=True)}
    else:
        yield from ({"truth": truth} for truth in answers.targets)


def unseen_by(head: TrainedHead, slides: Sequence[str], patient: str, source: str = "") -> tuple[int, ...] | None:
    """Members that never saw this patient; None for all of them, where nobody here was trained on.

    `source` is the folder of the features. In the one of training, a slide's name says that it was there; elsewhere a
    slide of the same name is another one if both sides know its patient, and differ.
    Raises UsageError where slides of patients of several folds are asked for together: no member knows none of them.
    """
    about = head.card.about
    trusted = source and source == about.get("asked", {}).get("features")
    told = patient not in slides  # a slide is its own patient where nobody told

    def here(slide: str, owner: str) -> bool:
        return owner == patient or (slide in slides and (trusted or not told or owner == slide))

    folds = {fold for slide, owner, fold in about.get("seen", ()) if here(slide, owner)}
    if len(folds) > 1:
        raise UsageError(
            f"{patient}: its slides were in {len(folds)} folds of this head's training, so each knows some of them.",
            hint="Give the patients as they were in training.",
        )
    return tuple(folds) or None


def dropped_by(head: TrainedHead) -> tuple[str, ...]:
    """The quality flags whose tiles were left out of its training."""
    return tuple(head.card.about.get("asked", {}).get("drop", ()))


def training_outcomes(head: TrainedHead, fold: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time and event of the patients it was trained on, or those of one fold's member. UsageError without them."""
    if "outcomes" not in head.card.about:
        raise UsageError(
            "This head does not tell its training patients' times.", hint="Train it again with `wsi train`."
        )
    time, event, left_out = np.array(head.card.about["outcomes"], dtype=np.float64).T
    there = np.full(len(time), True) if fold is None else left_out != fold
    return time[there], event[there]


def about_of(card: Path) -> tuple[str, str, str, tuple[tuple[str, float, float, float], ...]] | None:
    """What head.json says a head tells, by which network, tested on whom, how well; None for what is no such file."""
    try:
        record = json.loads(card.read_text(encoding="utf-8"))
        about, member = record["about"], record["members"][0]
        asked = about["asked"]
        columns = [*asked["targets"], *(c for c in (asked["time"], asked["event"]) if c)]
        found = {n: i for n, i in about["metrics"].items() if n.rpartition(": ")[2] in CHIEF}
        metrics = [(n, i["value"], i["low"], i["high"]) for n, i in found.items() if None not in i.values()]
        tested = f"{about['patients']} patients, {len(record['members'])} folds"
        return f"{member['task']['kind']} of {', '.join(columns)}", record["config"]["head"], tested, tuple(metrics)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None
