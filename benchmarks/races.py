"""Many processes over the slides of one output folder, some of them killed and some stopped for a while.

    python benchmarks/races.py [--processes 64] [--slides 300] [--rounds 3] [--results benchmarks/results/races.md]

The slides are fake and take 4 ms, so that what is raced for is the claims. Signs of life come every 0.5 s here and are
missed after 3 s; a stopped process sleeps for 5 s and is let go on, so that most wake up to find their slide another's.
Each commit is written down by who made it, beside the record it left.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# ruff: noqa: E402
# This folder holds files named as packages are.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.machine import processor

_BEAT_S, _SILENT_S, _SLEEP_S = 0.5, 3.0, 5.0
_FATES = 8  # one process in so many is killed, and as many are stopped


@dataclass(frozen=True, slots=True)
class Result:
    begun: int  # slides times
    commits: int
    twice: int  # slides committed more than once
    missing: int
    foreign: int  # commits whose record is not by who made it
    torn: int  # records that are no whole JSON
    left: int  # claims and asides
    failed: int  # processes that were not killed and did not end well
    seconds: float


def main() -> None:
    given = _arguments()
    results = []
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            results.append(_round(Path(folder), given, number))
    report = _report(results, given)
    sys.stdout.write(report)
    if given.results:
        given.results.write_text(report)
    if any(r.twice or r.missing or r.foreign or r.torn or r.left or r.failed for r in results):
        sys.exit(1)


def _round(out: Path, given: argparse.Namespace, seed: int) -> Result:
    draw, began = random.Random(seed), time.monotonic()
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    words = [sys.executable, str(ROOT / "tests" / "claim_tasks.py"), "race", str(out)]
    pace = [str(given.slides), str(_BEAT_S), str(_SILENT_S)]
    env = os.environ | {"PYTHONPATH": path}
    runs = [subprocess.Popen([*words, f"p{n}", *pace], env=env) for n in range(given.processes)]
    fated = draw.sample(runs, 2 * (given.processes // _FATES))
    killed, stopped = fated[::2], fated[1::2]
    for n, (one, other) in enumerate(zip(killed, stopped, strict=True)):
        _wait_for(out, given.slides * (n + 1) // (len(killed) + 1))
        one.send_signal(signal.SIGKILL)
        other.send_signal(signal.SIGSTOP)
        threading.Timer(_SLEEP_S, other.send_signal, [signal.SIGCONT]).start()
    failed = sum(run.wait() != 0 for run in runs if run not in killed)
    for run in killed:
        run.wait()
    return _judged(out, given.slides, failed, time.monotonic() - began)


def _wait_for(out: Path, commits: int) -> None:
    while len(_lines(out / "commits")) < commits:
        time.sleep(0.02)


def _judged(out: Path, slides: int, failed: int, seconds: float) -> Result:
    by: dict[str, str] = {}
    torn = 0
    for path in out.glob("slides/*/slide.json"):
        try:
            by[path.parent.name] = json.loads(path.read_text())["by"]
        except (ValueError, KeyError):
            torn += 1
    lines = [line.split() for line in _lines(out / "commits")]
    tally = Counter(slide for slide, _ in lines)
    return Result(
        begun=len(_lines(out / "begun")),
        commits=len(lines),
        twice=sum(n > 1 for n in tally.values()),
        missing=slides - len(by) - torn,
        foreign=sum(by.get(slide) != name for slide, name in lines),
        torn=torn,
        left=sum(path.name.startswith(".") for path in out.rglob("*")),
        failed=failed,
        seconds=seconds,
    )


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _report(results: list[Result], given: argparse.Namespace) -> str:
    fates = given.processes // _FATES
    rows = [
        f"| {n} | {r.begun} | {r.commits} | {r.twice} | {r.missing} | {r.foreign} | {r.torn} | {r.left} | {r.failed} "
        f"| {r.seconds:.0f} s |"
        for n, r in enumerate(results, 1)
    ]
    return "\n".join(
        [
            "# Races",
            "",
            f"`benchmarks/races.py`, {datetime.date.today()}, {processor()}, {os.cpu_count()} shared cores. In each "
            f"round {given.processes} processes over {given.slides:,} slides, {fates} of them killed (SIGKILL) and "
            f"{fates} stopped for {_SLEEP_S:g} s (SIGSTOP), where owners are missed after {_SILENT_S:g} s.",
            "",
            "Begun: slides that somebody started on; more than there are, where an owner was killed or overtaken. "
            "Commits: as written down by who made them; fewer than slides, where one was killed before writing it "
            "down. What may not be: a slide committed twice, or by nobody; a record that is not by who committed it, "
            "or not whole; claims left behind; a process that fails.",
            "",
            "| round | begun | commits | twice | missing | foreign | torn | left | failed | |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--slides", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
