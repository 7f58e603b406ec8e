"""One slide, from file to record: open, find tissue, encode, write."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features import FeatureGrid, GridWriter, encode_tiles, load_encoder
from features.extraction import finished_grid, whole_blocks
from features.header import GridHeader
from features.spec import Encoder
from features.writer import clear_leftovers
from heads.bag import kept_rows
from heads.prompts import PromptSet
from pipeline.config import RunConfig
from pipeline.crops import cut_crops
from pipeline.filecheck import FileCheck, check_file
from pipeline.lanes import Turns
from pipeline.ledger import DONE, NO_TISSUE, REUSED, Outcome
from pipeline.manifest import SlideEntry
from pipeline.notes import KEPT, assumed_mpp
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import write_overview
from pipeline.record import SlideRecord, Wanted, grid_record, picture_digests, reuse_problem
from pipeline.slidehash import FULL, SlideHash, rehashed
from pipeline.slidejob import SlideJob, Watcher, ended
from pipeline.tissuefiles import WantedTissue, source_note, wanted_tissue
from pipeline.tissueout import edit_note, unused_edits, write_tissue
from pipeline.zeroshot import Scorer, nothing_left, score_slide
from tiling.grid import READ_FAILED
from tiling.supervised import Preparation, PreparedSlide, ReaderProcess
from wsi.errors import ArtefactError, SlideError
from wsi.facts import SlideFacts
from wsi.location import located

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SlideTask:
    """What a worker needs to know to do one slide. Small, plain, and the same for every executor."""

    entry: SlideEntry
    out: Path
    config: RunConfig
    prompts: PromptSet | None  # None: no zero-shot

    @property
    def folder(self) -> SlideFolder:
        return OutputFolder(self.out).slide(self.entry.id)


_LOADING = threading.RLock()  # slides that begin together in one process ask for the encoder together
_TURNS, _NUMBERS = Turns(), itertools.count()


def encoder_for(config: RunConfig) -> Encoder:
    """The run's encoder, loaded once per process."""
    with _LOADING:
        return _encoder(config)


@functools.lru_cache(maxsize=2)
def _encoder(config: RunConfig) -> Encoder:
    wanted = config.encoder
    return load_encoder(
        wanted.name,
        weights=wanted.weights,
        device=config.device,
        precision=wanted.precision,
        untrained=wanted.untrained,
    )


def scorer_for(config: RunConfig, prompts: PromptSet) -> Scorer:
    """The prompts' embeddings in the run's encoder, made once per process."""
    with _LOADING:
        return _scorer(config, prompts)


@functools.lru_cache(maxsize=2)
def _scorer(config: RunConfig, prompts: PromptSet) -> Scorer:
    return Scorer.of(prompts, encoder_for(config), config.zeroshot)


def run_slide(task: SlideTask, watcher: Watcher | None = None) -> Outcome:
    """Does one slide and says how it ended; never raises but for an interrupt (see `pipeline.slidejob.ended`)."""
    return ended(_Job, task, watcher)


@dataclass(frozen=True, slots=True)
class _InTurn:
    """The process' encoder, for one of the slides that share it."""

    encoder: Encoder
    number: int  # of the slide, in the order of their beginning

    def encode_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with _TURNS.turn(self.number):
            return self.encoder.encode_images(pixels)


