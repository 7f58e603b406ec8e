"""A run: every slide through its stages, tables and report at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from features.header import toolkit_version
from features.spec import EncoderSpec
from heads.prompts import PromptSet
from pipeline.batch import Batch, RunWatcher
from pipeline.config import RunConfig, dump_toml
from pipeline.executor import Executor
from pipeline.ledger import Outcome
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder
from pipeline.stages import SlideTask, run_slide
from pipeline.tables import write_tables
from wsi.identity import digest, plain


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be done. `outcomes` does it."""

    entries: tuple[SlideEntry, ...]
    out: OutputFolder
    config: RunConfig
    prompts: PromptSet | None = None
    encoder: EncoderSpec | None = None  # as this machine has loaded it; None where others will do the work

    def outcomes(self, executor: Executor, watcher: RunWatcher) -> list[Outcome]:
        """Does every slide, as `pipeline.batch.Batch.outcomes`, beside other runs of the same settings."""
        self.out.prepare()
        with self.out.shared(self.settings()) as first:
            if first:
                self.out.write_config(dump_toml(self.config))
            tasks = [SlideTask(entry, self.out.path.absolute(), self.config, self.prompts) for entry in self.entries]
            return Batch(self.out, tasks, run_slide, write_tables).outcomes(executor, watcher)

    def settings(self) -> dict[str, Any]:
        """What runs in one folder must have in common: all that a result depends on, and not how it is come by.

        The encoder with its weights and its precision, which on "auto" differs between a GPU and a CPU.
        """
        reader = replace(self.config.reader, threads=1, timeout_s=1.0, memory_gb=0.0)
        encoder = replace(self.config.encoder, batch_size=1, weights=None, precision="auto")
        zeroshot = replace(self.config.zeroshot, prompts="")
        told = plain(replace(self.config, device="auto", reader=reader, encoder=encoder, zeroshot=zeroshot))
        if self.encoder is not None:
            told["loaded encoder"] = plain(self.encoder)
        flat = {f"{s}.{k}": v for s, section in told.items() if isinstance(section, dict) for k, v in section.items()}
        return {"version": toolkit_version(), "prompts": self.prompts and digest(self.prompts), **flat}
