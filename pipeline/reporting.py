"""From an output folder to its report: reads what is there and fills the page."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from features import FeatureGrid
from features.header import toolkit_version
from pipeline import ledger
from pipeline.console import last_line
from pipeline.crops import crop_path, cut_crops
from pipeline.heatmap import PROBABILITY, RELATIVE, colour_scale, overlay
from pipeline.inforce import InForce
from pipeline.ledger import Outcome
from pipeline.output import OutputFolder, SlideFolder
from pipeline.overlay import Frame, Placement
from pipeline.pictures import HEAD, encoded, read_image, read_values
from pipeline.record import SlideRecord
from pipeline.report import (
    ClassScore,
    Counts,
    Failure,
    Heatmap,
    Link,
    RunReport,
    SlideReport,
    Tile,
    TileExtremes,
    write_report,
)
from tiling.supervised import ReaderProcess
from wsi.errors import ToolkitError

Scores = dict[str, Any]  # of one slide, as zeroshot.json has them

_PACKAGES = ("torch", "open_clip_torch", "zarr", "dask", "openslide-python", "tiffslide", "scikit-image", "numpy")


def make_report(out: OutputFolder, reader: ReaderProcess | None = None) -> None:
    """Writes OUT/report.html. With a `reader`, tile pictures that are missing are cut from the slides."""
    outcomes, in_force = ledger.last_outcomes(out.ledger), InForce.of(out)
    slides = [_slide(out.slide(i), o, in_force, reader) for i, o in sorted(outcomes.items(), key=lambda kv: kv[1].name)]
    grids = [g for s in outcomes for g in _grids(out.slide(s))]
    write_report(
        out.report,
        RunReport(
            title=f"{len(slides)} slides: {out.path.resolve().name}",
            slides=slides,
            facts=tuple(_run_facts(grids)),
            untrained=any(g.encoder.untrained for g in grids),
            domain=next((g.encoder.domain for g in grids if g.encoder.domain), ""),
            provenance=tuple(_provenance(grids)),
            settings_toml=out.config.read_text(encoding="utf-8"),
            command=shlex.join(["wsi", *_last_command(out)]),
        ),
    )


def _slide(folder: SlideFolder, outcome: Outcome, in_force: InForce, reader: ReaderProcess | None) -> SlideReport:
    """One slide's section; a part that cannot be read is left out with a warning, the others stay."""
    shown = SlideReport(slide_id=folder.id, status=outcome.status)  # type: ignore[arg-type]
    if not outcome.good:
        return replace(shown, failure=Failure(outcome.code, last_line(outcome.detail), outcome.hint))
    warnings: list[str] = []
    record = _tried(lambda: SlideRecord.read(folder), warnings)
    if record is None:
        return replace(shown, warnings=("Its record is gone or damaged: run again.", *warnings))
    found = in_force.scores(folder, record)
    parts: list[Callable[[], dict[str, Any]]] = [
        lambda: _described(record, folder, found),
        lambda: _scored(found) if found else {"no_label_because": _unscored(record, folder, in_force)},
        lambda: {"heatmaps": tuple(_heatmaps(folder, record, in_force))},
        lambda: {"tiles": _extremes(folder, record, found, reader) if found else None},
    ]
    for part in parts:
        shown = replace(shown, **(_tried(part, warnings) or {}))
    return replace(shown, warnings=(*record.warnings, *warnings))


Part = TypeVar("Part")


def _tried(part: Callable[[], Part], warnings: list[str]) -> Part | None:
    try:
        return part()
    except (ToolkitError, OSError, ValueError, KeyError) as error:
        warnings.append(f"Not all of this slide can be shown: {error}")
        return None


def _described(record: SlideRecord, folder: SlideFolder, found: Scores | None) -> dict[str, Any]:
    facts, grid = record.facts, record.grid
    names = {k: v for k, v in (("patient", record.patient), *record.labels.items()) if v}
    links = [("tissue (GeoJSON)", folder.tissue), ("features (Zarr)", folder.features / record.current)]
    if found and found["heatmaps"]:  # written with them
        links.append(("tiles (GeoJSON for QuPath)", folder.heatmaps / "zeroshot.geojson"))
    root = folder.path.parent.parent
    return {
        "facts": (
            ("slide", record.name),
            ("size", f"{facts.width} x {facts.height} px"),
            ("mpp", f"{facts.mpp:.4g} um ({facts.mpp_source})"),
            ("reader", f"{facts.reader}, {facts.vendor or 'vendor not told'}"),
            ("levels", ", ".join(f"{d:.4g}" for _, _, d in facts.levels)),
            ("tissue", f"{grid.tissue_mm2:.2f} mm2"),
            *names.items(),
        ),
        "counts": Counts(grid.tiles, grid.padded, grid.unreadable),
        "seconds": tuple(grid.seconds.items()),
        "overview": folder.overlay,
        "width_um": facts.bounds.width * facts.mpp,
        "links": tuple(Link(text, p.relative_to(root).as_posix()) for text, p in links if p.exists()),
    }


