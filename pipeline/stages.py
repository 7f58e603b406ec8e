"""One slide, from file to record: open, find tissue, encode, write. The only place that catches all errors."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from features import FeatureGrid, GridWriter, encode_tiles, load_encoder
from features.extraction import whole_blocks
from features.header import GridHeader
from features.spec import Encoder
from features.writer import clear_leftovers
from heads.prompts import PromptSet
from pipeline.config import RunConfig
from pipeline.crops import cut_crops
from pipeline.ledger import CRASHED, DONE, NO_TISSUE, REFUSED, REUSED, STOPPED, Outcome
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import write_overview
from pipeline.record import SlideRecord, grid_record, reuse_problem
from pipeline.zeroshot import Scorer, score_slide
from tiling.grid import READ_FAILED, READ_PADDED
from tiling.supervised import Preparation, PreparedSlide, ReaderConfig, ReaderProcess
from wsi.errors import ArtefactError, SetupError, SlideUnreadable, ToolkitError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from features.manifest import ChunkRecord


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


@functools.lru_cache(maxsize=1)
def reader_for(config: ReaderConfig) -> ReaderProcess:
    """The supervised reader of this process: it serves slide after slide and ends with the process."""
    return ReaderProcess(config)


def run_slide(task: SlideTask, watcher: Watcher | None = None) -> Outcome:
    """Does one slide and says how it ended; never raises but for an interrupt.

    A ToolkitError of the slide refuses it; one of the machine (disk, weights) is `stopped`, which ends the run;
    anything else is our bug: `crashed`, with the traceback.
    """
    job = _Job(task, watcher or _Nobody())
    started = time.monotonic()
    try:
        outcome = job.run()
    except SetupError as error:
        outcome = job.outcome(STOPPED, error=error)
    except ToolkitError as error:
        outcome = job.outcome(REFUSED, error=error)
    except Exception:  # the one broad catch: a slide of thousands must not end the night's run
        outcome = replace(job.outcome(CRASHED), code="bug", detail=traceback.format_exc(), hint="Please report this.")
    return replace(outcome, seconds=round(time.monotonic() - started, 3))


class _Job:
    """The stages of one slide; `stage` says where it is, for the outcome of a failure."""

    def __init__(self, task: SlideTask, watcher: Watcher) -> None:
        self.task, self.watcher = task, watcher
        self.folder = task.folder
        self.stage = "encoder"
        self.seconds: dict[str, float] = {}
        self.tiles = self.unreadable = 0
        self.notes: tuple[str, ...] = ()

    def run(self) -> Outcome:
        encoder = encoder_for(self.task.config)
        self.stage = "reuse"
        reused = self._reusable(encoder)
        record = reused or self._extract(encoder)
        self.tiles, self.unreadable, self.notes = record.grid.tiles, record.grid.unreadable, record.warnings
        if self.task.prompts is not None and record.grid.tiles:
            self.stage = "zeroshot"
            score_slide(self.folder, record, scorer_for(self.task.config, self.task.prompts), self.task.config.pictures)
            self.stage = "pictures"
            grid = FeatureGrid.open(self.folder.features / record.current).grid
            cut_crops(self.folder, record, grid, reader_for(self.task.config.reader))
        if not record.grid.tiles:
            return self.outcome(NO_TISSUE)
        return self.outcome(REUSED if reused else DONE)

    def outcome(self, status: str, error: ToolkitError | None = None) -> Outcome:
        entry = self.task.entry
        ended = Outcome(
            entry.id, entry.name, status, self.stage, tiles=self.tiles, unreadable=self.unreadable, notes=self.notes
        )
        return replace(ended, code=error.code, detail=error.message, hint=error.hint) if error else ended

    def _reusable(self, encoder: Encoder) -> SlideRecord | None:
        """The finished record of this very slide with these very settings, if there is one."""
        try:
            record = SlideRecord.read(self.folder)
            if record is None or reuse_problem(record, self.task.entry, self.task.config, encoder.spec):
                return None
            record = record.showing(encoder.spec, self.task.config)
            path = self.folder.features / record.current
            if FeatureGrid.open(path).verify():
                return None
            clear_leftovers(path)
        except ArtefactError:
            return None  # damaged or of another version: made again
        return record

    def _extract(self, encoder: Encoder) -> SlideRecord:
        config, entry = self.task.config, self.task.entry
        reader = reader_for(config.reader)
        with self._timed("open"):
            facts = reader.open(entry.path, entry.mpp, entry.mpp_if_missing)
        with self._timed("tissue"):
            prepared = reader.prepare(Preparation(config.tissue, config.tile, config.pictures.thumbnail_px))
        header = GridHeader.of(
            facts, prepared.grid, encoder.spec, tissue=config.tissue, slide_id=entry.id, dtype=config.encoder.dtype
        )
        with self._timed("features"):
            files = self._encode(reader, prepared, header, encoder)
        with self._timed("pictures"):
            write_overview(self.folder, prepared)
        status = self._checked_status(header)
        made = replace(
            grid_record(header, prepared.grid, files, self.seconds),
            padded=int((status == READ_PADDED).sum()),
            unreadable=int((status == READ_FAILED).sum()),
        )
        record = SlideRecord.of(entry, config, facts).with_notes(prepared.notes).with_grid(made, self._earlier())
        record.write(self.folder)
        return record

    def _encode(
        self, reader: ReaderProcess, prepared: PreparedSlide, header: GridHeader, encoder: Encoder
    ) -> list[ChunkRecord]:
        """Streams the slide's tiles through the encoder into its grid, from wherever an earlier run was cut off."""
        self.tiles = len(prepared.grid)
        self.watcher.slide_started(self.task.entry.name, self.tiles)
        writer = GridWriter(self.folder.features / header.name, header, prepared.grid)
        done = writer.rows_done
        if done < self.tiles:
            batch_size = whole_blocks(self.task.config.encoder.batch_size)
            for rows in encode_tiles(reader.tiles(batch_size, start=done), encoder):
                writer.append(rows)
                done += len(rows)
                self.watcher.tiles_done(len(rows), done / self.tiles)
        return writer.commit()

    def _checked_status(self, header: GridHeader) -> NDArray[np.uint8]:
        """(N,) how each tile was read. Raises SlideUnreadable where too many were not."""
        status = FeatureGrid.open(self.folder.features / header.name).read_status
        self.unreadable = int((status == READ_FAILED).sum())
        allowed = self.task.config.reader.max_unreadable
        if self.unreadable > allowed * len(status):
            raise SlideUnreadable(
                f"{self.task.entry.path}: {self.unreadable} of {len(status)} tiles cannot be decoded.",
                hint=f"Fetch the file again, or accept it with --set reader.max_unreadable=1 (now {allowed:g}).",
            )
        return status

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
