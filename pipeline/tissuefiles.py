"""`--tissue-from DIR`: which file tells the tissue of which slide, and what features then depend on.

A tissue.geojson that is as a run left it is no edit: under the same settings that slide's tissue is detected as
before, so of an output folder given back only the slides that somebody edited are done again.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
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
from wsi.listing import SUFFIXES
from wsi.wording import number_of

_WRITTEN = "tissue.geojson"  # by a run, in each slide's folder
SUMMED_UP = "Tissue as drawn in ", "No file of its tissue in "  # how notes begin that `source_summary` sums up
_OTHER_KINDS = (".geojson", ".json", ".xml", ".gz", ".zip", ".qpdata")  # that could hold annotations
_ENDINGS = SUFFIXES.union(_OTHER_KINDS, (".ome", ".zarr"))
_ASKED = 3  # files at most that "did you mean" names


@dataclass(frozen=True, slots=True)
class WantedTissue:
    """Where a slide's tissue comes from in this run."""

    identity: TissueConfig | DrawnTissue  # what features depend on
    file: DrawnFile | None = None  # None: it is detected


def with_tissue(entries: list[SlideEntry], folder: Path) -> tuple[list[SlideEntry], list[str]]:
    """The entries, each with its file in `folder` or without one, and warnings about files that serve no slide.

    A slide's file is `<slide id>.geojson`, `<file stem>.geojson`, `slides/<slide id>/tissue.geojson` or
    `<slide id>/tissue.geojson`. Raises UsageError where `folder` is none, and tells every slide with two files and
    every file that two slides could claim; and where no slide has a file, with the name that was looked for.
    """
    if not folder.is_dir():
        what = "it is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UsageError(
            f"--tissue-from {folder}: {'XML annotations are not read' if folder.suffix.lower() == '.xml' else what}.",
            hint="Give a folder with GeoJSON as QuPath exports it, a file for each slide, such as "
            f"{_called(entries[0], entries)}.",
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
    unused = sorted(path for path in there.values() if path not in claims)
    warnings = [*_warnings(unused, folder), *_misspelt(unused, entries, found)]
    if not claims:
        raise UsageError(
            " ".join(
                [f"--tissue-from {printable(str(folder))}: none of its files is of a slide of this run.", *warnings]
            ),
            hint=f"Call that of {entries[0].name} {_called(entries[0], entries)}, or leave --tissue-from out.",
        )
    sources = {i: TissueSource(folder.absolute(), next(iter(paths), None)) for i, paths in found.items()}
    return [replace(entry, tissue=sources[entry.id]) for entry in entries], warnings


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


def source_summary(entries: Iterable[SlideEntry], drawn: Mapping[str, bool]) -> str:
    """How many slides have tissue as drawn, and which were detected and why, "" without --tissue-from.

    `drawn` tells of every slide (by id) that was not refused whether a drawing is in force.
    """
    asked = [(e.name, e.tissue.file, drawn.get(e.id)) for e in entries if e.tissue is not None]
    if not asked:
        return ""
    told = [f"tissue: {sum(is_drawn is True for _, _, is_drawn in asked)} of {number_of(len(asked), 'slide')} as drawn"]
    for why, has_file in (("since their files are as a run wrote them", True), ("for want of a file", False)):
        names = [name for name, file, is_drawn in asked if is_drawn is False and (file is not None) is has_file]
        told += [f"{len(names)} detected, {why}: {some(names)}"] if names else []
    refused = sum(is_drawn is None for _, _, is_drawn in asked)
    return "; ".join(told + ([f"{refused} refused"] if refused else []))


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


def _called(entry: SlideEntry, entries: list[SlideEntry]) -> str:
    """The shortest name that a slide's file may have."""
    stem = Path(entry.path.name).stem
    shared = sum(stem in (Path(e.path.name).stem, e.id) for e in entries) > 1
    return printable(f"{entry.id if shared else stem}.geojson")


def _warnings(unused: list[Path], folder: Path) -> list[str]:
    strangers = [p for p in unused if p.suffix == ".geojson"]
    foreign = [p for p in unused if p.suffix != ".geojson"]
    told = []
    if strangers:
        files = number_of(len(strangers), "file belongs", "files belong")
        told.append(f"{files} to no slide of this run in {folder}: {_below(strangers, folder)}.")
    if foreign:
        told.append(
            f"{number_of(len(foreign), 'file is', 'files are')} not read in {folder}, only .geojson is (export it from "
            f"QuPath; XML is never read): {_below(foreign, folder)}."
        )
    return [printable(sentence) for sentence in told]


def _misspelt(unused: list[Path], entries: list[SlideEntry], found: Mapping[str, list[Path]]) -> list[str]:
    """A question about files that serve no slide, where a slide without one is called nearly so."""
    near = {_folded(path.name): path for path in unused if path.name != _WRITTEN and "json" in path.suffix.lower()}
    pairs = [(near[key], e) for e in entries if not found[e.id] and (key := _folded(e.path.name)) in near]
    asked = [f"{_called(e, entries)} in place of {path.name}" for path, e in pairs[:_ASKED]]
    more = f" and {len(pairs) - _ASKED} more" if len(pairs) > _ASKED else ""
    return [printable(f"Did you mean {', '.join(asked)}{more}?")] if asked else []


def _folded(name: str) -> str:
    """What names of the same slide share: `A 1.svs`, `a_1.svs.geojson` and `A-1.GeoJSON` are `a1`."""
    stem = Path(name)
    while stem.suffix.lower() in _ENDINGS:
        stem = stem.with_suffix("")
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", stem.name).casefold()))


def _below(paths: list[Path], folder: Path) -> str:
    return some([p.relative_to(folder.absolute()).as_posix() for p in paths])
