"""A run: every slide through its stages, tables and report at the end."""

from __future__ import annotations

from dataclasses import dataclass

from heads.prompts import PromptSet
from pipeline.batch import Batch, RunWatcher
from pipeline.config import RunConfig, dump_toml
from pipeline.executor import Executor
from pipeline.ledger import Outcome
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder
from pipeline.stages import SlideTask, run_slide
from pipeline.tables import write_tables


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be done. `outcomes` does it."""

    entries: tuple[SlideEntry, ...]
    out: OutputFolder
    config: RunConfig
    prompts: PromptSet | None = None

    def outcomes(self, executor: Executor, watcher: RunWatcher) -> list[Outcome]:
        """Does every slide, as `pipeline.batch.Batch.outcomes`."""
        self.out.prepare()
        with self.out.alone():
            self.out.write_config(dump_toml(self.config))
            tasks = [SlideTask(entry, self.out.path.absolute(), self.config, self.prompts) for entry in self.entries]
            return Batch(self.out, tasks, run_slide, write_tables).outcomes(executor, watcher)
