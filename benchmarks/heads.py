"""Training speed and memory of the heads, against torchmil and against a plain loop over HDF5 files.

    python benchmarks/heads.py [--torchmil-python VENV/bin/python] [--small] [--work FOLDER]

What is measured: seconds per epoch of gated ABMIL by the package's recipe (embedding 512 -> 512, attention 128, dropout
.25, Adam, one bag a step) on 200 bags of 5,000 x 512, and the peak memory of the process that trains. How: each
contender is a process of its own (`heads_contender.py`), set up once; then they take turns, an epoch each, in an order
that turns too, so that whatever else the machine does falls on all of them. Medians over the epochs after the first;
the first, which reads the bags for some, and the start, which does for us, are shown beside it. All files are in the
page cache when they are read. Last, one bag of 200,000 x 512: a training step, a score, and the memory they take.

torchmil is not a dependency of the project. Give the interpreter of an environment that has it, or it is left out:

    python -m venv VENV && VENV/bin/pip install torchmil torch==2.13.0 h5py
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# This very file would hide the package of its name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.machine import processor

CONTENDER = Path(__file__).with_name("heads_contender.py")
GOALS = {"hdf5": 5.0, "torchmil": 1.5}  # times our seconds per epoch
TITLES = {
    "ours": "`train_head`, bags of the store",
    "torchmil": "torchmil, .npy float32",
    "hdf5": "DataLoader over HDF5, one-row chunks",
    "bare": "bare arithmetic, one bag in memory",
}


class Contender:
    """A process that trains an epoch whenever it is told to."""

    def __init__(self, job: str, python: str, options: argparse.Namespace, epochs: int) -> None:
        counts = {"bags": options.bags, "tiles": options.tiles, "long": options.long, "epochs": epochs}
        flags = [part for name, count in counts.items() for part in (f"--{name}", str(count))]
        self.job = job
        self._process = subprocess.Popen(
            [python, str(CONTENDER), job, "--work", str(options.work), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start: float = self._said()["start"]
        self.seconds: list[float] = []
        self.cpu: list[float] = []  # of all threads, waiting for each other included

    def take_turn(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said = self._said()
        self.seconds.append(said["seconds"])
        self.cpu.append(said["cpu"])
        sys.stderr.write(f"{self.job}: {said['seconds']:.1f} s, CPU {said['cpu']:.1f} s\n")

    def end(self) -> None:
        """Ends it and keeps its peak memory, MiB, and the versions of what it used."""
        last = self._said()
        self.peak, self.versions = last["peak"], last["versions"]
        self._process.communicate()

    @property
    def steady(self) -> float:
        return statistics.median(self.seconds[1:] or self.seconds)

    def _said(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The contender {self.job!r} failed; its error is above.")
        said: dict[str, Any] = json.loads(line)
        return said


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of `finally`: the bags are gigabytes
    options.work = Path(tempfile.mkdtemp(prefix="heads-benchmark-", dir=options.work))
    try:
        report = _report(options)
    finally:
        shutil.rmtree(options.work)
    sys.stdout.write(report)
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(report)


def _report(options: argparse.Namespace) -> str:
    _alone("data", options, 0)
    contenders = _interleaved(options)
    idle = _alone("imports", options, 0)
    long = [_alone(job, options, 2) for job in ("long_training", "long_score")]
    return "\n".join([*_heading(options, contenders), *_table(contenders), *_long_table(options, long, idle)]) + "\n"


def _alone(job: str, options: argparse.Namespace, turns: int) -> Contender:
    contender = Contender(job, sys.executable, options, turns)
    for _ in range(turns):
        contender.take_turn()
    contender.end()
    return contender


def _interleaved(options: argparse.Namespace) -> list[Contender]:
    """All contenders set up, then an epoch each in turn."""
    pythons = dict.fromkeys(TITLES, sys.executable) | {"torchmil": options.torchmil_python}
    contenders = [Contender(job, python, options, options.epochs) for job, python in pythons.items() if python]
    for k in range(options.epochs):
        first = k % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            contender.take_turn()
    for contender in contenders:
        contender.end()
    return contenders


def _heading(options: argparse.Namespace, contenders: Sequence[Contender]) -> list[str]:
    versions = {name: version for c in contenders for name, version in c.versions.items()}
    about = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        "# Training heads",
        "",
        f"`benchmarks/heads.py`. {datetime.date.today()}, {processor()}, 2 shared cores, no GPU. {about}.",
        "",
        f"{options.bags} bags of {options.tiles:,} x 512, gated ABMIL, {options.epochs} epochs each, taken in turns. "
        "The epoch is the median of all but the first (range); CPU is of both threads;",
        '"with start" is the start and 20 epochs, / 20.',
    ]
    return lines if options.torchmil_python else [*lines, "", "**torchmil was left out** (no --torchmil-python)."]


def _table(contenders: Sequence[Contender]) -> list[str]:
    ours = contenders[0]
    rows = [
        "",
        "| | s / epoch | times ours | goal | CPU s | start, s | first epoch, s | with start | peak, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in contenders:
        later = c.seconds[1:] or c.seconds
        goal = f"{GOALS[c.job]:g}" if c.job in GOALS else ""
        cpu = statistics.median(c.cpu[1:] or c.cpu)
        rows.append(
            f"| {TITLES[c.job]} | {c.steady:.2f} ({min(later):.2f}-{max(later):.2f}) | {c.steady / ours.steady:.2f} | "
            f"{goal} | {cpu:.2f} | {c.start:.1f} | {c.seconds[0]:.2f} | {_whole(c):.2f} | {c.peak:,.0f} |"
        )
    return rows


def _whole(contender: Contender) -> float:
    """Seconds per epoch of the recipe's 20, with all that comes before them."""
    return (contender.start + contender.seconds[0] + 19 * contender.steady) / 20


def _long_table(options: argparse.Namespace, long: Sequence[Contender], idle: Contender) -> list[str]:
    titles = ("training step", "score, read from the store")
    rows = [
        f"| {title} | {c.steady:.2f} | {c.start:.1f} | {c.peak:,.0f} |" for title, c in zip(titles, long, strict=True)
    ]
    return [
        "",
        f"One bag of {options.long:,} x 512 ({options.long * 512 * 2 / 2**20:,.0f} MiB as stored, "
        f"{options.long * 512 * 4 / 2**20:,.0f} MiB as float32); imports alone take {idle.peak:,.0f} MiB.",
        "",
        "| | s | start, s | peak, MiB |",
        "|---|---|---|---|",
        *rows,
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchmil-python", help="interpreter that has torchmil; without it, torchmil is left out")
    parser.add_argument("--work", type=Path, help="folder for 5 GB of bags, deleted afterwards (default: the system's)")
    parser.add_argument("--bags", type=int, default=200)
    parser.add_argument("--tiles", type=int, default=5000)
    parser.add_argument("--long", type=int, default=200_000, help="tiles of the one long bag")
    parser.add_argument("--epochs", type=int, default=3, help="turns of each contender, at least 2")
    parser.add_argument("--small", action="store_true", help="10 bags and a long one of 20,000: a check, not a result")
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    options = parser.parse_args()
    if options.small:
        options.bags, options.long = 10, 20_000
    return options


if __name__ == "__main__":
    main()
