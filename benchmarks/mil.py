"""Accuracy on the classical MIL sets, by the classical recipe: does our attention learn what the paper's learns?

    python benchmarks/mil.py musk1.h5 --folds-from-file
    python benchmarks/mil.py musk1.h5 --folds-from-file --head abmil abmil_plain

A set is one HDF5 file: `features` (instances, D), `offsets` (bags + 1,), so that bag i is features[offsets[i] :
offsets[i + 1]], `labels` (bags,) of 0 and 1, and, for --folds-from-file, `folds` (repeats, k, bags).

What is measured: the share of test bags that are labelled right, for each fold of each repeat; their mean, and its
standard error, which is the deviation of the folds / sqrt(folds). The network is the package's attention behind the
embedding of Ilse et al. 2018 (arXiv 1802.04712): 256-128-64 with ReLU and dropout .5, attention of 64, SGD with
momentum .9, one bag a step, 100 epochs. Features are z-scored by all instances of the set, which sees no label. The
weights of the last epoch are the ones tested; nothing is chosen on a test fold. SGD is this file's own, since no recipe
of the package uses it.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# This folder holds a heads.py of its own, which would hide the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.machine import processor
from heads.networks.abmil import AttentionMIL
from heads.splits import stratified_folds

GATED = {"abmil": True, "abmil_plain": False}
FOLDS = 10  # drawn for each repeat, where the file's are not asked for
PROCESSES = 2


class Classical(nn.Module):
    """Ilse's network for the classical sets: two layers before the package's embedding, attention and linear layer."""

    def __init__(self, in_dim: int, gated: bool) -> None:
        super().__init__()
        widths = (in_dim, 256, 128)
        layers = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.5)) for a, b in pairwise(widths)]
        self.first = nn.Sequential(*(part for layer in layers for part in layer))
        self.mil = AttentionMIL(128, 1, hidden=(64, 64), gated=gated, dropout=0.5)

    def forward(self, bag: Tensor) -> Tensor:
        """Tiles (N, D) to the logit of the bag, (1, 1)."""
        return self.mil.fit(self.first(bag), [len(bag)], None).outputs


@dataclass(frozen=True)
class Lesson:
    """One fold of one repeat."""

    head: str
    bags: list[Tensor]
    labels: Tensor  # (bags, 1, 1)
    test: NDArray[np.bool_]  # (bags,)
    seed: int


def main() -> None:
    options = _options()
    bags, labels, test = read_set(options.file, options.folds_from_file)
    test = test[: options.repeats]
    lessons = [
        Lesson(head, bags, labels, fold, seed=FOLDS * r + k)
        for r, repeat in enumerate(test)
        for head in options.head
        for k, fold in enumerate(repeat)
    ]
    accuracies: dict[str, list[float]] = {head: [] for head in options.head}
    for lesson, accuracy in zip(lessons, _trained(lessons, options), strict=True):
        found = accuracies[lesson.head]
        found.append(accuracy)
        if len(found) % test.shape[1] == 0:
            _report(lesson.head, np.reshape(found, (-1, test.shape[1])), options)


def read_set(path: Path, folds_from_file: bool) -> tuple[list[Tensor], Tensor, NDArray[np.bool_]]:
    """Standardised bags, labels (bags, 1, 1) and which bags each fold tests, (repeats, k, bags)."""
    with h5py.File(path) as file:
        x, offsets, labels = file["features"][:], file["offsets"][:], file["labels"][:]
        folds = _test_masks(file["folds"][:]) if folds_from_file else _drawn(labels)
    std = x.std(0)
    x = torch.from_numpy((x - x.mean(0)) / np.where(std > 0, std, 1))
    bags = [x[a:b].clone() for a, b in pairwise(offsets)]
    return bags, torch.from_numpy(labels).float().view(-1, 1, 1), folds


def train_and_test(lesson: Lesson, options: argparse.Namespace) -> float:
    """Accuracy on the fold's test bags after the last epoch."""
    torch.manual_seed(lesson.seed)
    model = Classical(lesson.bags[0].shape[1], GATED[lesson.head]).train()
    sgd = torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=0.9, weight_decay=options.weight_decay, fused=True
    )
    training = torch.from_numpy(np.flatnonzero(~lesson.test))
    for _ in range(options.epochs):
        for i in training[torch.randperm(len(training))].tolist():
            sgd.zero_grad()
            binary_cross_entropy_with_logits(model(lesson.bags[i]), lesson.labels[i]).backward()
            sgd.step()
    return _accuracy(model.eval(), lesson)


