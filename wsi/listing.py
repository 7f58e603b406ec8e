"""Which slides a folder holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsi.errors import SlideMissing
from wsi.readers.companions import KEY_FILES, companion_folder, named_in_key_file

_PYRAMIDS = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".qptiff")
SUFFIXES = frozenset((*_PYRAMIDS, ".dcm", ".png", ".jpg", ".jpeg", ".bmp"))  # .ome.tif ends in .tif
LEDGER = "ledger.jsonl"  # marks a folder this toolkit wrote its results to


def find_slides(folder: str | Path) -> list[Path]:
    """All slides in `folder` and below, by the endings of their names, sorted.

    Several .dcm files in one folder are one slide, listed as that folder. Left out are the files of another slide
    (an MRXS folder, the JPEGs of a VMS), hidden files and folders, folders behind symbolic links, and folders of
    results (below `folder`, those with a `ledger.jsonl`). A folder that may not be read is listed, so that opening it
    says so and its slides do not go missing in silence. Raises SlideMissing if `folder` itself cannot be read.
    """
    root = Path(folder)
    try:
        with os.scandir(root):
            pass
    except (OSError, ValueError) as error:
        hint = "Check its spelling and that you may read it."
        raise SlideMissing(f"The folder {root} cannot be read: {error}.", hint=hint, path=str(root)) from error
    return sorted(_slides_in(root, is_root=True))


def _slides_in(folder: Path, *, is_root: bool = False) -> Iterator[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        yield folder
        return
    if folder / LEDGER in entries and not is_root:
        return
    folders = {entry for entry in entries if entry.is_dir() and not entry.is_symlink()}
    files = {entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()}
    owned = set(_owned(files))
    dicom = {file for file in files if file.suffix.lower() == ".dcm"}
    if len(dicom) > 1:
        yield folder
        owned |= dicom
    yield from files - owned
    for below in folders - owned:
        yield from _slides_in(below)


def _owned(files: Iterable[Path]) -> Iterator[Path]:
    """Files and folders that belong to a slide among `files`."""
    for file in files:
        companion = companion_folder(file)
        if companion is not None:
            yield companion
        elif file.suffix.lower() in KEY_FILES and file.is_file():
            yield from named_in_key_file(file)
