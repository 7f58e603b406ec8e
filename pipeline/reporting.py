"""From an output folder to its report: reads what is there and fills the page."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from features import FeatureGrid
from features.header import toolkit_version
from features.spec import EncoderSpec
from heads.config import CARD
from pipeline import ledger
from pipeline.console import last_line
from pipeline.crops import crop_path, cut_crops
from pipeline.heatmap import HeatStyle, colour_scale, overlay
from pipeline.inforce import InForce
from pipeline.ledger import Outcome
from pipeline.output import OutputFolder, SlideFolder
from pipeline.overlay import Frame, Placement
from pipeline.pictures import read_image, read_values
from pipeline.record import SlideRecord
from pipeline.report import (
    ClassScore,
    Counts,
    Failure,
    HeadLine,
    Heatmap,
    Link,
    RunReport,
    SlideReport,
    Tile,
    TileExtremes,
    write_report,
)
from tiling.grid import TileGrid, TileSpec
from tiling.supervised import ReaderProcess
from wsi.errors import ToolkitError
from wsi.geometry import Region
from wsi.wording import number_of

Scores = dict[str, Any]  # of one slide, as zeroshot.json has them

_PACKAGES = ("torch", "open_clip_torch", "zarr", "dask", "openslide-python", "tiffslide", "scikit-image", "numpy")


def make_report(out: OutputFolder, reader: ReaderProcess | None = None) -> None:
    """Writes OUT/report.html. With a `reader`, tile pictures that are missing are cut from the slides."""
    outcomes = sorted(ledger.last_outcomes(out.ledger).items(), key=lambda kv: kv[1].name)
    gathering = _Gathering(InForce.of(out), reader)
    slides = [gathering.slide(out.slide(slide_id), outcome) for slide_id, outcome in outcomes]
    encoders = list(dict.fromkeys(encoder for encoder, _ in gathering.specs))
    write_report(
        out.report,
        RunReport(
            title=f"{number_of(len(slides), 'slide')}: {out.path.resolve().name}",
            slides=slides,
            heads=tuple(_heads(out)),
            facts=tuple(_run_facts(encoders, list(dict.fromkeys(tile for _, tile in gathering.specs)))),
            untrained=any(e.untrained for e in encoders),
            domain=next((e.domain for e in encoders if e.domain), ""),
            provenance=tuple(_provenance(encoders)),
            settings_toml=out.config.read_text(encoding="utf-8"),
            command=shlex.join(["wsi", *ledger.last_command(out.ledger)]),
        ),
    )


@dataclass(slots=True)
class _Gathering:
    """Slides' sections, made one after another. Of each slide's grid the specs alone are kept, for all have few."""

    in_force: InForce
    reader: ReaderProcess | None
    specs: dict[tuple[EncoderSpec, TileSpec], None] = field(default_factory=dict)  # a set, in the order they came

    def slide(self, folder: SlideFolder, outcome: Outcome) -> SlideReport:
        """One slide's section; a part that cannot be read is left out with a warning, the others stay."""
        shown = SlideReport(slide_id=folder.id, status=outcome.status)  # type: ignore[arg-type]
        if not outcome.good:
            return replace(shown, failure=Failure(outcome.code, last_line(outcome.detail), outcome.hint))
        warnings: list[str] = []
        record = _tried(lambda: SlideRecord.read(folder), warnings)
        if record is None:
            return replace(shown, warnings=("Its record is gone or damaged: run again.", *warnings))
        grid = _tried(lambda: self._grid(folder, record), warnings)
        found = self.in_force.scores(folder, record)
        parts: list[Callable[[], dict[str, Any]]] = [
            lambda: _described(record, folder, found),
            lambda: _scored(found) if found else {"no_label_because": _unscored(record, folder, self.in_force)},
            lambda: {"heatmaps": tuple(_heatmaps(folder, record, self.in_force))},
        ]
        if grid is not None and found:
            parts += [lambda: self._cut(folder, record, grid), lambda: _extremes(folder, record, grid, found)]
        for part in parts:
            shown = replace(shown, **(_tried(part, warnings) or {}))
        return replace(shown, warnings=tuple(dict.fromkeys((*record.warnings, *outcome.notes, *warnings))))

    def _grid(self, folder: SlideFolder, record: SlideRecord) -> TileGrid:
        features = FeatureGrid.open(folder.features / record.current)
        self.specs[features.encoder, features.tile_spec] = None
        return features.grid

    def _cut(self, folder: SlideFolder, record: SlideRecord, grid: TileGrid) -> dict[str, Any]:
        if self.reader is not None:
            cut_crops(folder, record, grid, self.reader)
        return {}


Part = TypeVar("Part")


def _tried(part: Callable[[], Part], warnings: list[str]) -> Part | None:
    try:
        return part()
    except (ToolkitError, OSError, ValueError, KeyError, RuntimeError) as error:  # the last: a bug in the reader
        warnings.append(f"Not all of this slide can be shown: {last_line(str(error))}")
        return None


