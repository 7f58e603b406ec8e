"""Every head on one real cohort, beside what needs no head, with intervals over patients.

    python benchmarks/cohort.py COHORT.h5 --group case_id --target oncotree_code [--site site] [--heads mean,abmil]
    python benchmarks/cohort.py COHORT.h5 --group case_id --time months --censored censorship --clinical age,is_female

COHORT.h5 is packed: features (T, D), offsets (n + 1,), meta/*. Each head has its default settings; folds, patients and
bootstrap draws are the same for all, so differences are paired. Classes stand beside logistic regression on mean tiles,
survival (Cox, then discrete hazards) beside Cox regression on the clinical columns, gaps filled by the median of the
training patients. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path

# ruff: noqa: E402
# This folder holds a heads.py of its own, which would hide the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.machine import processor
from features.foreign import packed_columns
from heads.config import TrainConfig
from heads.crossval import cross_validate
from heads.evaluation import Answers, compare, evaluate
from heads.networks.registry import available_heads
from heads.splits import site_folds, stratified_folds
from heads.targets import as_pairs, strata_of
from heads.tasks import Classification, Survival
from pipeline.labels import Question
from pipeline.training import Joined, features_elsewhere, join, labelled

DRAWS = 500
SHOWN = {"classification": ("auroc", "brier", "ece"), "survival": ("harrell_c", "uno_c", "ibs")}
BASELINES = {"classification": "mean + logistic regression", "survival": "clinical Cox"}


def main() -> None:
    given = _arguments()
    kind = "survival" if given.time else "classification"
    question = _question(given, kind)
    features = features_elsewhere(given.cohort)
    joined = join(features, labelled(features, None, question), slide_level=False)
    folds = _folds(joined, kind, given)
    base = clinical(joined, folds, _clinical_table(given)) if given.time else logistic(joined, folds)
    _heading(given, joined, SHOWN[kind])
    _row(BASELINES[kind], base, None, SHOWN[kind], 0.0)
    for task in ("survival", "hazard") if given.time else ("classification",):
        for name in given.heads or [n for n, _, _ in available_heads()]:
            started, config = time.monotonic(), TrainConfig(head=name, seed=given.seed)
            cv = cross_validate(
                joined.bags, joined.targets, folds, task=task, groups=joined.patients, config=config
            )  # fmt: skip
            title = f"{name}, {task}" if given.time else name
            _row(title, cv.answers, base, SHOWN[kind], time.monotonic() - started)


def logistic(joined: Joined, folds: NDArray[np.int64]) -> Answers:
    """Logistic regression on standardised mean tiles, trained on all of the other folds."""
    x = np.stack([bag.load().astype(np.float64).mean(axis=0) for bag in joined.bags])
    y = np.array(joined.targets)
    values = np.zeros((len(y), len(set(joined.targets))), np.float32)
    for fold in range(int(folds.max()) + 1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        values[folds == fold] = model.fit(x[folds != fold], y[folds != fold]).predict_proba(x[folds == fold])
    task = Classification.learn(joined.targets, 4)
    return Answers(task, joined.targets, tuple(joined.patients), folds, values)


def clinical(joined: Joined, folds: NDArray[np.int64], table: pd.DataFrame) -> Answers:
    """Cox regression on the clinical columns (rows by slide), trained on all of the other folds."""
    from lifelines import CoxPHFitter

    x = table.loc[[bag.parts[0].slide_id for bag in joined.bags]].reset_index(drop=True)
    outcome = as_pairs(joined.targets)[0]
    times, risks, training = _grid(outcome), np.zeros((len(x), 1), np.float32), []
    survival = np.zeros((len(x), len(times)))
    for fold in range(int(folds.max()) + 1):
        there, here = folds != fold, folds == fold
        filled = x.fillna(x[there].median())
        fitted = CoxPHFitter(penalizer=0.01).fit(
            filled[there].assign(time=outcome[there, 0], event=outcome[there, 1]), "time", "event"
        )  # fmt: skip
        risks[here, 0] = fitted.predict_log_partial_hazard(filled[here]).to_numpy()
        survival[here] = fitted.predict_survival_function(filled[here], times).T.to_numpy()
        training.append((outcome[there, 0], outcome[there, 1]))
    return Answers(
        Survival(), joined.targets, tuple(joined.patients), folds, risks,
        times=times, survival=survival, training=tuple(training),
    )  # fmt: skip


def _grid(outcome: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times at which survival is judged: inside the follow-up of every fold."""
    seen = outcome[outcome[:, 1] == 1, 0]
    return np.unique(np.quantile(seen, np.linspace(0.05, 0.8, 50)))


