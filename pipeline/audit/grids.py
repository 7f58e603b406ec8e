"""The feature grids of one slide, against themselves, its record and the settings in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features import FeatureGrid
from features.audit import AuditedGrid, audit_grid
from features.files import old_path
from features.header import GridHeader
from features.writer import staged_beside
from pipeline.audit.context import Look
from pipeline.audit.findings import Finding
from pipeline.config import RunConfig
from pipeline.output import SlideFolder
from pipeline.record import SlideRecord, grid_record
from wsi.identity import plain

_KEPT = ("grid_older", "chunk_unreadable", "grid_missing")  # not ours to remove, or nothing to remove
_MOVED = ("grid_misnamed", "grid_foreign")  # sound in itself: the record that names it goes
_OUR_ENCODERS = ("plip", "demo", "colour", "open_clip", "timm")  # whose names are those that are asked for


@dataclass(slots=True, eq=False)
class GridsAudit:
    """Goes through all grids of a slide, one after another; `current` is the open one of its record, if it is sound."""

    folder: SlideFolder
    record: SlideRecord | None
    look: Look
    current: FeatureGrid | None = None

    def findings(self) -> Iterator[Finding]:
        there = {p.name for p in self.folder.features.glob("*.zarr")}
        named = set(self.record.grids) | {self.record.current} if self.record is not None else set()
        sound = set()
        for name in sorted(there | named):
            audited = audit_grid(self.folder.features / name, self.look.pool)
            found = [*self._faults(name, audited), *self._disagreements(name, audited.grid)]
            if not found:
                sound.add(name)
                yield from self._notes(name, audited)
            yield from found
        yield from self._leftovers(sound)

    def _is_listed(self, name: str) -> bool:
        return self.record is not None and name in (*self.record.grids, self.record.current)

    def _faults(self, name: str, audited: AuditedGrid) -> Iterator[Finding]:
        folder = self.folder.features / name
        for fault in audited.faults:
            remove = () if fault.code in _KEPT else (folder,)
            if fault.code in _MOVED:
                remove = (self.folder.path / "slide.json",) if self._is_listed(name) else ()
            message = fault.message
            if self.record is not None and name != self.record.current:
                message += " (a grid of other settings than the last run's, made again when they come back)"
            yield Finding(fault.code, fault.path, message, self.folder.id, remove)

    def _disagreements(self, name: str, grid: FeatureGrid | None) -> Iterator[Finding]:
        """Of a grid that is whole: whose it is, and whether the record says the same."""
        if grid is None:
            return
        record, header, path = self.record, grid.header, self.folder.path / "slide.json"
        if header.slide_id != self.folder.id:
            said = f"it says that it is of the slide {header.slide_id}"
            yield Finding("grid_foreign", grid.path, said, self.folder.id, (path,) if self._is_listed(name) else ())
            return
        if record is None or name not in record.grids:
            return
        if (header.slide_fingerprint, header.slide_mpp) != (record.facts.fingerprint, record.facts.known_mpp):
            said = "it is of another file or scale than the slide's record"
            yield Finding("grid_foreign", grid.path, said, self.folder.id, (path,))
        wrong = list(_differing(record, name, grid))
        if wrong:
            said = f"{name} and its record differ in {', '.join(wrong)}"
            yield Finding("record_differs", path, said, self.folder.id, (path,))
        if name == record.current:
            self.current = grid
            yield from self._settings(header)

    def _settings(self, header: GridHeader) -> Iterator[Finding]:
        config, outcome = self.look.config, self.look.outcomes.get(self.folder.id)
        if config is None or outcome is None or not outcome.good:
            return
        if other := list(_other_settings(config, header)):
            code = "settings_differ" if self.folder.id in self.look.last_run else "settings_older"
            path = self.folder.features / header.name
            yield Finding(code, path, f"run.toml has another {', '.join(other)}", self.folder.id)

    def _notes(self, name: str, audited: AuditedGrid) -> Iterator[Finding]:
        folder = self.folder.features / name
        if self.record is not None and not self._is_listed(name):
            yield Finding("grid_unlisted", folder, "the slide's record does not name it", self.folder.id)
        for stranger in audited.strangers:
            yield Finding("file_unknown", stranger, "no file of this grid", self.folder.id)

    def _leftovers(self, sound: set[str]) -> Iterator[Finding]:
        hidden = [p for p in self.folder.features.glob(".*.zarr.*") if p.is_dir()]
        for path in sorted(hidden):
            dest = path.with_name(path.name[1 : path.name.rindex(".zarr.") + 5])
            if path == old_path(dest):
                yield Finding("leftover", path, "a grid that was being replaced", self.folder.id, (path,))
            elif path in staged_beside(dest) and (dest.name in sound or not _may_go_on(path)):
                yield Finding("leftover", path, "rows of a grid that is finished, or of none", self.folder.id, (path,))
            elif path in staged_beside(dest):
                pieces = sum(1 for _ in path.glob("rows/*.rows"))
                said = f"{dest.name} is not finished; {pieces} pieces of up to 1,024 rows are kept"
                yield Finding("run_unfinished", path, said, self.folder.id)


def _differing(record: SlideRecord, name: str, grid: FeatureGrid) -> Iterator[str]:
    """What the record says otherwise than the grid does, in the record's words."""
    told, found = asdict(record.grids[name]), asdict(grid_record(grid, {}))
    for key, value in found.items():
        untold = key == "seconds" or (key == "stain" and not told[key])  # records of before say nothing of stains
        if not untold and told[key] != value:
            yield key if isinstance(value, tuple | dict) or value is None else f"{key} ({told[key]}, stored {value})"
    told_tissue = record.tissue if name == record.current else None
    if told_tissue is not None and told_tissue.identity != grid.header.tissue_config:
        yield "tissue"


def _other_settings(config: RunConfig, header: GridHeader) -> Iterator[str]:
    if config.tile != header.tile_spec:
        yield "tile"
    tissue: Any = header.tissue_config
    if tissue.get("kind") == "TissueConfig" and tissue != plain(config.tissue):
        yield "tissue"
    name = header.encoder_spec.name
    if name.partition(":")[0] in _OUR_ENCODERS and name != config.encoder.name:
        yield "encoder"
    if header.dtype != config.encoder.dtype:
        yield "dtype"


def _may_go_on(staging: Path) -> bool:
    """True if a run could take its rows up; they prove themselves one by one then."""
    try:
        return isinstance(json.loads((staging / "grid.json").read_bytes()), dict)
    except (OSError, ValueError):
        return False
