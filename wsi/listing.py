"""Which slides a folder holds, and what was not searched for them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wsi import ngff
from wsi.errors import SlideMissing
from wsi.readers.companions import KEY_FILES, companion_folder, named_in_key_file

_PYRAMIDS = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".qptiff")
SUFFIXES = frozenset((*_PYRAMIDS, ".dcm", ".png", ".jpg", ".jpeg", ".bmp"))  # .ome.tif ends in .tif
LEDGER = "ledger.jsonl"  # marks a folder this toolkit wrote its results to


@dataclass(frozen=True, slots=True)
class Listing:
    """What a search of a folder came to; both sorted."""

    slides: tuple[Path, ...]
    unfollowed: tuple[Path, ...]  # symbolic links to folders, or to nothing that is there now: slides may lie behind


def find_slides(folder: str | Path) -> list[Path]:
    """The slides in `folder` and below, sorted; which these are, and what is raised, as `list_slides`."""
    return list(list_slides(folder).slides)


def list_slides(folder: str | Path) -> Listing:
    """All slides in `folder` and below, by the endings of their names, and the links that were not followed.

    Several .dcm files in one folder are one slide, listed as that folder, and so is an OME-Zarr, and any folder
    that is called .zarr and holds no slide, so that it is refused and not passed over. Left out are the files of
    another slide (an MRXS folder, the JPEGs of a VMS), hidden files and folders, folders behind symbolic links,
    feature grids, and folders of results (below `folder`, those with a `ledger.jsonl`). What may not be read is
    listed, be it slide or folder, so that opening it says so and no slide goes missing in silence; for the same
    reason tell people of the links. They are not followed since they may lead in circles, or to slides that are
    listed already.

    Raises SlideMissing if `folder` itself cannot be read.
    """
    root = Path(folder)
    try:
        with os.scandir(root):
            pass
    except (OSError, ValueError) as error:
        hint = "Check its spelling and that you may read it."
        raise SlideMissing(f"The folder {root} cannot be read: {error}.", hint=hint, path=str(root)) from error
    parts = list(_folder_by_folder(root, is_root=True))
    slides = sorted(path for part in parts for path in part.slides)
    return Listing(tuple(slides), tuple(sorted(path for part in parts for path in part.unfollowed)))


@dataclass(frozen=True, slots=True)
class _Entries:
    """What one folder holds, hidden names left out."""

    files: set[Path] = field(default_factory=set)  # named as slides are
    folders: set[Path] = field(default_factory=set)
    links: set[Path] = field(default_factory=set)  # that are not followed
    is_results: bool = False  # of this toolkit
    is_zarr: bool = False  # a group or array of Zarr


def _folder_by_folder(folder: Path, *, is_root: bool = False) -> Iterator[Listing]:
    try:
        found = _entries(folder)
    except OSError:
        yield Listing((folder,), ())
        return
    if found.is_results and not is_root:
        return
    is_image = found.is_zarr and ngff.is_image(folder)
    is_named_so = folder.suffix.lower() == ".zarr" and not (found.is_zarr and ngff.is_features(folder))
    if is_image or (found.is_zarr and ngff.is_array(folder)):
        yield Listing((folder,) if is_image or is_named_so else (), ())
        return
    parts = list(_within(folder, found))
    if is_named_so and not any(part.slides for part in parts):
        yield Listing((folder,), ())  # looks like a slide and is none: its refusal says why
    yield from parts


def _within(folder: Path, found: _Entries) -> Iterator[Listing]:
    owned = set(_owned(found.files))
    slides = found.files - owned
    dicom = {file for file in found.files if file.suffix.lower() == ".dcm"}
    if len(dicom) > 1:
        slides = slides - dicom | {folder}
    yield Listing(tuple(slides), tuple(found.links - owned))
    for below in found.folders - owned:
        yield from _folder_by_folder(below)


def _entries(folder: Path) -> _Entries:
    """Raises OSError where the folder cannot be read.

    Folders and files are told apart by what the folder itself says of them: one with the permission r and without x
    then still gives the names of its slides.
    """
    with os.scandir(folder) as entries:
        every = list(entries)
    visible = [entry for entry in every if not entry.name.startswith(".")]
    names = {entry.name for entry in every}
    found = _Entries(is_results=LEDGER in names, is_zarr=not names.isdisjoint(ngff.FILES))
    for entry in visible:
        path = folder / entry.name
        named_as_slide = path.suffix.lower() in SUFFIXES
        if entry.is_symlink() and _may_lead_to_slides(entry, named_as_slide):
            found.links.add(path)
        elif entry.is_dir(follow_symlinks=False):
            found.folders.add(path)
        elif named_as_slide:
            found.files.add(path)
    return found


def _may_lead_to_slides(link: os.DirEntry[str], named_as_slide: bool) -> bool:
    """Whether a symbolic link leads to a folder; one that leads nowhere may have, unless it is named as slides are."""
    try:
        return stat.S_ISDIR(link.stat().st_mode)
    except OSError:
        return not named_as_slide


def _owned(files: Iterable[Path]) -> Iterator[Path]:
    """Files and folders that belong to a slide among `files`; a key file that cannot be read owns nothing."""
    for file in files:
        companion = companion_folder(file)
        if companion is not None:
            yield companion
        elif file.suffix.lower() in KEY_FILES:
            with contextlib.suppress(OSError):
                yield from named_in_key_file(file) if file.is_file() else ()
