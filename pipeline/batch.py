"""Many slides, one after another or on workers: each outcome written down as it comes, and what ends a batch early."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline import ledger
from pipeline.executor import Executor
from pipeline.ledger import BUSY, REFUSED, REUSED, STOPPED, Outcome
from pipeline.output import OutputFolder
from pipeline.slidejob import Task, Watcher
from pipeline.vigil import Vigil
from wsi.errors import SetupError, UsageError, from_record
from wsi.location import shown

_REWRITES = 5  # after so many, others are still at work, and will write later than this


class RunWatcher(Watcher, Protocol):
    """Also told when a slide is over; `counted` says whether its tiles were already told one by one."""

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...

    def others_at_work(self, slides: dict[str, int]) -> None:
        """Told, again and again, how many of the slides are with which other process while there is no more to do."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be done in an output folder. `outcomes` does it."""

    out: OutputFolder
    tasks: list[Any]  # of pipeline.slidejob.Task
    work: Callable[..., Outcome]  # of a task, and of a `watcher` in this process
    finish: Callable[[OutputFolder], None]  # writes the tables, however it ends
    vigil: Vigil = field(default_factory=Vigil)

    def outcomes(self, executor: Executor, watcher: RunWatcher) -> list[Outcome]:
        """Does every slide; returns how each ended, in the order they ended.

        Raises SetupError as soon as the machine refuses (disk full, weights missing, scheduler gone): what is
        finished stays, and the same command continues. An interrupt does the same.
        Slides that another run has come last: done there, they stand; where it died, they are done here.
        """
        said = [shown(word) for word in sys.argv[1:]]
        ledger.append(self.out.ledger, {"event": "run", "slides": len(self.tasks), "argv": said})
        ended: list[Outcome] = []
        told = executor.watched(watcher) is not None
        try:
            for outcome in self._stream(executor, watcher):
                ledger.record(self.out.ledger, outcome)
                ended.append(outcome)
                watcher.slide_ended(outcome, counted=told and outcome.status != REUSED)
                if outcome.status == STOPPED:
                    raise _setup_error(outcome)
        finally:
            settled(self.out, self.finish)
        return ended

    def _stream(self, executor: Executor, watcher: RunWatcher) -> Iterator[Outcome]:
        """Every slide's end, in rounds: of all slides, then of those that others had, as they become free."""
        todo, busy = self.tasks, []
        while todo:
            idle = True
            for task, outcome in self._round(executor, watcher, todo):
                if outcome.status == BUSY:
                    busy.append(task)
                    self.vigil.is_free(task.folder.path)  # a first look: from now on its owner is watched
                else:
                    idle = False
                    yield outcome
            if busy:
                self.vigil.pause(shortest=not idle)
            todo, busy = self._apart(busy)
            while busy and not todo:
                watcher.others_at_work(Counter(self.vigil.owners()))
                self.vigil.pause()
                todo, busy = self._apart(busy)

    def _apart(self, tasks: list[Any]) -> tuple[list[Any], list[Any]]:
        """Those whose slide nobody has any more, and the others."""
        found: tuple[list[Any], list[Any]] = [], []
        for task in tasks:
            found[not self.vigil.is_free(task.folder.path)].append(task)
        return found

    def _round(self, executor: Executor, watcher: RunWatcher, tasks: list[Any]) -> Iterable[tuple[Task, Outcome]]:
        seen = executor.watched(watcher)
        function: Any = self.work if seen is None else functools.partial(self.work, watcher=seen)
        for task, result in executor.map(function, tasks):
            yield task, result if isinstance(result, Outcome) else _lost(task, result)


def settled(out: OutputFolder, write: Callable[[OutputFolder], None]) -> None:
    """Writes what is made of the ledger, and again where another run has added to it meanwhile.

    So whichever of several writes last, writes what is true of all their slides.
    """
    for _ in range(_REWRITES):
        known = ledger.length(out.ledger)
        write(out)
        if ledger.length(out.ledger) == known:
            return


def _lost(task: Task, error: Exception) -> Outcome:
    """The executor gave a slide up: the workers that had it died one after another."""
    return Outcome(
        task.entry.id,
        task.entry.name,
        REFUSED,
        "worker",
        code="worker_died",
        detail=f"{task.entry.path}: the workers that had this slide died ({type(error).__name__}).",
        hint="Run it alone to see why; the other slides are not affected.",
        patient=task.entry.patient,
        labels=task.entry.labels,
    )


def _setup_error(outcome: Outcome) -> Exception:
    error = from_record({"code": outcome.code, "message": outcome.detail, "hint": outcome.hint})
    return error if isinstance(error, SetupError | UsageError) else SetupError(outcome.detail, hint=outcome.hint)
