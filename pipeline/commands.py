"""What the commands do: wishes in, work handed to the other modules, results printed, an exit code out."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import ledger
from pipeline.config import RunConfig, dump_toml, load_config
from pipeline.console import RunConsole, duration, open_console, size, summary, table
from pipeline.executor import DaskExecutor, Executor, SerialExecutor
from pipeline.manifest import SlideEntry, entries_from
from pipeline.output import OutputFolder
from wsi.errors import SetupError, ToolkitError, UsageError

INTERRUPTED = 130


def configured(path: Path | None, settings: list[str] | None, flags: dict[str, Any]) -> RunConfig:
    """Defaults, file, --set, then the command's own flags, each over the one before."""
    from pipeline.config import setting

    said = [setting(key, value) for key, value in flags.items() if value is not None]
    return load_config(path, [*(settings or []), *said])


def chosen_slides(
    slides: list[Path] | None, manifest: Path | None, mpp: float | None, limit: int | None
) -> list[SlideEntry]:
    if not slides and manifest is None:
        raise UsageError("There are no slides to work on.", hint="Give a folder, files, or --manifest slides.csv.")
    return entries_from(slides or [], manifest, mpp)[:limit]


def check_apart(slides: list[Path] | None, out: Path) -> None:
    """Results among the slides would be taken for slides the next time. Raises UsageError."""
    if any(given.is_dir() and given.resolve() == out.resolve() for given in slides or ()):
        raise UsageError(f"{out}: is the folder of the slides.", hint="Choose another output folder with -o.")


def executor(workers: int, scheduler: str) -> Executor:
    if workers and scheduler:
        raise UsageError("--workers and --scheduler exclude each other.", hint="Give one of them.")
    return DaskExecutor(workers=workers, scheduler=scheduler) if workers or scheduler else SerialExecutor()


def run(entries: list[SlideEntry], out: Path, config: RunConfig, where: Executor) -> int:
    """`wsi run`. Returns the exit code."""
    from pipeline.run import Run
    from pipeline.stages import encoder_for
    from pipeline.zeroshot import default_prompts

    console, folder = open_console(), OutputFolder(out)
    folder.prepare()
    prompts = default_prompts(config.zeroshot.prompts, config.encoder.name)
    if not encoder_for(config).spec.has_text:
        refuse_prompts(config)
        prompts = None
    job = Run(tuple(entries), folder, config, prompts)
    started = time.monotonic()
    try:
        with terminable(), RunConsole(console, len(entries)) as watcher:
            outcomes = job.outcomes(where, watcher)
    except KeyboardInterrupt:
        console.print("Interrupted. What is finished is kept: the same command continues.")
        return INTERRUPTED
    report(out, quiet=True)
    show_scores(console, folder)
    console.print(summary(outcomes, time.monotonic() - started))
    console.print(f"report: {folder.report}")
    return ledger.exit_code(outcomes)


def refuse_prompts(config: RunConfig) -> None:
    """For an encoder without a text tower: nothing is scored, and a wish for prompts is refused."""
    if config.zeroshot.prompts not in ("", "none"):
        raise UsageError(
            f"The encoder {config.encoder.name} knows no words, so it cannot be asked for {config.zeroshot.prompts}.",
            hint="Leave --prompts out, or choose an encoder with a text tower, such as plip.",
        )


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, as schedulers send it, ends a run the way Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_scores(console: Console, folder: OutputFolder) -> None:
    """The zero-shot table, if anything was scored."""
    scored = [(f.id, z) for f in folder.slides() if (z := f.zeroshot()) is not None]
    if not scored:
        return
    rows = []
    for slide_id, found in scored:
        p = dict(zip(found["classes"], found["pooled"][found["label_pooling"]]["p"], strict=False))
        label = found["label"] or "none shown"
        rows.append((slide_id, found["tiles"], label, f"{p[label]:.2f}" if label in p else ""))
    title = f"zero-shot, prompts: {scored[0][1]['prompts']} (research use only, not a diagnosis)"
    console.print(table(title, ("slide", "tiles", "label", "p"), rows, right=("tiles", "p")))


