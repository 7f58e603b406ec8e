"""`wsi plan`: what a run would do, from the slides' overviews, and some tiles where stains are normalised."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.extraction import finished_grid
from features.header import GridHeader
from features.spec import Encoder
from pipeline.config import RunConfig
from pipeline.filecheck import FileCheck, check_file
from pipeline.manifest import SlideEntry, printable
from pipeline.notes import assumed_mpp
from pipeline.output import OutputFolder
from pipeline.record import SlideRecord, Wanted, reuse_problem
from pipeline.stages import encoder_for
from pipeline.tissuefiles import WantedTissue, source_note, wanted_tissue
from pipeline.tissueout import unused_edits
from tiling.supervised import Preparation, PreparedSlide, ReaderProcess
from wsi.errors import ArtefactError, SetupError, ToolkitError

CACHED, TO_DO, PROBLEM = "cached", "to do", "refused"
_BYTES_BESIDE = 60_000  # thumbnail, overlay, outlines and records of a slide
_PROBE_TILES = 64


@dataclass(frozen=True, slots=True)
class PlannedSlide:
    """One slide of the plan."""

    entry: SlideEntry
    state: str  # CACHED, TO_DO or PROBLEM
    tiles: int = 0
    mpp: float | None = None
    mpp_source: str = ""
    reason: str = ""  # why it has to be done (again), or what is wrong with it
    warnings: tuple[str, ...] = ()
    drawn: bool = False  # its tissue is as somebody drew it


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the slides still to do will cost."""

    tiles: int
    bytes: int
    free_bytes: int
    tiles_per_second: float | None  # of the encoder on this machine, measured just now; None: it could not be loaded
    encoder_problem: str = ""

    @property
    def seconds(self) -> float | None:
        return self.tiles / self.tiles_per_second if self.tiles_per_second else None


def plan_slides(entries: list[SlideEntry], out: OutputFolder, config: RunConfig) -> Iterator[PlannedSlide]:
    """Looks at every slide: opens it, segments its overview, counts tiles. Encodes nothing and writes nothing."""
    encoder, _ = _encoder(config)
    with ReaderProcess(config.reader) as reader:
        look = _Look(out, config, reader, encoder)
        for entry in entries:
            try:
                yield look.at(entry, _record(out, entry))
            except (ToolkitError, RuntimeError) as error:
                code = error.code if isinstance(error, ToolkitError) else "bug"
                yield PlannedSlide(entry, PROBLEM, reason=printable(f"{code}: {error}"))


def estimate(planned: list[PlannedSlide], out: Path, config: RunConfig) -> Estimate:
    """Bytes, and seconds by a probe of the encoder on tiles of noise; reading runs beside it and is not counted."""
    todo = [p for p in planned if p.state == TO_DO]
    tiles = sum(p.tiles for p in todo)
    encoder, problem = _encoder(config)
    dim = encoder.spec.dim if encoder else 512
    per_tile = dim * np.dtype(config.encoder.dtype).itemsize + 21  # and coordinates, tissue share, status
    existing = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    return Estimate(
        tiles=tiles,
        bytes=tiles * per_tile + len(todo) * _BYTES_BESIDE,
        free_bytes=shutil.disk_usage(existing).free,
        tiles_per_second=_speed(encoder, config) if encoder and tiles else None,
        encoder_problem=problem,
    )


def outliers(planned: list[PlannedSlide]) -> list[str]:
    """Sentences about slides whose mpp is far from all others': one scanner's typing error among hundreds."""
    known = [p for p in planned if p.mpp]
    if len(known) < 5:
        return []
    middle = float(np.median([p.mpp for p in known if p.mpp]))
    return [
        f"{p.entry.name}: mpp {p.mpp:.4g} ({p.mpp_source}), where the cohort's median is {middle:.4g}"
        for p in known
        if p.mpp and not middle / 3 < p.mpp < middle * 3
    ]


@dataclass(frozen=True, slots=True)
class _Look:
    out: OutputFolder
    config: RunConfig
    reader: ReaderProcess
    encoder: Encoder | None

    def at(self, entry: SlideEntry, record: SlideRecord | None) -> PlannedSlide:
        """One slide's plan. Raises what refuses it."""
        tissue = wanted_tissue(entry, self.config, record, self.reader)
        drawn = tissue.file is not None
        reason = "new" if record is None else "encoder not to be had"
        if record is not None and self.encoder is not None:
            reason = reuse_problem(record, Wanted(entry, self.config, tissue.identity, self.encoder.spec))
            checked = FileCheck(reason) if reason else check_file(record.facts, entry)
            reason = checked.problem
            if not reason:
                scale = record.facts.known_mpp, record.facts.mpp_source
                notes = (*assumed_mpp(record.fallback_mpp), *checked.notes, *self._notes(entry, drawn))
                return PlannedSlide(entry, CACHED, record.grid.tiles, *scale, warnings=notes, drawn=drawn)
        facts = self.reader.open(entry.path, entry.mpp, entry.mpp_if_missing)
        prepared = self.reader.prepare(Preparation(self.config.tissue, self.config.tile, 256, tissue.file))
        assumed = facts.known_mpp if facts.mpp_given and entry.mpp is None else None
        notes = (*facts.warnings, *assumed_mpp(assumed), *prepared.notes, *self._notes(entry, drawn))
        planned = PlannedSlide(entry, TO_DO, len(prepared.grid), facts.mpp, facts.mpp_source, reason, notes, drawn)
        if self._is_encoded(entry, tissue, prepared):
            return replace(planned, state=CACHED, reason=f"{reason}; its features are there already")
        return planned

    def _notes(self, entry: SlideEntry, drawn: bool) -> tuple[str, ...]:
        return source_note(entry) + (() if drawn else unused_edits(entry, self.out.slide(entry.id)))

    def _is_encoded(self, entry: SlideEntry, tissue: WantedTissue, prepared: PreparedSlide) -> bool:
        """Whether features of the very same making lie there: settings went away and come back."""
        if self.encoder is None:
            return False
        header = GridHeader.of(
            prepared.facts,
            prepared.grid,
            self.encoder.spec,
            tissue=tissue.identity,
            slide_id=entry.id,
            dtype=self.config.encoder.dtype,
        )
        path = self.out.slide(entry.id).features / header.name
        return finished_grid(path, header, prepared.grid) is not None


def _record(out: OutputFolder, entry: SlideEntry) -> SlideRecord | None:
    try:
        return SlideRecord.read(out.slide(entry.id))
    except ArtefactError:
        return None


def _encoder(config: RunConfig) -> tuple[Encoder | None, str]:
    try:
        return encoder_for(config), ""
    except SetupError as error:
        return None, str(error)


def _speed(encoder: Encoder, config: RunConfig) -> float:
    size = config.tile.size_px
    tiles = np.random.default_rng(0).integers(0, 256, (_PROBE_TILES, size, size, 3), np.uint8)
    encoder.encode_images(tiles[:32])  # the first call allocates and compiles
    started = time.perf_counter()
    encoder.encode_images(tiles)
    return _PROBE_TILES / (time.perf_counter() - started)
