"""Many slides, one after another or on workers: each outcome written down as it comes, and what ends a batch early."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline import ledger
from pipeline.executor import Executor
from pipeline.ledger import REFUSED, REUSED, STOPPED, Outcome
from pipeline.output import OutputFolder
from pipeline.slidejob import Task, Watcher
from wsi.errors import SetupError, UsageError, from_record
from wsi.location import shown


class RunWatcher(Watcher, Protocol):
    """Also told when a slide is over; `counted` says whether its tiles were already told one by one."""

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be done in an output folder that this process holds alone. `outcomes` does it."""

    out: OutputFolder
    tasks: list[Any]  # of pipeline.slidejob.Task
    work: Callable[..., Outcome]  # of a task, and of a `watcher` in this process
    finish: Callable[[OutputFolder], None]  # writes the tables, however it ends

    def outcomes(self, executor: Executor, watcher: RunWatcher) -> list[Outcome]:
        """Does every slide; returns how each ended, in the order they ended.

        Raises SetupError as soon as the machine refuses (disk full, weights missing, scheduler gone): what is
        finished stays, and the same command continues. An interrupt does the same.
        """
        said = [shown(word) for word in sys.argv[1:]]
        ledger.append(self.out.ledger, {"event": "run", "slides": len(self.tasks), "argv": said})
        ended: list[Outcome] = []
        seen = executor.watched(watcher)
        try:
            for outcome in self._stream(executor, seen):
                ledger.record(self.out.ledger, outcome)
                ended.append(outcome)
                watcher.slide_ended(outcome, counted=seen is not None and outcome.status != REUSED)
                if outcome.status == STOPPED:
                    raise _setup_error(outcome)
        finally:
            self.finish(self.out)
        return ended

    def _stream(self, executor: Executor, watcher: Watcher | None) -> Iterable[Outcome]:
        function: Any = self.work if watcher is None else functools.partial(self.work, watcher=watcher)
        for task, result in executor.map(function, self.tasks):
            yield result if isinstance(result, Outcome) else _lost(task, result)


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
