"""`wsi run` and `wsi demo`."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from pipeline import ledger
from pipeline.batch import settled
from pipeline.commands import wishes
from pipeline.commands.results import show_scores, write_quietly
from pipeline.config import RunConfig
from pipeline.console import RunConsole, noted, open_console, summary
from pipeline.eventlog import EventLog, write_event
from pipeline.executor import DaskExecutor, Executor
from pipeline.interrupts import EXIT_CODE, SAID, Interrupts
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder
from pipeline.tissuefiles import SUMMED_UP, source_summary
from wsi.errors import UsageError


def run(entries: list[SlideEntry], out: Path, config: RunConfig, where: Executor, *, log_json: bool = False) -> int:
    """`wsi run`. Returns the exit code. With `log_json` standard output has events only; people read the other one."""
    from pipeline.run import Run
    from pipeline.stages import encoder_for
    from pipeline.zeroshot import default_prompts

    console, folder = open_console(stderr=log_json), OutputFolder(out)
    events = sys.stdout if log_json else None
    if (out / "tiles.toml").exists():
        raise UsageError(f"{out}: holds the tiles of a `wsi tiles`.", hint="Choose another output folder with -o.")
    folder.prepare()
    prompts = default_prompts(config.zeroshot.prompts, config.encoder.name)
    # Only the words are asked about here: with a scheduler, the device is one of its workers'.
    here = replace(config, device="cpu") if isinstance(where, DaskExecutor) and where.scheduler else config
    spec = encoder_for(here).spec
    if not spec.has_text:
        refuse_prompts(config)
        prompts = None
        console.print(f"{config.encoder.name} knows no words: features are stored, and there are no zero-shot labels.")
    job = Run(tuple(entries), folder, config, prompts, spec if here is config else None)
    started = time.monotonic()
    try:
        with Interrupts() as stop, RunConsole(console, len(entries), stop.check) as watcher:
            outcomes = job.outcomes(where, EventLog(watcher, events) if events else watcher)
    except KeyboardInterrupt:
        console.print(SAID)
        return _told(events, EXIT_CODE)
    settled(folder, write_quietly)
    show_scores(console, folder, spec)
    for note in noted(outcomes, SUMMED_UP):
        console.print(note)
    console.print(summary(outcomes, time.monotonic() - started))
    if told := source_summary(entries, {o.slide_id: o.drawn for o in outcomes if o.good}):
        console.print(told)
    console.print(f"report: {folder.report}")
    return _told(events, ledger.exit_code(outcomes))


def _told(events: TextIO | None, code: int) -> int:
    if events:
        write_event(events, "end", {"code": code})
    return code


def refuse_prompts(config: RunConfig) -> None:
    """For an encoder without a text tower: nothing is scored, and a wish for prompts is refused."""
    if config.zeroshot.prompts not in ("", "none"):
        raise UsageError(
            f"The encoder {config.encoder.name} knows no words, so it cannot be asked for {config.zeroshot.prompts}.",
            hint="Leave --prompts out, or choose an encoder with a text tower, such as plip.",
        )


def demo(out: Path, slides: int, seed: int, workers: int) -> int:
    """`wsi demo`."""
    from pipeline.demo import run_demo

    return run_demo(open_console(), out, slides, seed, wishes.executor(workers, ""))
