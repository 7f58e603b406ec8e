"""From an output folder to its report: reads what is there and fills the page."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from features import FeatureGrid
from features.header import toolkit_version
from pipeline import ledger
from pipeline.console import last_line
from pipeline.crops import crop_path, cut_crops
from pipeline.heatmap import PROBABILITY, RELATIVE, HeatStyle, colour_scale, overlay
from pipeline.ledger import Outcome
from pipeline.output import OutputFolder, SlideFolder
from pipeline.overlay import Frame, Placement
from pipeline.pictures import encoded, read_image, read_values
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

_PACKAGES = ("torch", "open_clip_torch", "zarr", "dask", "openslide-python", "tiffslide", "scikit-image", "numpy")


def make_report(out: OutputFolder, reader: ReaderProcess | None = None) -> None:
    """Writes OUT/report.html. With a `reader`, tile pictures that are missing are cut from the slides."""
    outcomes = ledger.last_outcomes(out.ledger)
    slides = [_slide(out.slide(i), o, reader) for i, o in sorted(outcomes.items(), key=lambda kv: kv[1].name)]
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
            command=" ".join(["wsi", *_last_command(out)]),
        ),
    )


def _slide(folder: SlideFolder, outcome: Outcome, reader: ReaderProcess | None) -> SlideReport:
    """One slide's section; whatever of it cannot be read is left out with a warning, never the whole page."""
    base: dict[str, Any] = {"slide_id": folder.id, "status": outcome.status}
    if not outcome.good:
        return SlideReport(**base, failure=Failure(outcome.code, last_line(outcome.detail), outcome.hint))
    try:
        record = SlideRecord.read(folder)
        if record is None:
            return SlideReport(**base, warnings=("Its record is gone: run again.",))
        return SlideReport(**base, **_described(record, folder), **_scored(record, folder, reader))
    except (ToolkitError, OSError, ValueError, KeyError) as error:
        return SlideReport(**base, warnings=(f"Not all of this slide can be shown: {error}",))


def _described(record: SlideRecord, folder: SlideFolder) -> dict[str, Any]:
    facts, grid = record.facts, record.grid
    names = {f"{k}": v for k, v in (("patient", record.patient), *record.labels.items()) if v}
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
        "warnings": record.warnings,
        "overview": folder.overlay,
        "width_um": facts.bounds.width * facts.mpp,
    }


def _scored(record: SlideRecord, folder: SlideFolder, reader: ReaderProcess | None) -> dict[str, Any]:
    links = [
        Link("tissue (GeoJSON)", str(folder.tissue)),
        Link("features (Zarr)", str(folder.features / record.current)),
    ]
    if not record.grid.tiles:
        return {"links": _below(folder, links), "no_label_because": "no tissue was found"}
    grid = FeatureGrid.open(folder.features / record.current)
    found = folder.zeroshot()
    if found is None or found["grid"] != record.current:
        return {
            "links": _below(folder, links),
            "heatmaps": tuple(_heatmaps(folder, record, grid)),
            "no_label_because": "no prompts were scored",
        }
    layer = folder.heatmaps / "zeroshot.geojson"
    if layer.exists():
        links.append(Link("tiles (GeoJSON for QuPath)", str(layer)))
    return {
        "heatmaps": tuple(_heatmaps(folder, record, grid)),
        "scores": tuple(_class_scores(found)),
        "scores_from": f"{found['label_reason']}; prompts {found['prompts']}",
        "label": found["label"],
        "no_label_because": "" if found["label"] else found["label_reason"],
        "tiles": _extremes(folder, record, grid, reader),
        "links": _below(folder, links),
    }


def _below(folder: SlideFolder, links: list[Link]) -> tuple[Link, ...]:
    root = folder.path.parent.parent
    return tuple(Link(link.text, Path(link.href).relative_to(root).as_posix()) for link in links)


def _heatmaps(folder: SlideFolder, record: SlideRecord, grid: FeatureGrid) -> Iterator[Heatmap]:
    """Every map whose values are kept, drawn without the frame of its file."""
    titles = {m["file"]: m["name"] for m in (folder.zeroshot() or {}).get("heatmaps", [])}
    for picture in sorted(folder.heatmaps.glob("*.png")):
        name = picture.relative_to(folder.path).as_posix()
        attention = picture.stem.startswith("attention-")
        if name not in titles and not attention:
            continue  # of earlier prompts
        values, style = read_values(picture), RELATIVE if attention else PROBABILITY
        title = titles.get(name, picture.stem.replace("-", ": ", 1))
        yield Heatmap(title, _bare(folder, record, grid, values, style), colour_scale(values, style))


def _bare(folder: SlideFolder, record: SlideRecord, grid: FeatureGrid, values: np.ndarray, style: HeatStyle) -> bytes:
    thumbnail = read_image(folder.thumbnail)
    placement = Placement(grid.grid, Frame.of(record.facts.bounds, thumbnail))
    return encoded(overlay(grid.grid.paint(values), thumbnail, placement, style), "PNG")


def _class_scores(found: dict[str, Any]) -> Iterator[ClassScore]:
    pooled, spread = found["pooled"][found["label_pooling"]], found["spread"]
    competing = [c for c, context in enumerate(found["context"]) if not context]
    for place, c in enumerate(competing):
        quartiles = (spread["lower"][place], spread["median"][place], spread["upper"][place]) if spread else None
        if pooled["p"]:
            yield ClassScore(found["classes"][c], pooled["p"][c], pooled["similarity"][c], quartiles)


def _extremes(
    folder: SlideFolder, record: SlideRecord, grid: FeatureGrid, reader: ReaderProcess | None
) -> TileExtremes | None:
    shown = (folder.zeroshot() or {})["tiles_shown"]
    if reader is not None:
        cut_crops(folder, record, grid.grid, reader)
    ends = {}
    for end in ("top", "bottom"):
        made = []
        for tile in shown[end]:
            path = crop_path(folder, grid.grid, tile["cell"])
            region = grid.grid.region(tile["cell"])
            if path.exists():
                made.append(Tile(path, tile["score"], region.x, region.y))
        ends[end] = tuple(made)
    return TileExtremes(shown["score"], **ends) if any(ends.values()) else None


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
