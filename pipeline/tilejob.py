"""One slide to tile images: open, find tissue, read tiles, write them with their coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.files import storage_errors
from pipeline.config import RunConfig
from pipeline.filecheck import FileCheck, check_file
from pipeline.geojson import TileLayer, tile_features, write_geojson
from pipeline.ledger import DONE, NO_TISSUE, REUSED, Outcome
from pipeline.manifest import SlideEntry
from pipeline.notes import assumed_mpp
from pipeline.output import OutputFolder, SlideFolder, write_csv
from pipeline.slidejob import SlideJob, Watcher, ended
from pipeline.tileimages import ImageConfig, ImageSink, image_sink
from pipeline.tilerecord import TileRecord, sizes, wanted_tiles
from pipeline.tissuefiles import WantedTissue, source_note, wanted_tissue
from pipeline.tissueout import unused_edits
from tiling.grid import READ_FAILED, READ_PADDED, TileBatch, TileGrid
from tiling.quality import drop_mask, raised_flags
from tiling.supervised import Preparation, PreparedSlide
from wsi.wording import number_of

COLUMNS = ("x", "y", "size", "tissue")  # and "flags" where asked for, "status" where pixels were read, "file" of images
_BATCH = 64  # tiles
_BATCH_BYTES = 16 * 2**20  # of their pixels, for large tiles
_THUMBNAIL_PX = 256  # is asked for and shows whether the slide is brightfield
_STATUS = {READ_PADDED: "padded", READ_FAILED: "unreadable"}


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What reading told of all tiles."""

    status: NDArray[np.uint8]  # (N,)
    flags: NDArray[np.uint8]  # (N,) see `tiling.quality`

    @classmethod
    def joined(cls, parts: list[_Seen]) -> _Seen:
        none = [np.zeros(0, np.uint8)]  # for a slide without tiles
        return cls(np.concatenate(none + [p.status for p in parts]), np.concatenate(none + [p.flags for p in parts]))


@dataclass(frozen=True, slots=True)
class TileTask:
    """What a worker needs to know to write the tiles of one slide."""

    entry: SlideEntry
    out: Path
    config: RunConfig
    images: ImageConfig

    @property
    def folder(self) -> SlideFolder:
        return OutputFolder(self.out).slide(self.entry.id)


def save_tiles(task: TileTask, watcher: Watcher | None = None) -> Outcome:
    """Does one slide and says how it ended; never raises but for an interrupt (see `pipeline.slidejob.ended`)."""
    return ended(_TileJob, task, watcher)