def _clinical_table(given: argparse.Namespace) -> pd.DataFrame:
    columns = packed_columns(given.cohort)
    numbers = {name: pd.to_numeric(pd.Series(columns[name]), errors="coerce") for name in given.clinical}
    return pd.DataFrame(numbers).set_index(pd.Index(columns["slide_id"]))


def _question(given: argparse.Namespace, kind: str) -> Question:
    if kind == "classification":
        return Question(kind, (given.target,), patient=given.group, site=given.site)
    event, censoring = given.event or given.censored, given.event is None
    return Question(kind, time=given.time, event=event, censoring=censoring, patient=given.group, site=given.site)


def _heading(given: argparse.Namespace, joined: Joined, metrics: tuple[str, ...]) -> None:
    first, *others = metrics
    print(f"# {given.cohort.stem}: {given.target or given.time}, folds by {given.site or 'patient'}\n")
    print(f"`benchmarks/{Path(__file__).name} {' '.join(sys.argv[2:])}`. {datetime.date.today()}, {processor()}, CPU.")
    print(f"{len(joined.bags)} patients; 95 % intervals and p by {DRAWS} draws of patients; seed {given.seed}.\n")
    print(f"| head | {first} (95 %) | folds | against the first row (95 %), p | {' | '.join(others)} | seconds |")
    print("|---|---|---|---|---|---|---|")


def _row(name: str, answers: Answers, base: Answers | None, metrics: tuple[str, ...], seconds: float) -> None:
    found = evaluate(answers, draws=DRAWS)
    first, *others = metrics
    chief = found.overall[first]
    each = " ".join(f"{fold[first]:.3f}" for fold in found.folds)
    against = ""
    if base is not None:
        d = compare(answers, base, draws=DRAWS)[first]
        against = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), {d.p:.3f}"
    rest = " | ".join(f"{found.overall[m].value:.3f}" if m in found.overall else "" for m in others)
    print(
        f"| {name} | {chief.value:.3f} ({chief.low:.3f}-{chief.high:.3f}) | {each} | {against} | {rest} "
        f"| {seconds:.0f} |",
        flush=True,
    )


def _folds(joined: Joined, kind: str, given: argparse.Namespace) -> NDArray[np.int64]:
    strata = strata_of(joined.targets, kind)
    if joined.sites is None:
        return stratified_folds(joined.patients, strata, given.folds, given.seed)
    return site_folds(joined.patients, strata, joined.sites, given.folds, given.seed).folds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--target", help="column of classes")
    parser.add_argument("--time", help="column of survival times, in place of a target")
    parser.add_argument("--event", help="column that is 1 where the event was seen")
    parser.add_argument("--censored", help="or the other way round")
    parser.add_argument("--clinical", type=lambda text: text.split(","), default=[], help="numbers to compare with")
    parser.add_argument("--group", default=None)
    parser.add_argument("--site", default=None)
    parser.add_argument("--heads", type=lambda text: text.split(","), default=None)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if bool(given.target) == bool(given.time):
        parser.error("give --target, or --time with --event or --censored")
    return given


if __name__ == "__main__":
    main()
