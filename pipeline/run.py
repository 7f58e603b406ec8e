"""A run: every slide through its stages, each outcome written down as it comes, tables and report at the end."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from heads.prompts import PromptSet
from pipeline import ledger
from pipeline.config import RunConfig, dump_toml
from pipeline.executor import Executor, SerialExecutor
from pipeline.ledger import REFUSED, REUSED, STOPPED, Outcome
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder, write_text
from pipeline.stages import SlideTask, Watcher, run_slide
from pipeline.tables import write_tables
from wsi.errors import SetupError, UsageError, from_record
from wsi.location import without_secrets


class RunWatcher(Watcher, Protocol):
    """Also told when a slide is over; `counted` says whether its tiles were already told one by one."""

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be done. `outcomes` does it."""

    entries: tuple[SlideEntry, ...]
    out: OutputFolder
    config: RunConfig
    prompts: PromptSet | None = None

    def outcomes(self, executor: Executor, watcher: RunWatcher) -> list[Outcome]:
        """Does every slide; returns how each ended, in the order they ended.

        Raises SetupError as soon as the machine refuses (disk full, weights missing, scheduler gone): what is
        finished stays, and the same command continues. An interrupt does the same.
        """
        self.out.prepare()
        with self.out.alone():
            return self._locked(executor, watcher)

    def _locked(self, executor: Executor, watcher: RunWatcher) -> list[Outcome]:
        write_text(self.out.config, dump_toml(self.config))
        said = [without_secrets(word) for word in sys.argv[1:]]
        ledger.append(self.out.ledger, {"event": "run", "slides": len(self.entries), "argv": said})
        ended: list[Outcome] = []
        try:
            for outcome in self._stream(executor, watcher):
                ledger.record(self.out.ledger, outcome)
                ended.append(outcome)
                watcher.slide_ended(outcome, counted=isinstance(executor, SerialExecutor) and outcome.status != REUSED)
                if outcome.status == STOPPED:
                    raise _setup_error(outcome)
        finally:
            write_tables(self.out)
        return ended

    def _stream(self, executor: Executor, watcher: RunWatcher) -> Iterable[Outcome]:
        tasks = [SlideTask(entry, self.out.path.absolute(), self.config, self.prompts) for entry in self.entries]
        local = isinstance(executor, SerialExecutor)
        function: Any = functools.partial(run_slide, watcher=watcher) if local else run_slide
        for task, result in executor.map(function, tasks):
            yield result if isinstance(result, Outcome) else _lost(task, result)


def _lost(task: SlideTask, error: Exception) -> Outcome:
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
