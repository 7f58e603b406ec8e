"""`wsi plan` and `wsi info`: slides are looked at, nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.console import duration, open_console, size, table
from pipeline.manifest import SlideEntry, entries_from, printable
from pipeline.output import OutputFolder
from pipeline.tissuefiles import source_summary
from wsi.errors import SetupError, ToolkitError
from wsi.wording import number_of


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
            _sentences(p.reason, p.warnings),
        )
        for p in planned
    ]
    console.print(table("", ("slide", "state", "tiles", "mpp", "why, and what to know"), rows, right=("tiles", "mpp")))
    todo, wrong = [p for p in planned if p.state == TO_DO], [p for p in planned if p.state == PROBLEM]
    cached = len(planned) - len(todo) - len(wrong)
    console.print(f"{number_of(len(planned), 'slide')}: {cached} cached, {len(todo)} to do, {len(wrong)} refused")
    if told := source_summary(entries, {p.entry.id: p.drawn for p in planned if p.state != PROBLEM}):
        console.print(told)
    console.print(
        f"to do: {number_of(cost.tiles, 'tile')}, about {size(cost.bytes)} on disk ({size(cost.free_bytes)} free)"
    )
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


def _sentences(reason: str, warnings: tuple[str, ...]) -> str:
    first = f"{reason.removesuffix('.')}." if reason and warnings else reason
    return " ".join(filter(None, [first, *warnings]))


def info(slides: list[str], mpp: float | None, reader: str) -> int:
    """`wsi info`. 0, or 3 / 4 if some / all slides cannot be opened."""
    from tiling.supervised import ReaderConfig, ReaderProcess

    console = open_console()
    entries, wrong = entries_from(slides), 0
    with ReaderProcess(ReaderConfig(name=reader, timeout_s=60)) as process:
        for entry in entries:
            try:
                facts = process.open(entry.path, None, mpp)
            except (ToolkitError, RuntimeError) as error:
                wrong += 1
                code = error.code if isinstance(error, ToolkitError) else "bug"
                console.print(printable(f"{entry.name}: refused ({code}). {error}"), style="red")
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
        f"  vendor  {facts.vendor or 'not told'}, read by {facts.read_by}",
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
