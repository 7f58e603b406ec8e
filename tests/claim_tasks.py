"""Fake slides, and processes that race over them: what each commits it also writes down, one line in one write.

Run as a script, this is one such process: claim_tasks.py race OUT NAME SLIDES [BEAT SILENT], or
claim_tasks.py stop OUT WHERE.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.batch import Batch, RunWatcher
from pipeline.claims import Claim, Pace
from pipeline.config import RunConfig
from pipeline.executor import SerialExecutor
from pipeline.ledger import DONE, REUSED, Outcome
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder, SlideFolder
from pipeline.slidejob import SlideJob, ended
from pipeline.vigil import Vigil


@dataclass(frozen=True)
class FakeTask:
    """A slide that takes `work` seconds in some batches."""

    out: Path
    number: int
    by: str
    work: float = 0.004
    config: RunConfig = field(default_factory=RunConfig)

    @property
    def entry(self) -> SlideEntry:
        return SlideEntry(f"s{self.number:03d}", Path(f"{self.number}.svs"), f"{self.number}.svs")

    @property
    def folder(self) -> SlideFolder:
        return OutputFolder(self.out).slide(self.entry.id)


class FakeJob(SlideJob):
    def run(self) -> Outcome:
        if self.folder.record() is not None:
            return self.outcome(REUSED)
        written(self.task.out / "begun", f"{self.task.entry.id} {self.task.by}")
        for part in range(4):
            time.sleep(self.task.work / 4)
            self.watcher.tiles_done(1, (part + 1) / 4)
        self.folder.write_record({"by": self.task.by})
        written(self.task.out / "commits", f"{self.task.entry.id} {self.task.by}")
        return self.outcome(DONE)


def fake_slide(task: FakeTask, watcher: Any = None) -> Outcome:
    return ended(FakeJob, task, watcher)


def written(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


class Silent(RunWatcher):
    """A run's watcher that says nothing."""

    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...

    def others_at_work(self, slides: dict[str, int]) -> None: ...


def race(out: Path, name: str, slides: int, pace: Pace) -> list[Outcome]:
    """One run of many over the same slides, each in an order of its own."""
    tasks = [FakeTask(out, number, name) for number in range(slides)]
    random.Random(name).shuffle(tasks)
    FakeJob.pace = pace
    vigil = Vigil(pace, sleep=lambda seconds: time.sleep(min(seconds, 0.1)))
    return Batch(OutputFolder(out), tasks, fake_slide, lambda _: None, vigil).outcomes(SerialExecutor(), Silent())


def stop_once(out: Path, where: str) -> Outcome:
    """Does slide 0, and stops itself in the middle of a batch or of the commit until somebody lets it go on."""
    checks = iter(range(1000))
    check, last = Claim.check, {"batch": 2, "commit": 4}[where]  # checks: after each of four batches, at the commit

    def stopping(claim: Claim) -> None:
        check(claim)
        if next(checks) == last:
            os.kill(os.getpid(), signal.SIGSTOP)

    Claim.check = stopping  # type: ignore[method-assign]
    FakeJob.pace = Pace(beat_s=0.001)  # wakes up with a beat due as well
    return fake_slide(FakeTask(out, 0, "sleeper"))


if __name__ == "__main__":
    what, folder, *given = sys.argv[1:]
    if what == "race":
        race(Path(folder), given[0], int(given[1]), Pace(*map(float, given[2:])))
    else:
        sys.stdout.write(stop_once(Path(folder), given[0]).status)