class _Job(SlideJob):
    def __init__(self, task: SlideTask, reader: ReaderProcess, watcher: Watcher) -> None:
        super().__init__(task, reader, watcher)
        self.stage = "encoder"
        self.seconds: dict[str, float] = {}
        self.number = next(_NUMBERS)
        self.checked = FileCheck()
        self.kept: tuple[str, ...] = ()

    def run(self) -> Outcome:
        encoder = encoder_for(self.task.config)
        self.stage, earlier = "tissue", self._earlier()
        if earlier is not None and self.task.config.reader.hash == FULL:
            earlier = rehashed(earlier, self.task.entry, self.task.config.reader.timeout_s)
        tissue = wanted_tissue(self.task.entry, self.task.config, earlier, self.reader)
        self.drawn = tissue.file is not None
        self.stage = "reuse"
        reused = self._reusable(earlier, Wanted(self.task.entry, self.task.config, tissue.identity, encoder.spec))
        record = reused or self._extract(encoder, tissue, earlier)
        self.tiles, self.unreadable = record.grid.tiles, record.grid.unreadable
        self.notes = (*record.warnings, *assumed_mpp(record.fallback_mpp), *self.checked.notes, *self.kept)
        self.notes += source_note(self.task.entry)
        if reused and self.task.entry.tissue is None:
            self.notes += edit_note(self.folder, reused)
        if not self.drawn:
            self.notes += unused_edits(self.task.entry, self.folder)
        self.read_by = record.facts.read_by
        if self.task.prompts is not None and record.grid.tiles:
            self.stage = "zeroshot"
            score_slide(self.folder, record, scorer_for(self.task.config, self.task.prompts), self.task.config.pictures)
            self.stage = "pictures"
            grid = FeatureGrid.open(self.folder.features / record.current)
            drop = self.task.config.zeroshot.drop
            if drop and not kept_rows(grid, drop).any():
                self.notes = (*self.notes, f"{self.task.entry.name}: {nothing_left(len(grid), drop)}.")
            with suppress(SlideError) if self.checked.notes else nullcontext():
                cut_crops(self.folder, record, grid.grid, self.reader, where=self.task.entry.path)
        if not record.grid.tiles:
            return self.outcome(NO_TISSUE)
        return self.outcome(REUSED if reused else DONE)

    def _reusable(self, record: SlideRecord | None, wanted: Wanted) -> SlideRecord | None:
        """The finished record of this very slide with these very settings, if it is one and all of it is whole."""
        if record is None or reuse_problem(record, wanted):
            return None
        checked = check_file(record.facts, self.task.entry)
        if checked.problem:
            return None
        try:
            grid = FeatureGrid.open(self.folder.features / record.current)
            if not record.describes(grid) or grid.verify() or not record.pictures_stand(self.folder):
                return None
        except ArtefactError:
            return None  # damaged or of another version: made again
        self.check_claim()  # verifying takes its time
        clear_leftovers(grid.path)
        self.checked = checked
        asked = record.asked_by(self.task.entry)
        if asked != self._earlier():
            asked.write(self.folder)  # the same slide under another path, patient or label, or its bytes known now
        return asked

    def _extract(self, encoder: Encoder, tissue: WantedTissue, earlier: SlideRecord | None) -> SlideRecord:
        config, entry = self.task.config, self.task.entry
        with self._timed("open"):
            facts = self.reader.open(entry.path, entry.mpp, entry.mpp_if_missing)
        with self._timed("tissue"):
            wanted = Preparation(config.tissue, config.tile, config.pictures.thumbnail_px, tissue.file)
            prepared = self.reader.prepare(wanted)
        header = GridHeader.of(
            facts, prepared.grid, encoder.spec, tissue=tissue.identity, slide_id=entry.id, dtype=config.encoder.dtype
        )
        with self._timed("features"), self._hashing(facts, earlier) as sha256:
            kept = self._finished(header, prepared)
            grid = kept or self._encoded(header, prepared, encoder)
            self.kept = (KEPT,) if kept and self.tiles else ()
            bytes_known = sha256()
        self.check_unreadable(int((grid.read_status == READ_FAILED).sum()))
        with self._timed("pictures"):
            write_overview(self.folder, prepared)
            left, aside = write_tissue(self.folder, prepared, tissue, earlier)
        drawn = picture_digests(self.folder)
        record = replace(SlideRecord.of(entry, config, facts), tissue=left, pictures=drawn, sha256=bytes_known)
        record = record.with_notes((*prepared.notes, *aside))
        record = record.with_grid(grid_record(grid, self.seconds), earlier)
        record.write(self.folder)
        return record

    def _finished(self, header: GridHeader, prepared: PreparedSlide) -> FeatureGrid | None:
        """A whole grid of the same making that is there already: settings went away and came back."""
        self.tiles = len(prepared.grid)
        found = finished_grid(self.folder.features / header.name, header, prepared.grid)
        if found is not None:
            clear_leftovers(found.path)
        return found

    def _encoded(self, header: GridHeader, prepared: PreparedSlide, encoder: Encoder) -> FeatureGrid:
        """Streams the slide's tiles through the encoder into its grid, from wherever an earlier run was cut off."""
        self.watcher.slide_started(self.task.entry.name, self.tiles)
        path = self.folder.features / header.name
        writer = GridWriter(path, header, prepared.grid)
        done = writer.rows_done
        if done < self.tiles:
            batch_size = whole_blocks(self.task.config.encoder.batch_size)
            with closing(self.reader.tiles(batch_size, start=done)) as tiles:
                for rows in encode_tiles(tiles, _InTurn(encoder, self.number)):
                    writer.append(rows)
                    done += len(rows)
                    # At once: a file whose tail is missing would keep the encoder busy with black tiles for hours.
                    self.check_unreadable(self.unreadable + int((rows.status == READ_FAILED).sum()))
                    self.watcher.tiles_done(len(rows), done / self.tiles)
        writer.commit()
        return FeatureGrid.open(path)

    def _earlier(self) -> SlideRecord | None:
        try:
            return SlideRecord.read(self.folder)
        except ArtefactError:
            return None

    @contextmanager
    def _hashing(self, facts: SlideFacts, earlier: SlideRecord | None) -> Iterator[Callable[[], dict[str, str]]]:
        """Gives what waits for the digests of the slide's files: as they were at first sight, empty if never asked."""
        reader = self.task.config.reader
        known = earlier.sha256 if earlier is not None and earlier.facts.fingerprint == facts.fingerprint else {}
        if known or reader.hash != FULL:
            yield lambda: known
            return
        with SlideHash([located(f) for f in facts.files], reader.timeout_s) as hashing:
            yield hashing.result

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.check_claim()
        self.stage, started = stage, time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - started
