"""Every head on one real cohort, beside mean-pooled logistic regression, with intervals over patients.

    python benchmarks/cohort.py COHORT.h5 --target oncotree_code --group case_id [--site site] [--heads mean,abmil]

COHORT.h5 is packed: features (T, D), offsets (n + 1,), meta/*. Each head has its default settings; folds, patients and
bootstrap draws are the same for all, so differences are paired. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# ruff: noqa: E402
# This folder holds a heads.py of its own, which would hide the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from heads.config import TrainConfig
from heads.crossval import cross_validate
from heads.evaluation import Answers, compare, evaluate
from heads.networks.registry import available_heads
from heads.splits import site_folds, stratified_folds
from heads.tasks import Classification
from pipeline.labels import Question
from pipeline.training import Joined, features_elsewhere, join, labelled

DRAWS = 500


def main() -> None:
    given = _arguments()
    question = Question("classification", (given.target,), patient=given.group, site=given.site)
    features = features_elsewhere(given.cohort)
    joined = join(features, labelled(features, None, question), slide_level=False)
    folds = _folds(joined, given.folds, given.seed)
    print(f"{given.cohort.name}: {given.target}, {len(joined.bags)} patients, folds by {given.site or 'patient'}\n")
    print("| head | AUROC (95 %) | folds | against logistic regression (95 %), p | Brier | ECE | seconds |")
    print("|---|---|---|---|---|---|---|")
    base = logistic(joined, folds)
    _row("mean + logistic regression", base, None, 0.0)
    for name in given.heads or [n for n, _, _ in available_heads()]:
        started = time.monotonic()
        config = TrainConfig(head=name, seed=given.seed)
        cv = cross_validate(joined.bags, joined.targets, folds, groups=joined.patients, config=config)
        _row(name, cv.answers, base, time.monotonic() - started)


def logistic(joined: Joined, folds: np.ndarray) -> Answers:
    """Logistic regression on standardised mean tiles, trained on all of the other folds."""
    x = np.stack([bag.load().astype(np.float64).mean(axis=0) for bag in joined.bags])
    y = np.array(joined.targets)
    values = np.zeros((len(y), len(set(joined.targets))), np.float32)
    for fold in range(int(folds.max()) + 1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        values[folds == fold] = model.fit(x[folds != fold], y[folds != fold]).predict_proba(x[folds == fold])
    task = Classification.learn(joined.targets, 4)
    return Answers(task, joined.targets, tuple(joined.patients), folds, values)


def _row(name: str, answers: Answers, base: Answers | None, seconds: float) -> None:
    found = evaluate(answers, draws=DRAWS)
    auroc = found.overall["auroc"]
    each = " ".join(f"{fold['auroc']:.3f}" for fold in found.folds)
    against = ""
    if base is not None:
        d = compare(answers, base, draws=DRAWS)["auroc"]
        against = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), {d.p:.3f}"
    calibration = f"{found.overall['brier'].value:.3f} | {found.overall['ece'].value:.3f}"
    print(
        f"| {name} | {auroc.value:.3f} ({auroc.low:.3f}-{auroc.high:.3f}) | {each} | {against} | {calibration} "
        f"| {seconds:.0f} |",
        flush=True,
    )


def _folds(joined: Joined, k: int, seed: int) -> np.ndarray:
    if joined.sites is None:
        return stratified_folds(joined.patients, joined.targets, k, seed)
    return site_folds(joined.patients, joined.targets, joined.sites, k, seed).folds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--group", default=None)
    parser.add_argument("--site", default=None)
    parser.add_argument("--heads", type=lambda text: text.split(","), default=None)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
