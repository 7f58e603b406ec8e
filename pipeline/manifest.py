"""Which slides a run is about: a folder, files or a manifest CSV, and the ids their results are filed under."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.csvfile import csv_error, csv_rows
from wsi.errors import UsageError
from wsi.listing import Listing, list_slides
from wsi.location import Location, RemoteFile, located, shown

_COLUMNS = ("slide", "id", "patient", "mpp")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10))}
_MAX_ID = 120


@dataclass(frozen=True, slots=True)
class TissueSource:
    """What --tissue-from has for a slide."""

    folder: Path
    file: Path | None  # None: nothing, so that its tissue is detected


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """One slide as asked for. `id` is safe as a file name and unique in the run, whatever the slide is called."""

    id: str
    path: Location
    name: str  # path relative to the slide folder, or URL without secrets: what people know the slide by
    patient: str = ""
    mpp: float | None = None  # um per level-0 px, over whatever the file says: a manifest's column
    mpp_if_missing: float | None = None  # the same where the file says nothing: the command line's --mpp
    labels: dict[str, str] = field(default_factory=dict)
    tissue: TissueSource | None = None  # None: --tissue-from is not given


def entries_from(
    slides: Sequence[str | Location],
    manifest: Path | None = None,
    mpp: float | None = None,
    unfollowed: list[Path] | None = None,
) -> list[SlideEntry]:
    """All slides of the command line, in a stable order.

    Slides are given as folders (searched recursively), files, URLs or one CSV; with a manifest, one folder alone, where
    its paths begin. Links to folders below them are not followed, and are added to `unfollowed`. Raises UsageError
    where there is nothing to do, ManifestError with all faults of a manifest at once.
    """
    given = [located(one) for one in slides]
    paths = [one for one in given if isinstance(one, Path)]
    if manifest is None and len(given) == 1 and paths and _is_csv(paths[0]):
        manifest, given, paths = paths[0], [], []
    if manifest is not None:
        entries = read_manifest(manifest, root=manifest_root(given, manifest))
    else:
        if tables := [path for path in paths if _is_csv(path)]:
            raise _not_both(tables[0])
        remote = [_remote_entry(one) for one in _different(given)]
        entries = _unique(_from_paths(paths, [] if unfollowed is None else unfollowed) + remote)
    if not entries:
        searched = ", ".join(str(p) for p in paths) or str(manifest)
        raise UsageError(
            f"no slides found in {searched}.", hint="Give a folder of slides, slide files or a manifest CSV."
        )
    return [replace(e, mpp_if_missing=mpp) for e in entries]


def manifest_root(given: Sequence[Location], manifest: Path) -> Path | None:
    """The folder given beside a manifest; None where there is none. Raises UsageError for anything else.

    A CSV chooses among slides: what it does not list is not done, so slides beside it can only be a misunderstanding.
    """
    if not given:
        return None
    folder = given[0]
    if len(given) > 1 or not isinstance(folder, Path) or (folder.exists() and not folder.is_dir()) or _is_csv(folder):
        raise _not_both(manifest)
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder.", hint="Check the path.")
    return folder


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file()


def _not_both(manifest: Path) -> UsageError:
    return UsageError(
        f"{manifest} lists the slides, and others are given beside it.",
        hint=f"Add them to the CSV, or run twice into one folder. For the CSV's slides that lie in a folder: "
        f"FOLDER --manifest {manifest}.",
    )


def read_manifest(path: Path, root: Path | None = None) -> list[SlideEntry]:
    """Rows of a CSV with a column `slide` and optional `id`, `patient`, `mpp`; every other column is a label.

    Slides are URLs, or paths relative to `root` or to the CSV's own folder. Cells are text: a slide called NA stays NA.
    """
    header, rows = csv_rows(path)
    base = root or path.parent
    faults = [f"column {c!r} is there {n} times" for c, n in Counter(header).items() if n > 1]
    if "slide" not in header:
        faults.append(f"there is no column 'slide'; the columns are: {', '.join(header) or 'none'}")
        raise csv_error(path, faults)
    entries: list[SlideEntry] = []
    for line, cells in rows:
        row = dict(zip(header, cells, strict=False))
        if len(cells) != len(header):
            faults.append(f"line {line}: {len(cells)} cells where the header has {len(header)}")
            continue
        entry, wrong = _entry(row, base)
        faults.extend(f"line {line}: {w}" for w in wrong)
        entries.append(entry)
    missing = [
        f"slide {e.name!r}: no such file below {base}"
        for e in entries
        if isinstance(e.path, Path) and not e.path.exists()
    ]
    seen = Counter(e.path for e in entries)
    faults.extend(f"slide {p} is listed {n} times" for p, n in seen.items() if n > 1)
    given = Counter(
        row_id for _, cells in rows if (row_id := dict(zip(header, cells, strict=False)).get("id", "").strip())
    )
    faults.extend(f"id {i!r} is given {n} times" for i, n in given.items() if n > 1)
    if faults:
        raise csv_error(path, faults + missing)
    return _unique(entries)  # slides that are merely missing are refused one by one when their turn comes


def printable(text: str) -> str:
    """The same text, with bytes that are no UTF-8 (in names of files) as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def safe_id(name: str) -> str:
    """A file name for any slide name: letters, digits, `.`, `_` and `-`; a digest is added where anything changed.

    Two different names never share an id, not even where file systems ignore case or compose accents.
    """
    composed = unicodedata.normalize("NFC", name)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", composed.replace("/", "__"))[:_MAX_ID].rstrip(".")
    if safe[:1] in ("", "-", ".", "_"):
        safe = f"slide{safe}" if safe else "slide"
    unchanged = safe == name.replace("/", "__") and "__" not in name and safe.split(".")[0].lower() not in _RESERVED
    return safe if unchanged else f"{safe}-{_tag(name)}"