def plan(entries: list[SlideEntry], out: Path, config: RunConfig) -> int:
    """`wsi plan`. 0 if every slide can be done, 3 or 4 as a run would end."""
    from pipeline.plan import PROBLEM, TO_DO, estimate, outliers, plan_slides

    console = open_console()
    planned = []
    with console.status("looking at the slides") as status:
        for slide in plan_slides(entries, OutputFolder(out), config):
            planned.append(slide)
            status.update(f"looking at the slides: {len(planned)} of {len(entries)}")
        cost = estimate(planned, out, config)
    rows = [
        (
            p.entry.name,
            p.state,
            "" if p.state == PROBLEM else p.tiles,
            f"{p.mpp:.4g}" if p.mpp else "",
            " ".join([p.reason, *p.warnings]),
        )
        for p in planned
    ]
    console.print(table("", ("slide", "state", "tiles", "mpp", "why, and what to know"), rows, right=("tiles", "mpp")))
    todo, wrong = [p for p in planned if p.state == TO_DO], [p for p in planned if p.state == PROBLEM]
    cached = len(planned) - len(todo) - len(wrong)
    console.print(f"{len(planned)} slides: {cached} cached, {len(todo)} to do, {len(wrong)} refused")
    console.print(f"to do: {cost.tiles} tiles, about {size(cost.bytes)} on disk ({size(cost.free_bytes)} free)")
    if cost.seconds is not None and cost.tiles_per_second:
        console.print(
            f"about {duration(cost.seconds)} at {cost.tiles_per_second:.0f} tiles/s "
            "(the encoder, measured here; reading runs beside it)"
        )
    elif cost.encoder_problem:
        console.print(f"no estimate of time: {cost.encoder_problem}")
    for sentence in outliers(planned):
        console.print(f"look at this: {sentence}")
    if cost.bytes > cost.free_bytes:
        raise SetupError(
            f"{out}: the features would not fit on this disk.", hint="Free some space or choose another folder."
        )
    return 0 if not wrong else 4 if len(wrong) == len(planned) else 3


def info(slides: list[Path], mpp: float | None, reader: str) -> int:
    """`wsi info`. 0, or 3 / 4 if some / all slides cannot be opened."""
    from tiling.supervised import ReaderConfig, ReaderProcess

    console = open_console()
    entries, wrong = entries_from(slides), 0
    with ReaderProcess(ReaderConfig(name=reader, timeout_s=60)) as process:
        for entry in entries:
            try:
                facts = process.open(entry.path, None, mpp)
            except ToolkitError as error:
                wrong += 1
                console.print(f"{entry.name}: refused ({error.code}). {error}", style="red")
                continue
            console.print(described(entry.name, facts))
    return 0 if not wrong else 4 if wrong == len(entries) else 3


def described(name: str, facts: Any) -> str:
    """A slide's facts as lines for people."""
    scale = f"{facts.known_mpp:.4g} um/px ({facts.mpp_source})" if facts.known_mpp else "not known: give --mpp"
    levels = ", ".join(f"{w}x{h} ({d:.6g})" for w, h, d in facts.levels)
    lines = [
        name,
        f"  size    {facts.width} x {facts.height} px" + _millimetres(facts),
        f"  mpp     {scale}",
        f"  levels  {len(facts.levels)}: {levels}",
        f"  vendor  {facts.vendor or 'not told'}, read by {facts.reader}",
    ]
    if facts.objective_power:
        lines.append(f"  power   {facts.objective_power:g}x")
    if (facts.bounds.width, facts.bounds.height) != (facts.width, facts.height):
        b = facts.bounds
        lines.append(f"  bounds  {b.width} x {b.height} px at ({b.x}, {b.y})")
    return "\n".join([*lines, *(f"  note    {w}" for w in facts.warnings)])


