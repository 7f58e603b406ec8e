"""`wsi zeroshot`, `wsi heatmap`, `wsi report`: more from the features that are there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from features.spec import EncoderSpec
from pipeline.commands.wishes import findable
from pipeline.config import dump_toml, load_config, setting
from pipeline.console import duration, open_console, table
from pipeline.output import OutputFolder
from wsi.errors import UsageError
from wsi.wording import number_of


def zeroshot(out: Path, prompts: str, settings: list[str] | None, drop: tuple[str, ...] | None = None) -> int:
    """`wsi zeroshot`: new words over the features that are there."""
    from heads import load_prompts
    from pipeline.rescore import rescore
    from pipeline.stages import encoder_for
    from pipeline.tables import write_tables

    console, folder = open_console(), OutputFolder(out).existing()
    chosen = load_prompts(prompts)
    said = {"zeroshot.prompts": findable(prompts), "zeroshot.drop": drop}
    wanted = [setting(key, value) for key, value in said.items() if value is not None]
    config = load_config(folder.config, [*(settings or []), *wanted])
    started = time.monotonic()
    with folder.alone():
        done, skipped = rescore(folder, config, chosen)
        folder.write_config(dump_toml(config))  # these are the prompts in use from now on
        write_tables(folder)
    write_quietly(folder)
    show_scores(console, folder, encoder_for(config).spec)
    code = _told(console, done, skipped)
    console.print(
        f"{number_of(done, 'slide')} in {duration(time.monotonic() - started)}; table: {out / 'zeroshot.csv'}"
    )
    return code


def heatmap(out: Path, of: str, head: Path | None, slides: list[str] | None) -> int:
    """`wsi heatmap`: the maps of a class or of a head's attention. 3 / 4 if some / all slides could not be drawn."""
    from pipeline.headmaps import draw_head_maps
    from pipeline.rescore import draw_class

    console, folder = open_console(), OutputFolder(out).existing()
    config = load_config(folder.config)
    if of and head:
        raise UsageError("--of and --head exclude each other.", hint="Give one of them.")
    wanted = _wanted_slides(folder, slides)
    skipped: list[str] = []
    made = draw_head_maps(folder, wanted, head, skipped) if head else draw_class(folder, wanted, config, of, skipped)
    count = 0
    for path in made:
        console.print(str(path))
        count += 1
    if not count and not skipped:
        raise UsageError(f"{out}: there is nothing to draw.", hint="Run `wsi run` or `wsi zeroshot` first.")
    return _told(console, count, skipped)


def _told(console: Console, done: int, skipped: list[str]) -> int:
    """Prints what was passed over; the exit code: 0, or 3 / 4 if some / all slides were."""
    for sentence in skipped:
        console.print(sentence, style="red")
    return 0 if not skipped else 3 if done else 4


def _wanted_slides(folder: OutputFolder, ids: list[str] | None) -> list[Any]:
    found = {f.id: f for f in folder.slides()}
    unknown = [i for i in ids or () if i not in found]
    if unknown:
        raise UsageError(
            f"{folder.path}: no finished slide {', '.join(unknown)}.", hint=f"There are: {', '.join(found)}."
        )
    return [found[i] for i in ids] if ids else list(found.values())


def report(out: Path) -> int:
    """`wsi report`; tile pictures that are missing are cut from the slides."""
    from pipeline.reporting import make_report
    from tiling.supervised import ReaderProcess

    folder = OutputFolder(out).existing()
    with ReaderProcess(load_config(folder.config).reader) as reader:
        make_report(folder, reader)
    open_console().print(f"report: {folder.report}")
    return 0


def write_quietly(folder: OutputFolder) -> None:
    """The report from what is in the folder; no slide is opened."""
    from pipeline.reporting import make_report

    make_report(folder)


def show_scores(console: Console, folder: OutputFolder, spec: EncoderSpec) -> None:
    """The zero-shot table, if there is anything for it, what its encoder is worth, and whose scores are left out."""
    from pipeline.heatmap import encoder_caution
    from pipeline.tables import scored

    scores = scored(folder)
    if scores.shown:
        console.print(score_table(scores.shown))
        if caution := encoder_caution(untrained=spec.untrained, domain=spec.domain):
            console.print(caution)
    if scores.left_out:
        n = len(scores.left_out)
        console.print(
            f"{n} slide{'s are' if n > 1 else ' is'} not shown, scored with other prompts, settings or features "
            f"({', '.join(scores.left_out[:5])}{', ...' if n > 5 else ''}): "
            + (
                f"run them again, or `wsi zeroshot {folder.path} --prompts ...` over all."
                if spec.has_text
                else "run again with the encoder they were scored with, in a folder of its own to have both."
            )
        )


def score_table(shown: dict[str, dict[str, Any]]) -> Table:
    """One row a slide, from its scores by id; all of the same prompts."""
    rows = []
    for slide_id, found in shown.items():
        p = dict(zip(found["classes"], found["pooled"][found["label_pooling"]]["p"], strict=False))
        label = found["label"] or "none shown"
        rows.append((slide_id, found["tiles"], label, f"{p[label]:.2f}" if label in p else "", draws_won(found)))
    title = f"zero-shot, prompts: {next(iter(shown.values()))['prompts']} (research use only, not a diagnosis)"
    columns = ("slide", "tiles", "label", "p", "prompt draws won")
    return table(title, columns, rows, right=("tiles", "p", "prompt draws won"))


def draws_won(found: dict[str, Any]) -> str:
    """Share of the random wordings in which the label shown has the highest p: near 50 %, the words decide."""
    if not found["label"] or not found["spread"]:
        return ""
    competing = [name for name, context in zip(found["classes"], found["context"], strict=True) if not context]
    return f"{found['spread']['wins'][competing.index(found['label'])]:.0%}"