def _accuracy(model: nn.Module, lesson: Lesson) -> float:
    rows = np.flatnonzero(lesson.test)
    with torch.inference_mode():
        right = [bool(model(lesson.bags[i]).item() > 0) == bool(lesson.labels[i].item()) for i in rows]
    return float(np.mean(right))


def _trained(lessons: Sequence[Lesson], options: argparse.Namespace) -> Iterator[float]:
    """Folds one after another, in two processes of one thread each: the steps are too small to be shared out."""
    with multiprocessing.get_context("fork").Pool(PROCESSES, torch.set_num_threads, (1,)) as pool:
        yield from pool.imap(partial(train_and_test, options=options), lessons)


def _test_masks(folds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Masks in which True is test. Some files mark training: the value that marks fewer bags of a fold is test."""
    test = folds if folds.mean() < 0.5 else ~folds
    if not (test.sum(1) == 1).all():
        raise SystemExit("The folds of this file do not test every bag once a repeat.")
    return test


def _drawn(labels: NDArray[Any], repeats: int = 5) -> NDArray[np.bool_]:
    """Stratified folds of our own, every bag its own patient."""
    names = [f"bag {i}" for i in range(len(labels))]
    folds = [stratified_folds(names, labels.tolist(), FOLDS, seed) for seed in range(repeats)]
    return np.array([[fold == k for k in range(FOLDS)] for fold in folds])


def _report(head: str, accuracy: NDArray[np.float64], options: argparse.Namespace) -> None:
    """Prints the row of the repeats done so far, and keeps it: (repeats, k) accuracies."""
    folds = accuracy.ravel()
    se = folds.std(ddof=1) / np.sqrt(len(folds))
    between = f"{accuracy.mean(1).std(ddof=1):.3f}" if len(accuracy) > 1 else "-"
    key = f"| {options.file.stem} | {head} |"
    recipe = f"{options.lr:g} / {options.weight_decay:g} | {options.epochs}"
    source = "file" if options.folds_from_file else "drawn"
    row = f"{key} {len(folds)} ({source}) | {recipe} | {folds.mean():.3f} ({se:.3f}) | {between} |\n"
    sys.stdout.write(row)
    sys.stdout.flush()
    if options.results:
        _keep(options.results, key, row)


def _keep(path: Path, key: str, row: str) -> None:
    """Puts the row in the place of an older one of the same set and head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [line for line in path.read_text().splitlines() if line.startswith("| ")] if path.exists() else []
    kept = [line for line in rows[1:] if not line.startswith(key)]
    about = f"{datetime.date.today()}, {processor()}, 2 shared cores, torch {torch.__version__}"
    head = ["# Classical MIL sets", "", f"`benchmarks/mil.py`. {about}. See there for what is measured.", ""]
    columns = [
        "| set | head | folds | lr / decay | epochs | accuracy (SE) | SD of repeats |",
        "|---|---|---|---|---|---|---|",
    ]
    path.write_text("\n".join([*head, *columns, *sorted([*kept, row.strip()])]) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the set, an HDF5 file")
    parser.add_argument(
        "--head", nargs="+", choices=GATED, default=["abmil"], help="abmil is gated (default), abmil_plain is not"
    )
    parser.add_argument("--lr", type=float, default=5e-4, help="step size (MUSK1: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=5e-3, help="as SGD's L2 term (MUSK1: %(default)s)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5, help="at most so many repeats of the folds")
    parser.add_argument("--folds-from-file", action="store_true", help="the file's folds instead of drawn ones")
    parser.add_argument("--results", type=Path, help="a Markdown file to keep the rows in, after each repeat")
    return parser.parse_args()


if __name__ == "__main__":
    main()