def _millimetres(facts: Any) -> str:
    if not facts.known_mpp:
        return ""
    return f", {facts.width * facts.known_mpp / 1000:.2f} x {facts.height * facts.known_mpp / 1000:.2f} mm"


def zeroshot(out: Path, prompts: str, settings: list[str] | None) -> int:
    """`wsi zeroshot`: new words over the features that are there."""
    from heads import load_prompts
    from pipeline.config import setting
    from pipeline.rescore import rescore
    from pipeline.tables import write_tables

    console, folder = open_console(), OutputFolder(out).existing()
    config = load_config(folder.config, [*(settings or []), setting("zeroshot.prompts", prompts)])
    started = time.monotonic()
    done, skipped = rescore(folder, config, load_prompts(prompts))
    write_tables(folder)
    report(out, quiet=True)
    show_scores(console, folder)
    for sentence in skipped:
        console.print(sentence, style="red")
    console.print(f"{done} slides in {duration(time.monotonic() - started)}; table: {out / 'zeroshot.csv'}")
    return 0 if not skipped else 3 if done else 4


def heatmap(out: Path, of: str, head: Path | None, slides: list[str] | None) -> int:
    """`wsi heatmap`: the maps of a class or of a head's attention."""
    from pipeline.rescore import draw_attention, draw_class

    console, folder = open_console(), OutputFolder(out).existing()
    config = load_config(folder.config)
    wanted = _wanted_slides(folder, slides)
    made = draw_attention(wanted, head) if head else draw_class(wanted, config, of)
    count = 0
    for path in made:
        console.print(str(path))
        count += 1
    if not count:
        raise UsageError(f"{out}: there is nothing to draw.", hint="Run `wsi run` or `wsi zeroshot` first.")
    return 0


def _wanted_slides(folder: OutputFolder, ids: list[str] | None) -> list[Any]:
    found = {f.id: f for f in folder.slides()}
    unknown = [i for i in ids or () if i not in found]
    if unknown:
        raise UsageError(
            f"{folder.path}: no finished slide {', '.join(unknown)}.", hint=f"There are: {', '.join(found)}."
        )
    return [found[i] for i in ids] if ids else list(found.values())


def report(out: Path, quiet: bool = False) -> int:
    """`wsi report`; tile pictures that are missing are cut from the slides."""
    from pipeline.reporting import make_report
    from tiling.supervised import ReaderProcess

    folder = OutputFolder(out).existing()
    if quiet:
        make_report(folder)
        return 0
    with ReaderProcess(load_config(folder.config).reader) as reader:
        make_report(folder, reader)
    open_console().print(f"report: {folder.report}")
    return 0


def show_config(path: Path | None, settings: list[str] | None) -> None:
    open_console().print(dump_toml(load_config(path, settings or [])), end="")


def doctor(out: Path, encoder: str) -> int:
    """`wsi doctor`: 0 if all is well, 5 if something must be mended first."""
    from pipeline.doctor import examine

    console, bad = open_console(), 0
    for finding in examine(out, encoder):
        sign = {True: "ok  ", False: "MEND", None: "    "}[finding.ok]
        console.print(f"{sign} {finding.what}: {finding.found}{'' if finding.ok else '  ' + finding.hint}".rstrip())
        bad += finding.ok is False
    return 5 if bad else 0


def demo(out: Path, slides: int, seed: int, workers: int) -> int:
    """`wsi demo`."""
    from pipeline.demo import run_demo

    return run_demo(open_console(), out, slides, seed, executor(workers, ""))


def models_list() -> None:
    from features import available_encoders
    from heads import available_prompts

    console = open_console()
    console.print(table("encoders", ("name", "from", "what it is"), available_encoders()))
    console.print(f"\nprompt sets: {', '.join(available_prompts())}; or any TOML/JSON file")


def models_pull(name: str, to: Path) -> None:
    from features.encoders.hub import pull

    folder = pull(name, to)
    open_console().print(f"weights are in {to}: use --weights {folder or to}")
