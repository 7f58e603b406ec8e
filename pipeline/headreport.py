"""A head's page: what it was asked, how it was tested, how good it is, with intervals and plots. Self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from features.files import storage_errors, write_atomic
from heads.evaluation import Answers, Evaluation
from heads.tasks import DiscreteHazard, Survival
from heads.trained import TrainedHead
from pipeline.headfolder import PAGE
from pipeline.plots import plots, png, svg
from pipeline.report import page_environment

MEANING = {
    "auroc": "area under the ROC curve; 0.5 is chance",
    "auprc": "average precision; chance is the share of positives",
    "balanced_accuracy": "mean recall of the classes",
    "balanced_accuracy_tuned": "the same at thresholds chosen on validation patients",
    "f1": "harmonic mean of precision and recall",
    "kappa": "agreement beyond chance (Cohen)",
    "kappa_quadratic": "the same, misses weighed by distance: classes are numbers",
    "accuracy": "share right",
    "brier": "squared error of probabilities; lower is better",
    "ece": "calibration error; lower is better",
    "harrell_c": "concordance; 0.5 is chance",
    "uno_c": "concordance weighed for censoring",
    "ibs": "integrated Brier score; lower is better, 0.25 is a coin",
    "td_auc": "mean AUC over time",
}


def write_head_report(folder: Path, head: TrainedHead, answers: Answers, evaluation: Evaluation) -> Path:
    """Writes the plots as PNG files and `folder/report.html`; gives the page. Raises NoSpace, StorageError."""
    figures = list(plots(answers, high_risk(answers, head)))
    for name, figure in figures:
        with storage_errors(folder):
            write_atomic(folder / f"{name}.png", png(figure), durable=False)
    page = folder / PAGE
    env = page_environment()
    html = env.get_template("head.html").render(
        name=folder.resolve().name,
        facts=_facts(head, answers),
        caution=head.card.about.get("caution", ""),
        notes=head.card.about.get("notes", ()),
        metrics=[
            (n, MEANING.get(n.rpartition(": ")[2], ""), i, _folds(evaluation, n)) for n, i in evaluation.overall.items()
        ],
        figures=[(name, Markup(svg(figure))) for name, figure in figures],
        survival=isinstance(answers.task, Survival | DiscreteHazard),
        config=[(k, getattr(head.card.config, k)) for k in head.card.config.__dataclass_fields__],
        versions=head.card.versions,
    )
    with storage_errors(page):
        write_atomic(page, html.encode("utf-8", errors="replace"))
    return page


def high_risk(answers: Answers, head: TrainedHead) -> NDArray[np.bool_] | None:
    """(n,) above the median risk of the training patients of the fold that answered; None for tasks without time."""
    if not isinstance(answers.task, Survival | DiscreteHazard):
        return None
    cuts = np.array([m.cut for m in head.card.members])
    return np.asarray(answers.values[:, 0] > cuts[answers.folds])


def _facts(head: TrainedHead, answers: Answers) -> list[tuple[str, str]]:
    about, task = head.card.about, answers.task
    asked: dict[str, Any] = about.get("asked", {})
    columns = [*asked.get("targets", ()), asked.get("time"), asked.get("event")]
    counts = getattr(task, "classes", None)
    facts = [
        ("task", f"{task.kind}: {', '.join(c for c in columns if c)}"),
        ("head", head.card.config.head),
        ("patients", f"{about.get('patients', len(answers.patients))} ({about.get('slides', '?')} slides)"),
        ("folds", f"{answers.k}, each patient in one"),
        ("kept back in training", _kept_back(head)),
        ("tiles", head.card.tile or "not known"),
        ("encoder", head.card.encoder_digest[:12]),
        ("features", str(asked.get("features", ""))),
    ]
    if counts:
        truth = [str(t) for t in answers.targets]
        facts.insert(1, ("classes", ", ".join(f"{c} {truth.count(str(c))}" for c in counts)))
    return facts


def _kept_back(head: TrainedHead) -> str:
    """Patients of each fold on whom temperature and thresholds were fitted."""
    counts = sorted({m.n_validation for m in head.card.members})
    return "none" if counts == [0] else f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} of each fold"


def _folds(evaluation: Evaluation, name: str) -> list[float]:
    return [fold[name] for fold in evaluation.folds if name in fold]