class _TileJob(SlideJob):
    def run(self) -> Outcome:
        entry, config, images = self.task.entry, self.task.config, self.task.images
        self.stage = "tissue"
        tissue = wanted_tissue(entry, config, None, self.reader)
        self.drawn = tissue.file is not None
        self.stage = "reuse"
        wanted = wanted_tiles(entry, config, tissue.identity, images)
        found = TileRecord.read(self.task.folder)
        if found is not None and not (found.stands(wanted, entry, self.task.folder) and self._is_readable(found)):
            found = None
        checked = FileCheck() if found is None else check_file(found.facts, entry)
        found = None if checked.problem else found
        record = found or self._made(tissue, wanted)
        self.tiles, self.unreadable, self.read_by = record.tiles, record.unreadable, record.facts.read_by
        self.notes = (*record.warnings, *assumed_mpp(record.mpp_if_missing), *checked.notes, *source_note(entry))
        self.notes += () if self.drawn else unused_edits(entry, self.task.folder)
        if not record.tiles:
            return self.outcome(NO_TISSUE)
        return self.outcome(REUSED if found else DONE)

    def _is_readable(self, record: TileRecord) -> bool:
        return record.unreadable <= self.task.config.reader.max_unreadable * record.tiles

    def _made(self, tissue: WantedTissue, wanted: dict[str, object]) -> TileRecord:
        entry, config, folder = self.task.entry, self.task.config, self.folder
        self.stage = "open"
        facts = self.reader.open(entry.path, entry.mpp, entry.mpp_if_missing)
        self.stage = "tissue"
        prepared = self.reader.prepare(Preparation(config.tissue, config.tile, _THUMBNAIL_PX, tissue.file))
        self.tiles = len(prepared.grid)
        with storage_errors(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        self.stage = "tiles"
        self.watcher.slide_started(entry.name, self.tiles)
        seen = self._read(prepared.grid) if self.task.images.save or config.tile.quality else None
        if seen is None:
            self.watcher.tiles_done(self.tiles, 1.0)
        self.check_claim()
        self.stage = "coordinates"
        written, notes = self._coordinates(prepared, seen)
        record = TileRecord(
            wanted,
            facts.known_mpp if facts.mpp_given and entry.mpp is None else None,
            facts,
            self.tiles,
            self.unreadable,
            sizes(folder, written),
            (*facts.warnings, *prepared.notes, *notes),
        )
        record.write(folder)
        return record

    def _read(self, grid: TileGrid) -> _Seen:
        """Reads every tile, and writes the image of each that can be decoded and is not dropped, where asked for."""
        seen: list[_Seen] = []
        batch_size = max(1, min(_BATCH, _BATCH_BYTES // (3 * grid.spec.size_px**2)))
        with self._sink() as sink, ThreadPoolExecutor(self.task.config.reader.threads) as pool:
            if not self.tiles:
                return _Seen.joined([])
            with closing(self.reader.tiles(batch_size)) as batches:
                done = 0
                for batch in batches:
                    self._write(batch, grid, sink, pool)
                    seen.append(_Seen(np.array(batch.status), np.array(batch.flags)))
                    self.check_unreadable(self.unreadable + int((batch.status == READ_FAILED).sum()))
                    done += len(batch)
                    self.watcher.tiles_done(len(batch), done / self.tiles)
        return _Seen.joined(seen)

    @contextmanager
    def _sink(self) -> Iterator[ImageSink | None]:
        if not self.task.images.save:
            yield None
            return
        sink = image_sink(self.task.folder.path, self.task.entry.id, self.task.images)
        try:
            yield sink
            self.check_claim()
            sink.finish()
        except BaseException:  # also an interrupt: nothing half-written stays
            sink.give_up()
            raise

    def _write(self, batch: TileBatch, grid: TileGrid, sink: ImageSink | None, pool: ThreadPoolExecutor) -> None:
        if sink is None:
            return
        kept = np.flatnonzero((batch.status != READ_FAILED) & ~self._dropped(batch.flags))
        images = pool.map(self.task.images.encoded, batch.pixels[kept])
        for cell, data in zip(batch.cells[kept].tolist(), images, strict=True):
            sink.add(self.task.images.name(self.task.entry.id, grid.region(cell)), data)

    def _dropped(self, flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.asarray(flags & drop_mask(self.task.images.drop) > 0)

    def _coordinates(self, prepared: PreparedSlide, seen: _Seen | None) -> tuple[list[str], tuple[str, ...]]:
        """The CSV and the GeoJSON; names of all that was written for the slide, and what there is to tell."""
        slide_id, folder, grid = self.task.entry.id, self.task.folder.path, prepared.grid
        table = f"{slide_id}.csv"
        further = {"flags": grid.spec.quality, "status": seen is not None, "file": self.task.images.save}
        columns = *COLUMNS, *(name for name, there in further.items() if there)
        write_csv(folder / table, columns, self._rows(grid, seen))
        written, notes = [table], []
        if self.task.images.save:
            written.append(self.task.images.home(slide_id))
        if self.unreadable:
            lost = number_of(self.unreadable, "tile")
            notes.append(f"{lost} cannot be decoded, hence not written; {table} tells which.")
        if seen is not None and (left_out := int(self._dropped(seen.flags).sum())):
            notes.append(f"{left_out} of {self.tiles} tiles are dropped for their quality; {table} tells which.")
        limit = self.task.config.pictures.geojson_top
        if self.tiles > limit:
            notes.append(f"No GeoJSON: {self.tiles} tiles are more than QuPath likes (pictures.geojson_top={limit}).")
            (folder / f"{slide_id}.geojson").unlink(missing_ok=True)
        else:
            layer = TileLayer(slide_id, "tiles", grid, {"tissue": grid.tissue_fraction})
            write_geojson(folder / f"{slide_id}.geojson", tile_features(layer, prepared.facts.bounds))
            written.append(f"{slide_id}.geojson")
        return written, tuple(notes)

    def _rows(self, grid: TileGrid, seen: _Seen | None) -> Iterator[dict[str, object]]:
        dropped = None if seen is None else self._dropped(seen.flags)
        for i, region in enumerate(grid.regions(grid.cells)):
            row: dict[str, object] = {"x": region.x, "y": region.y, "size": region.width}
            row["tissue"] = float(grid.tissue_fraction[i])
            if seen is not None and dropped is not None:
                there = seen.status[i] != READ_FAILED and not dropped[i]
                name = self.task.images.name(self.task.entry.id, region) if there else ""
                row |= {"status": _STATUS.get(int(seen.status[i]), "ok"), "file": name}
                row["flags"] = " ".join(raised_flags(int(seen.flags[i])))
            yield row