def _tag(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _from_paths(given: list[Path], unfollowed: list[Path]) -> list[SlideEntry]:
    """Slides below the given folders and files, each named by its path below what was given."""
    name_of: dict[Path, str] = {}
    for one in given:
        if not os.path.lexists(one):
            raise UsageError(f"{one}: there is no such file or folder.", hint="Check the path.")
        listing = list_slides(one) if one.is_dir() else Listing((one,), ())
        unfollowed.extend(listing.unfollowed)
        for path in listing.slides:
            # What is given may itself be a slide: a file, or a folder of DICOM files.
            name = path.name if path == one else path.relative_to(one).as_posix()
            name_of.setdefault(Path(os.path.normpath(path.absolute())), name)  # one slide, however its folder is spelt
    if not name_of:
        return []
    times = Counter(name_of.values())
    root = os.path.commonpath([os.path.normpath(one.parent.absolute()) for one in given])
    for path, name in name_of.items():
        if times[name] > 1:  # a/s.svs and b/s.svs, of two folders given: tell them apart by these
            name_of[path] = Path(os.path.relpath(path, root)).as_posix()
    return [SlideEntry(_stem(name), path, name) for path, name in sorted(name_of.items(), key=_by_name)]


def _remote_entry(where: RemoteFile) -> SlideEntry:
    """Filed under host and path, and what else tells it apart: the same id whatever else is in the run."""
    place, _, digits = where.place.partition("#")
    return SlideEntry(_stem(place) + (f"-{digits}" if digits else ""), where, str(where))


def _different(given: Sequence[Location]) -> list[RemoteFile]:
    """The remote slides, each once. Raises UsageError where nothing that may be shown tells two URLs apart."""
    remote = {one.url: one for one in given if isinstance(one, RemoteFile)}.values()
    twice = [str(where) for where, n in Counter(remote).items() if n > 1]
    if twice:
        raise UsageError(
            f"{twice[0]}: is given by several URLs that differ in nothing but what is taken for a secret.",
            hint="Leave one of them, or run them into folders of their own.",
        )
    return list(remote)


def _by_name(item: tuple[Path, str]) -> tuple[str, str]:
    return item[1], str(item[0])


def _stem(name: str) -> str:
    head, _, last = name.rpartition("/")
    stem = last.rsplit(".", 1)[0] if "." in last[1:] else last
    return f"{head}/{stem}" if head else stem


def _unique(entries: list[SlideEntry]) -> list[SlideEntry]:
    """Safe ids; where two would be one (case and accents folded), both get a digest of their full name."""
    folded = Counter(_fold(e.id) for e in entries)
    return [
        replace(
            e,
            id=safe_id(e.id) if folded[_fold(e.id)] == 1 else f"{safe_id(e.id)}-{_tag(e.name)}",
            name=printable(e.name),
            path=e.path.absolute() if isinstance(e.path, Path) else e.path,
        )
        for e in entries
    ]


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", safe_id(name)).casefold()


def _entry(row: dict[str, str], base: Path) -> tuple[SlideEntry, list[str]]:
    wrong: list[str] = []
    name = row["slide"]
    if not name.strip() or "\0" in name:
        return SlideEntry("", base, name), ["the cell 'slide' is empty or no path"]
    entry = _named(name, base)
    mpp, complaint = _mpp(row.get("mpp", ""))
    if complaint:
        wrong.append(complaint)
    labels = {k: shown(v) for k, v in row.items() if k not in _COLUMNS}
    slide_id = row.get("id", "").strip() or entry.id
    return replace(entry, id=slide_id, patient=row.get("patient", ""), mpp=mpp, labels=labels), wrong


def _named(name: str, base: Path) -> SlideEntry:
    """The slide of a manifest's cell."""
    where = located(name.strip())
    if isinstance(where, RemoteFile):
        return _remote_entry(where)
    if where != Path(name.strip()):  # a file:// URL
        name = str(where)
    return SlideEntry(_stem(name), Path(os.path.normpath(base / name)), name)


def _mpp(text: str) -> tuple[float | None, str]:
    if not text.strip():
        return None, ""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None, f"mpp {text!r} is not a number"
    return (value, "") if 0.05 <= value <= 20 else (None, f"mpp {text} is not between 0.05 and 20 um")
