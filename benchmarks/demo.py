"""Heads on the demo cohort, whose truth is known: do they learn what was drawn, look where it is, and nothing else?

    wsi demo --slides 60 --seed 4242 -o FOLDER && python benchmarks/demo.py FOLDER

Five folds, default settings, every slide answered by the fold that never saw it. Measured: AUROC of the diagnosis and
of tumour against none; attention, and contribution, of tiles against the drawn tumour masks (ROC area over all tiles of
slides with tumour, and the median and worst slide); concordance of survival beside that of the risk the times were
drawn from; and all of it again with labels shuffled between patients, where every metric should be at chance.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# This folder holds a heads.py of its own, which would hide the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from features import FeatureGrid
from heads import concordance_index
from heads.config import TrainConfig
from heads.crossval import CrossValidation, cross_validate
from heads.evaluation import Evaluation, evaluate
from heads.splits import stratified_folds
from heads.targets import strata_of
from pipeline.demo import MIN_SHARE, tumour_share
from pipeline.headmaps import head_maps
from pipeline.output import OutputFolder
from pipeline.record import SlideRecord
from pipeline.training import features_of_run

DRAWS = 1000


def main() -> None:
    given = _arguments()
    out = OutputFolder(given.folder / "results")
    with open(given.folder / "cohort" / "cohort.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    bags = [features_of_run(out).bags[row["id"]] for row in rows]
    print(f"# Heads on the demo cohort of {len(rows)}\n")
    print(f"`benchmarks/demo.py`. {datetime.date.today()}, CPU. 95 % intervals by {DRAWS} draws of patients.\n")
    for target in ("diagnosis", "tumour"):
        cv, found = _tested(bags, [row[target] for row in rows], "classification", given)
        print(f"- {target}, {given.head}: AUROC {_interval(found, 'auroc')}", flush=True)
        _pointing(out, given, rows, cv, target)
    pairs = [(float(row["months"]), int(row["event"])) for row in rows]
    for task in ("survival", "hazard"):
        cv, _ = _tested(bags, pairs, task, given)
        _risk(rows, pairs, cv, task)
    _shuffled(bags, rows, pairs, given)


def _tested(
    bags: Sequence[Any], targets: Any, task: str, given: argparse.Namespace
) -> tuple[CrossValidation, Evaluation]:
    patients = [bag.slide_id for bag in bags]  # one slide each
    folds = stratified_folds(patients, strata_of(targets, task), 5, given.seed)
    cv = cross_validate(bags, targets, folds, task=task, config=TrainConfig(head=given.head, seed=given.seed))
    return cv, evaluate(cv.answers, draws=DRAWS)


def _interval(found: Evaluation, name: str) -> str:
    i = found.overall[name]
    return f"{i.value:.3f} ({i.low:.3f}-{i.high:.3f})"


def _pointing(
    out: OutputFolder, given: argparse.Namespace, rows: list[dict[str, str]], cv: CrossValidation, target: str
) -> None:
    """Attention and contribution to the drawn class against the masks, by the fold that never saw the slide."""
    found: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.float32]]]] = {}
    for i, row in enumerate(rows):
        if row["tumour"] != "1":
            continue
        folder = out.slide(row["id"])
        record = SlideRecord.read(folder)
        assert record is not None, "the run has ended well"
        grid = FeatureGrid.open(folder.features / record.current)
        truth = tumour_share(grid.grid, given.folder / "cohort" / "truth", row["id"]) >= MIN_SHARE
        alone = _only(cv, int(cv.answers.folds[i]))
        for m in head_maps(grid, record, alone, target):
            found.setdefault(m.name.split("-")[0], []).append((truth, m.values))
    for kind, slides in found.items():
        whole = roc_auc_score(np.concatenate([t for t, _ in slides]), np.concatenate([v for _, v in slides]))
        each = [roc_auc_score(t, v) for t, v in slides if 0 < t.mean() < 1]
        print(
            f"- {target}, {kind} against tumour masks, {len(slides)} slides: AUC {whole:.3f}; "
            f"by slide median {np.median(each):.3f}, worst {min(each):.3f}",
            flush=True,
        )


def _only(cv: CrossValidation, member: int) -> Any:
    """The head of one fold."""
    from dataclasses import replace

    from heads.trained import TrainedHead

    return TrainedHead(replace(cv.head.card, members=(cv.head.card.members[member],)), (cv.head.members[member],))


def _risk(rows: list[dict[str, str]], pairs: list[tuple[float, int]], cv: CrossValidation, task: str) -> None:
    time, event = np.array(pairs).T
    true, ours, folds = np.array([float(r["true_risk"]) for r in rows]), cv.answers.values[:, 0], cv.answers.folds

    def c(risk: NDArray[np.floating]) -> str:
        within = [concordance_index(time[folds == k], event[folds == k], risk[folds == k]) for k in range(5)]
        return f"{concordance_index(time, event, risk):.3f} pooled, {np.mean(within):.3f} within folds"

    print(f"- {task}: C {c(ours)}; of the true risk {c(true)}", flush=True)


def _shuffled(bags: Sequence[Any], rows: list[dict[str, str]], pairs: list[Any], given: argparse.Namespace) -> None:
    """Every metric with its interval and what chance gives."""
    print("\nLabels shuffled between patients:\n\n| task | metric | value (95 %) | chance | within |")
    print("|---|---|---|---|---|")
    order = np.random.default_rng(given.shuffle).permutation(len(rows))
    asked = {
        "classification": [rows[i]["tumour"] for i in order],
        "survival": [pairs[i] for i in order],
        "hazard": [pairs[i] for i in order],
        "regression": [float(rows[i]["true_risk"]) for i in order],
    }
    for task, targets in asked.items():
        _, found = _tested(bags, targets, task, given)
        for name, chance in _chances(found, targets, task):
            i = found.overall[name]
            inside = "yes" if i.low <= chance <= i.high else "no"
            print(f"| {task} | {name} | {_interval(found, name)} | {chance:.3f} | {inside} |", flush=True)


def _chances(found: Evaluation, targets: Any, task: str) -> Iterator[tuple[str, float]]:
    prevalence = np.mean([t == max(targets) for t in targets]) if task == "classification" else 0.0
    known = {"auprc": prevalence, "kappa": 0.0, "kappa_quadratic": 0.0, "spearman": 0.0, "pearson": 0.0}
    half = ("auroc", "balanced_accuracy", "harrell_c", "uno_c", "td_auc")
    known |= dict.fromkeys(half, 0.5)
    yield from ((name, known[name]) for name in found.overall if name in known)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of `wsi demo`")
    parser.add_argument("--head", default="abmil")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffle", type=int, default=0, help="seed of the shuffled labels")
    return parser.parse_args()


if __name__ == "__main__":
    main()
