"""The way in: which feature files a folder holds, and whether they belong together."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from features.foreign.bag import ForeignBag
from features.foreign.dialects import bag_of, dialect_of, fault
from features.foreign.h5 import read_contents
from features.foreign.packed import packed_bags
from wsi.errors import ArtefactError, UsageError

_SUFFIXES = (".h5", ".hdf5")
_SHOWN = 20
_WAYS = "Give h5_files of CLAM, features_<encoder> of TRIDENT, the extractor's folder of STAMP, or one packed h5 file."


def open_foreign(path: Path, damaged: list[ArtefactError] | None = None) -> list[ForeignBag]:
    """The bags of a folder of h5 feature files, searched recursively, or of one packed h5 file; sorted by path or row.

    Reads shapes and attributes, no features. Patch files (coordinates only) are passed over, hidden files and links to
    folders not followed. Raises UsageError where there is nothing to read, ArtefactError naming all that is wrong:
    damaged files, odd shapes, features of whole slides, several dimensions, one id for two files. Where `damaged` is
    given, faults of single files among sound ones are added to it instead.
    """
    path = Path(path)
    if path.is_dir():
        return _in_folder(path, damaged)
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder.", hint="Check the path.")
    if path.suffix == ".pt":
        _refuse_pt(path, [path])
    return _in_file(path, path.parent, alone=True)


def _in_folder(root: Path, damaged: list[ArtefactError] | None) -> list[ForeignBag]:
    bags: list[ForeignBag] = []
    faults: list[ArtefactError] = []
    files = sorted(_files(root))
    for path in files:
        if path.suffix.lower() in _SUFFIXES:
            try:
                bags.extend(_in_file(path, root))
            except ArtefactError as error:
                faults.append(error)
    if damaged is not None and bags:
        damaged.extend(faults)
        faults.clear()
    faults.extend([*_mixed_dims(root, bags), *_shared_ids(root, bags)])
    if faults:
        raise _together(root, faults)
    if not bags:
        _refuse_nothing(root, files)
    dim = max(bag.dim for bag in bags)
    return [replace(bag, dim=dim) for bag in bags]  # an empty file of TRIDENT may not tell its own


def _in_file(path: Path, root: Path, *, alone: bool = False) -> list[ForeignBag]:
    """The bags of one file; none for a patch file among others."""
    contents = read_contents(path)
    dialect = dialect_of(contents)
    if dialect == "packed" and not alone:
        raise fault(path, "a packed file among the files of a folder", "Give this one file by itself.")
    if dialect == "packed":
        return packed_bags(contents)
    if not dialect and alone:
        raise UsageError(f"{path}: a patch file: it holds coordinates and no features.", hint=_WAYS)
    return [bag_of(contents, dialect, root)] if dialect else []


def _files(root: Path) -> Iterator[Path]:
    """All files in and below a folder but hidden ones. Raises ArtefactError for a folder that cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise fault(Path(error.filename), f"this folder cannot be read: {error.strerror}", "Check its owner and mode.")

    for folder, below, names in os.walk(root, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _mixed_dims(root: Path, bags: list[ForeignBag]) -> Iterator[ArtefactError]:
    counts = Counter(bag.dim for bag in bags if bag.dim)
    if len(counts) > 1:
        first = {bag.dim: bag.path for bag in reversed(bags)}
        told = ", ".join(f"{dim} in {n} (such as {first[dim]})" for dim, n in counts.most_common())
        yield fault(root, f"files of different dimensions are mixed: {told}", "Give the folder of one encoder.")


def _shared_ids(root: Path, bags: list[ForeignBag]) -> Iterator[ArtefactError]:
    paths = defaultdict(list)
    for bag in bags:
        paths[bag.slide_id].append(bag.path)
    shared = {name: found for name, found in paths.items() if len(found) > 1}
    for name, found in list(shared.items())[:1]:
        more = f"; so it is with {len(shared) - 1} more ids" if len(shared) > 1 else ""
        what = f"{' and '.join(map(str, found))} go by one slide id, {name!r}{more}"
        yield fault(root, what, "Give the folder of one encoder, or rename the files.")


def _together(root: Path, faults: list[ArtefactError]) -> ArtefactError:
    """One error that tells them all, the first 20 in full."""
    if len(faults) == 1:
        return faults[0]
    listed = "; ".join(error.message.rstrip(".") for error in faults[:_SHOWN])
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    hints = dict.fromkeys(error.hint for error in faults[:_SHOWN])
    return ArtefactError(f"{root}: {len(faults)} faults: {listed}{more}.", hint=" ".join(hints), path=str(root))


def _refuse_nothing(root: Path, files: list[Path]) -> NoReturn:
    torch_files = [path for path in files if path.suffix == ".pt"]
    if torch_files:
        _refuse_pt(root, torch_files)
    patches = sum(path.suffix.lower() in _SUFFIXES for path in files)
    found = f"{patches} h5 files of coordinates only and {len(files) - patches} other files"
    looked = "files ending in .h5 or .hdf5 that hold 'features' or 'feats', also in folders below but not behind links"
    raise UsageError(f"{root}: no feature files: looked for {looked}; found {found}.", hint=_WAYS)


def _refuse_pt(given: Path, files: list[Path]) -> NoReturn:
    folder = files[0].parent
    home = folder.with_name("h5_files") if folder.name == "pt_files" else folder / "h5_files"
    lost = "" if any(home.glob("*.h5")) else " If they are gone, extract again; TRIDENT has to be told to save h5."
    what = f"{len(files)} .pt files and no h5 feature file; .pt files are not read, since they can hold code"
    raise UsageError(f"{given}: {what}.", hint=f"Give {home}, where CLAM keeps the same features as h5.{lost}")
