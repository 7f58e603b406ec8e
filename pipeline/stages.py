"""One slide, from file to record: open, find tissue, encode, write. The only place that catches all errors."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from features import FeatureGrid, GridWriter, encode_tiles, load_encoder
from features.extraction import finished_grid, whole_blocks
from features.header import GridHeader
from features.spec import Encoder
from features.writer import clear_leftovers
from heads.bag import kept_rows
from heads.prompts import PromptSet
from pipeline.config import RunConfig
from pipeline.crops import cut_crops
from pipeline.ledger import CRASHED, DONE, NO_TISSUE, REFUSED, REUSED, STOPPED, Outcome
from pipeline.manifest import SlideEntry, printable
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import write_overview
from pipeline.record import SlideRecord, grid_record, reuse_problem
from pipeline.zeroshot import Scorer, nothing_left, score_slide
from tiling.grid import READ_FAILED
from tiling.supervised import Preparation, PreparedSlide, ReaderProcess
from wsi.errors import ArtefactError, SetupError, SlideUnreadable, ToolkitError, UsageError

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


class Watcher(Protocol):
    """Told of progress inside a slide; the serial executor has one, other processes do not."""

    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...


class _Nobody:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...


@functools.lru_cache(maxsize=2)
def encoder_for(config: RunConfig) -> Encoder:
    """The run's encoder, loaded once per process."""
    wanted = config.encoder
    return load_encoder(
        wanted.name,
        weights=wanted.weights,
        device=config.device,
        precision=wanted.precision,
        untrained=wanted.untrained,
    )


@functools.lru_cache(maxsize=2)
def scorer_for(config: RunConfig, prompts: PromptSet) -> Scorer:
    """The prompts' embeddings in the run's encoder, made once per process."""
    return Scorer.of(prompts, encoder_for(config), config.zeroshot)


def run_slide(task: SlideTask, watcher: Watcher | None = None) -> Outcome:
    """Does one slide and says how it ended; never raises but for an interrupt.

    A ToolkitError of the slide refuses it; one of the machine (disk, weights) or of the settings is `stopped`, which
    ends the run; anything else is our bug: `crashed`, with the traceback.
    """
    started = time.monotonic()
    with ReaderProcess(task.config.reader) as reader:
        job = _Job(task, reader, watcher or _Nobody())
        outcome = _outcome(job)
    return replace(outcome, seconds=round(time.monotonic() - started, 3))


def _outcome(job: _Job) -> Outcome:
    try:
        return job.run()
    except (SetupError, UsageError) as error:
        return job.outcome(STOPPED, error=error)
    except ToolkitError as error:
        return job.outcome(REFUSED, error=error)
    except Exception:  # the one broad catch: a slide of thousands must not end the night's run
        told = printable(traceback.format_exc())
        return replace(job.outcome(CRASHED), code="bug", detail=told, hint="Please report this.")


class _Job:
    """The stages of one slide; `stage` says where it is, for the outcome of a failure."""

    def __init__(self, task: SlideTask, reader: ReaderProcess, watcher: Watcher) -> None:
        self.task, self.reader, self.watcher = task, reader, watcher
        self.folder = task.folder
        self.stage = "encoder"
        self.seconds: dict[str, float] = {}
        self.tiles = self.unreadable = 0
        self.notes: tuple[str, ...] = ()
        self.read_by = ""

    def run(self) -> Outcome:
        encoder = encoder_for(self.task.config)
        self.stage = "reuse"
        reused = self._reusable(encoder)
        record = reused or self._extract(encoder)
        self.tiles, self.unreadable, self.notes = record.grid.tiles, record.grid.unreadable, record.warnings
        self.read_by = record.facts.read_by
        if self.task.prompts is not None and record.grid.tiles:
            self.stage = "zeroshot"
            score_slide(self.folder, record, scorer_for(self.task.config, self.task.prompts), self.task.config.pictures)
            self.stage = "pictures"
            grid = FeatureGrid.open(self.folder.features / record.current)
            drop = self.task.config.zeroshot.drop
            if drop and not kept_rows(grid, drop).any():
                self.notes = (*self.notes, f"{self.task.entry.name}: {nothing_left(len(grid), drop)}.")
            cut_crops(self.folder, record, grid.grid, self.reader)
        if not record.grid.tiles:
            return self.outcome(NO_TISSUE)
        return self.outcome(REUSED if reused else DONE)

    def outcome(self, status: str, error: ToolkitError | None = None) -> Outcome:
        entry = self.task.entry
        ended = Outcome(
            entry.id,
            entry.name,
            status,
            self.stage,
            tiles=self.tiles,
            unreadable=self.unreadable,
            notes=self.notes,
            reader=self.read_by,
            patient=entry.patient,
            labels=entry.labels,
        )
        if error is None:
            return ended
        return replace(ended, code=error.code, detail=printable(error.message), hint=printable(error.hint))

    def _reusable(self, encoder: Encoder) -> SlideRecord | None:
        """The finished record of this very slide with these very settings, if there is one and all of it is whole."""
        try:
            record = SlideRecord.read(self.folder)
            if record is None or reuse_problem(record, self.task.entry, self.task.config, encoder.spec):
                return None
            grid = FeatureGrid.open(self.folder.features / record.current)
            if not record.describes(grid) or grid.verify() or not self.folder.pictures_exist:
                return None
        except ArtefactError:
            return None  # damaged or of another version: made again
        clear_leftovers(grid.path)
        asked = record.asked_by(self.task.entry)
        if asked != record:
            asked.write(self.folder)  # the same slide under another path, patient or label
        return asked

    def _extract(self, encoder: Encoder) -> SlideRecord:
        config, entry = self.task.config, self.task.entry
        with self._timed("open"):
            facts = self.reader.open(entry.path, entry.mpp, entry.mpp_if_missing)
        with self._timed("tissue"):
            prepared = self.reader.prepare(Preparation(config.tissue, config.tile, config.pictures.thumbnail_px))
        header = GridHeader.of(
            facts, prepared.grid, encoder.spec, tissue=config.tissue, slide_id=entry.id, dtype=config.encoder.dtype
        )
        with self._timed("features"):
            grid = self._finished(header, prepared) or self._encoded(header, prepared, encoder)
        self._check_unreadable(int((grid.read_status == READ_FAILED).sum()))
        with self._timed("pictures"):
            write_overview(self.folder, prepared)
        made = grid_record(grid, self.seconds)
        record = SlideRecord.of(entry, config, facts).with_notes(prepared.notes).with_grid(made, self._earlier())
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
                for rows in encode_tiles(tiles, encoder):
                    writer.append(rows)
                    done += len(rows)
                    # At once: a file whose tail is missing would keep the encoder busy with black tiles for hours.
                    self._check_unreadable(self.unreadable + int((rows.status == READ_FAILED).sum()))
                    self.watcher.tiles_done(len(rows), done / self.tiles)
        writer.commit()
        return FeatureGrid.open(path)

    def _check_unreadable(self, count: int) -> None:
        """Keeps the count of tiles that could not be decoded; raises SlideUnreadable where there are too many."""
        self.unreadable = count
        allowed = self.task.config.reader.max_unreadable
        if count > allowed * self.tiles:
            raise SlideUnreadable(
                f"{self.task.entry.path}: {count} of {self.tiles} tiles cannot be decoded, and perhaps more.",
                hint=f"Fetch the file again, or accept it with --set reader.max_unreadable=1 (now {allowed:g}).",
            )

    def _earlier(self) -> SlideRecord | None:
        try:
            return SlideRecord.read(self.folder)
        except ArtefactError:
            return None

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.stage, started = stage, time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - started
