"""`wsi run` and `wsi demo`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from pipeline import ledger
from pipeline.batch import settled
from pipeline.commands import wishes
from pipeline.commands.results import show_scores, write_quietly
from pipeline.config import RunConfig
from pipeline.console import RunConsole, noted, open_console, summary
from pipeline.executor import DaskExecutor, Executor
from pipeline.interrupts import EXIT_CODE, SAID, Interrupts
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder
from pipeline.tissuefiles import SUMMED_UP, source_summary
from wsi.errors import UsageError


def run(entries: list[SlideEntry], out: Path, config: RunConfig, where: Executor) -> int:
    """`wsi run`. Returns the exit code."""
    from pipeline.run import Run
    from pipeline.stages import encoder_for
    from pipeline.zeroshot import default_prompts

    console, folder = open_console(), OutputFolder(out)
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
            outcomes = job.outcomes(where, watcher)
    except KeyboardInterrupt:
        console.print(SAID)
        return EXIT_CODE
    settled(folder, write_quietly)
    show_scores(console, folder, spec)
    for note in noted(outcomes, SUMMED_UP):
        console.print(note)
    console.print(summary(outcomes, time.monotonic() - started))
    if told := source_summary(entries, {o.slide_id: o.drawn for o in outcomes if o.good}):
        console.print(told)
    console.print(f"report: {folder.report}")
    return ledger.exit_code(outcomes)


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
