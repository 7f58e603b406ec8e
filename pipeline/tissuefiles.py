"""`--tissue-from DIR`: which file tells the tissue of which slide, and what features then depend on.

A tissue.geojson that is as a run left it is no edit: under the same settings that slide's tissue is detected as
before, so of an output folder given back only the slides that somebody edited are done again.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from heads.problems import some
from pipeline.config import RunConfig
from pipeline.manifest import SlideEntry, TissueSource, printable
from pipeline.output import SlideFolder
from pipeline.record import SlideRecord, TissueRecord
from tiling.annotations import check_size
from tiling.areas import invalid
from tiling.drawn import DrawnTissue
from tiling.supervised import DrawnFile, ReaderProcess
from tiling.tissue import TissueConfig
from wsi.errors import ArtefactError, UsageError
from wsi.identity import file_sha256
from wsi.wording import number_of

_WRITTEN = "tissue.geojson"  # by a run, in each slide's folder
_OTHER_KINDS = (".geojson", ".json", ".xml", ".gz", ".zip", ".qpdata")  # that could hold annotations


@dataclass(frozen=True, slots=True)
class WantedTissue:
    """Where a slide's tissue comes from in this run."""

    identity: TissueConfig | DrawnTissue  # what features depend on
    file: DrawnFile | None = None  # None: it is detected


def with_tissue(entries: list[SlideEntry], folder: Path) -> tuple[list[SlideEntry], list[str]]:
    """The entries, each with its file in `folder` or without one, and warnings about files that serve no slide.

    A slide's file is `<slide id>.geojson`, `<file stem>.geojson`, `slides/<slide id>/tissue.geojson` or
    `<slide id>/tissue.geojson`. Raises UsageError where `folder` is none, and tells every slide with two files and
    every file that two slides could claim.
    """
    if not folder.is_dir():
        is_xml = folder.suffix.lower() == ".xml"
        raise UsageError(
            f"--tissue-from {folder}: {'XML annotations are not read' if is_xml else 'there is no such folder'}.",
            hint="Give a folder with GeoJSON as QuPath exports it, a file for each slide, such as S1.geojson.",
        )
    there = _there(folder.absolute())
    ids = {entry.id for entry in entries}
    found = {entry.id: _of(entry, there, ids) for entry in entries}
    claims = Counter(path for paths in found.values() for path in paths)
    faults = [f"{i}: {len(p)} files, {', '.join(map(str, p))}" for i, p in found.items() if len(p) > 1]
    faults += [f"{p}: {n} slides have that name; call it by the slide's id" for p, n in claims.items() if n > 1]
    if faults:
        raise UsageError(
            printable(f"--tissue-from {folder}: {number_of(len(faults), 'fault')}:\n  " + "\n  ".join(faults)),
            hint="Leave one file for each slide.",
        )
    sources = {i: TissueSource(folder.absolute(), next(iter(paths), None)) for i, paths in found.items()}
    unused = sorted(path for path in there.values() if path not in claims)
    return [replace(entry, tissue=sources[entry.id]) for entry in entries], _warnings(unused, folder)


def wanted_tissue(
    entry: SlideEntry, config: RunConfig, record: SlideRecord | None, reader: ReaderProcess
) -> WantedTissue:
    """What the slide's features depend on. `record` is that of the output folder, whatever it was made with.

    A file is parsed by the reader's process, and only where no record tells what the same bytes held.
    Raises TissueInvalid where it cannot be used.
    """
    if entry.tissue is None or entry.tissue.file is None:
        return WantedTissue(config.tissue)
    path = entry.tissue.file
    told = _told(path, record)
    if told is not None and told.is_of(config.tissue):
        return WantedTissue(config.tissue)
    file = DrawnFile(path, told.drawn, told.sha256) if told is not None and told.drawn else reader.annotations(path)
    return WantedTissue(DrawnTissue(file.digest, config.tissue.mpp), file)


def _told(path: Path, record: SlideRecord | None) -> TissueRecord | None:
    """What a record, the one beside the file or the one given, says of a file with these very bytes."""
    check_size(path)
    try:
        beside = SlideRecord.read(SlideFolder(path.parent))
    except ArtefactError:
        beside = None
    known = [r.tissue for r in (beside, record) if r is not None and r.tissue is not None]
    try:
        sha256 = file_sha256(path) if known else ""
    except OSError as error:
        raise invalid(path, f"it cannot be read ({error.strerror})") from None
    return next((tissue for tissue in known if tissue.sha256 == sha256), None)


def source_note(entry: SlideEntry) -> tuple[str, ...]:
    """What a person who gave --tissue-from has to know of a slide without a file."""
    if entry.tissue is None or entry.tissue.file is not None:
        return ()
    return (f"No file of its tissue in {entry.tissue.folder}: detected automatically.",)


def source_summary(entries: Iterable[SlideEntry]) -> str:
    """How many slides have a file and which have none, "" without --tissue-from."""
    asked = [e for e in entries if e.tissue is not None]
    without = [e.name for e in asked if e.tissue is not None and e.tissue.file is None]
    if not asked:
        return ""
    told = f"tissue: {number_of(len(asked) - len(without), 'slide')} with a file of their own"
    return told + (f", {len(without)} without, detected automatically: {some(without)}" if without else "")


def _there(folder: Path) -> dict[str, Path]:
    """What could be a slide's file, by its name below the folder; accents composed, as ids have them."""
    listed = [p for p in folder.iterdir() if p.suffix.lower() in _OTHER_KINDS and p.is_file()]
    listed += [p for below in ("slides/*", "*") for p in folder.glob(f"{below}/{_WRITTEN}") if p.is_file()]
    return {unicodedata.normalize("NFC", p.relative_to(folder).as_posix()): p for p in sorted(listed)}


def _of(entry: SlideEntry, there: dict[str, Path], ids: set[str]) -> list[Path]:
    stem = unicodedata.normalize("NFC", Path(entry.path.name).stem)
    called = [entry.id] if stem in ids else [entry.id, stem]  # what is one slide's id is no other's stem
    names = [f"{name}.geojson" for name in called]
    names += [f"slides/{entry.id}/{_WRITTEN}", f"{entry.id}/{_WRITTEN}"]
    return [there[name] for name in dict.fromkeys(names) if name in there]


def _warnings(unused: list[Path], folder: Path) -> list[str]:
    strangers = [p for p in unused if p.suffix == ".geojson"]
    foreign = [p for p in unused if p.suffix != ".geojson"]
    told = []
    if strangers:
        told.append(f"{len(strangers)} files in {folder} belong to no slide of this run: {_below(strangers, folder)}")
    if foreign:
        told.append(
            f"{len(foreign)} files in {folder} are not read, only .geojson is (export it from QuPath; XML is never "
            f"read): {_below(foreign, folder)}"
        )
    return [printable(sentence) for sentence in told]


def _below(paths: list[Path], folder: Path) -> str:
    return some([p.relative_to(folder.absolute()).as_posix() for p in paths])