def _unscored(record: SlideRecord, folder: SlideFolder, in_force: InForce) -> str:
    if not record.grid.tiles:
        return "no tissue was found"
    if in_force.words and folder.scored:
        return "it was scored with other prompts, settings or features: run it again, or wsi zeroshot over all"
    return "no prompts were scored"


def _scored(found: Scores) -> dict[str, Any]:
    return {
        "scores": tuple(_class_scores(found)),
        "scores_from": f"{found['label_reason']}; prompts {found['prompts']}",
        "label": found["label"],
        "no_label_because": "" if found["label"] else found["label_reason"],
    }


def _heatmaps(folder: SlideFolder, record: SlideRecord, in_force: InForce) -> Iterator[Heatmap]:
    """Maps of the prompts in force and of heads, drawn without the frame that their files have."""
    if not record.grid.tiles:
        return
    grid = FeatureGrid.open(folder.features / record.current).grid
    thumbnail = read_image(folder.thumbnail)
    placement = Placement(grid, Frame.of(record.facts.bounds, thumbnail))
    for drawn in in_force.maps(folder, record):
        style, values = RELATIVE if drawn.source.startswith(HEAD) else PROBABILITY, read_values(drawn.picture)
        image = overlay(grid.paint(values), thumbnail, placement, style)
        yield Heatmap(drawn.title, encoded(image, "PNG"), colour_scale(values, style))


def _class_scores(found: Scores) -> Iterator[ClassScore]:
    pooled, spread = found["pooled"][found["label_pooling"]], found["spread"]
    competing = [c for c, context in enumerate(found["context"]) if not context]
    for place, c in enumerate(competing):
        quartiles = (spread["lower"][place], spread["median"][place], spread["upper"][place]) if spread else None
        if pooled["p"]:
            yield ClassScore(found["classes"][c], pooled["p"][c], pooled["similarity"][c], quartiles)


def _extremes(
    folder: SlideFolder, record: SlideRecord, found: Scores, reader: ReaderProcess | None
) -> TileExtremes | None:
    shown, grid = found["tiles_shown"], FeatureGrid.open(folder.features / record.current).grid
    if reader is not None:
        cut_crops(folder, record, grid, reader)

    def end(name: str) -> tuple[Tile, ...]:
        made = [(t, crop_path(folder, record, grid, t["cell"]), grid.region(t["cell"])) for t in shown[name]]
        return tuple(Tile(path, t["score"], region.x, region.y) for t, path, region in made if path.exists())

    top, bottom = end("top"), end("bottom")
    return TileExtremes(shown["score"], top, bottom) if top or bottom else None


def _grids(folder: SlideFolder) -> Iterator[FeatureGrid]:
    try:
        record = SlideRecord.read(folder)
        if record is not None:
            yield FeatureGrid.open(folder.features / record.current)
    except ToolkitError:
        return  # told in the slide's own section


def _run_facts(grids: list[FeatureGrid]) -> Iterator[tuple[str, str]]:
    if grids:
        spec, tile = grids[0].encoder, grids[0].tile_spec
        yield "encoder", f"{spec.name}, {spec.dim}-d, {spec.precision}"
        yield "tile", f"{tile.size_px} px at {tile.mpp:g} um/px ({tile.size_px * tile.mpp:g} um)"


def _provenance(grids: list[FeatureGrid]) -> Iterator[tuple[str, str]]:
    yield "toolkit", toolkit_version()
    yield "python", f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        yield package, importlib.metadata.version(package)
    for sha in sorted({g.encoder.weights_sha256 for g in grids if g.encoder.weights_sha256}):
        yield "weights sha256", sha


def _last_command(out: OutputFolder) -> list[str]:
    runs = [e for e in ledger.events(out.ledger) if e["event"] == "run"]
    return [str(a) for a in runs[-1]["argv"]] if runs else []