def _described(record: SlideRecord, folder: SlideFolder, found: Scores | None) -> dict[str, Any]:
    facts, grid = record.facts, record.grid
    names = {k: v for k, v in (("patient", record.patient), *record.labels.items()) if v}
    links = [("tissue (GeoJSON)", folder.tissue), ("features (Zarr)", folder.features / record.current)]
    if found and found["heatmaps"]:  # written with them
        links.append(("tiles (GeoJSON for QuPath)", folder.zeroshot_layer))
    root = folder.path.parent.parent
    return {
        "facts": (
            ("slide", record.name),
            ("size", f"{facts.width} x {facts.height} px"),
            ("mpp", f"{facts.mpp:.4g} um ({facts.mpp_source})"),
            ("reader", f"{facts.read_by}, {facts.vendor or 'vendor not told'}"),
            ("levels", ", ".join(f"{d:.4g}" for _, _, d in facts.levels)),
            ("tissue", f"{grid.tissue_mm2:.2f} mm2"),
            *([("stain normalisation", grid.stain)] if grid.stain not in ("", "none") else []),
            *names.items(),
        ),
        "counts": Counts(grid.tiles, grid.padded, grid.unreadable, tuple((grid.flagged or {}).items())),
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
    """Maps of the prompts in force and of heads."""
    for drawn in in_force.maps(folder, record):
        place = (folder.features / record.current, folder.thumbnail, record.facts.bounds)
        picture = _BareMap(*place, drawn.picture, drawn.style)
        yield Heatmap(drawn.title, picture, colour_scale(read_values(drawn.picture), drawn.style))


@dataclass(frozen=True, slots=True)
class _BareMap:
    """A heatmap without the frame that its file has, drawn from files when it is called."""

    features: Path
    thumbnail: Path
    bounds: Region
    values: Path  # the heatmap's file: its values lie beside it
    style: HeatStyle

    def __call__(self) -> NDArray[np.uint8]:
        """uint8 (h, w, 3). Raises ArtefactError, OSError or ValueError where a file is gone or damaged."""
        grid, thumbnail = FeatureGrid.open(self.features).grid, read_image(self.thumbnail)
        placement = Placement(grid, Frame.of(self.bounds, thumbnail))
        return overlay(grid.paint(read_values(self.values)), thumbnail, placement, self.style)


def _class_scores(found: Scores) -> Iterator[ClassScore]:
    pooled, spread = found["pooled"][found["label_pooling"]], found["spread"]
    competing = [c for c, context in enumerate(found["context"]) if not context]
    for place, c in enumerate(competing):
        quartiles = (spread["lower"][place], spread["median"][place], spread["upper"][place]) if spread else None
        if pooled["p"]:
            yield ClassScore(found["classes"][c], pooled["p"][c], pooled["similarity"][c], quartiles)


def _extremes(folder: SlideFolder, record: SlideRecord, grid: TileGrid, found: Scores) -> dict[str, Any]:
    shown = found["tiles_shown"]

    def end(name: str) -> tuple[Tile, ...]:
        made = [(t, crop_path(folder, record, grid, t["cell"]), grid.region(t["cell"])) for t in shown[name]]
        return tuple(Tile(path, t["score"], region.x, region.y) for t, path, region in made if path.exists())

    top, bottom = end("top"), end("bottom")
    return {"tiles": TileExtremes(shown["score"], top, bottom)} if top or bottom else {}


def _heads(out: OutputFolder) -> Iterator[HeadLine]:
    """Those in OUT/heads, by name; what is no head, or damaged, is told by the commands that use it."""
    for card in sorted(out.path.glob(f"heads/*/{CARD}")):
        from pipeline.headfolder import PAGE, about_of  # and with it PyTorch and scikit-learn, which take two seconds

        told, page = about_of(card), card.parent / PAGE
        if told is not None:
            link = Link(card.parent.name, page.relative_to(out.path).as_posix()) if page.is_file() else None
            yield HeadLine(card.parent.name, *told, link)


def _run_facts(encoders: list[EncoderSpec], tiles: list[TileSpec]) -> Iterator[tuple[str, str]]:
    """Of all slides, one after another where they differ."""
    if encoders:
        yield "encoder", "; ".join(dict.fromkeys(f"{e.name}, {e.dim}-d, {e.precision}" for e in encoders))
        sizes = dict.fromkeys(f"{t.size_px} px at {t.mpp:g} um/px ({t.size_px * t.mpp:g} um)" for t in tiles)
        yield "tile", "; ".join(sizes)
        if any(t.stain != "none" for t in tiles):
            stains = "; ".join(dict.fromkeys(t.stain for t in tiles))
            yield "stain normalisation", f"{stains} (pictures show the slides' own colours)"


def _provenance(encoders: list[EncoderSpec]) -> Iterator[tuple[str, str]]:
    yield "toolkit", toolkit_version()
    yield "python", f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        yield package, importlib.metadata.version(package)
    for sha in sorted({e.weights_sha256 for e in encoders if e.weights_sha256}):
        yield "weights sha256", sha
