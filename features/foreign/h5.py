"""h5py in one room: a file is opened, asked and closed again under one lock, and h5py's errors get our own words."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsi.errors import ArtefactError

_BUSY = threading.Lock()  # libhdf5 is one for the process: from opening a file to closing it, threads take turns

# Attributes that some dialect tells something by. Others are not read: they may be of any type, and in a damaged file
# each text read is one more chance for libhdf5 to go astray.
_ASKED = {
    *("encoder", "patch_size", "patch_size_level0", "patch_level", "target_magnification"),
    *("extractor", "unit", "tile_size", "tile_size_um", "feat_type"),
}

# libhdf5's words, and ours
_WHY = {
    "truncated file": "it ends before its own index says it does",
    "file signature not found": "it is no HDF5 file",
    "unable to lock file": "another program is writing it",
    "No such file": "there is no such file",
    "Permission denied": "permission denied",
    "Is a directory": "it is a folder",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A dataset as its file describes it, without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: dict[str, Any]  # as of Contents

    @property
    def is_number(self) -> bool:
        return self.dtype.kind in "fiu"


@dataclass(frozen=True, slots=True)
class Contents:
    """What one file holds."""

    path: Path
    attrs: dict[str, Any]  # all names; plain Python values of those that a dialect asks for, None for others
    datasets: dict[str, Stored]  # those in groups by their path: meta/age


def read_contents(path: Path) -> Contents:
    """The datasets of a file and their attributes. Raises ArtefactError where it is no HDF5 file, cut or damaged."""
    with _opened(path) as file:
        datasets = {name: Stored(item.shape or (), item.dtype, _attributes(item)) for name, item in _datasets(file)}
        return Contents(path, _attributes(file), datasets)


def read_array(path: Path, name: str, rows: slice | None = None) -> NDArray[Any]:
    """A dataset in one call, or a run of its rows; a new array, C-contiguous.

    One call, because CLAM and TRIDENT store every row as a chunk of its own: one by one takes minutes.
    Raises ArtefactError for damage, and for chunks that were never written: libhdf5 reads these as zeros.
    """
    with _opened(path) as file:
        stored = file[name]
        if _never_written(stored):
            raise unreadable(path, f"parts of {name} were never written")
        return np.ascontiguousarray(stored[()] if rows is None else stored[rows])


def read_list(path: Path, name: str) -> list[Any]:
    """A dataset as Python values: text decoded as UTF-8, numbers as int, float or bool. Raises ArtefactError."""
    with _opened(path) as file:
        stored = file[name]
        is_text = h5py.check_string_dtype(stored.dtype) is not None
        found: list[Any] = (stored.asstr("utf-8") if is_text else stored)[()].tolist()
    return found


def unreadable(path: Path, why: str) -> ArtefactError:
    """The error for a file that is damaged, cut or not to be read; the caller raises it."""
    hint = "Copy it again, or wait if it is still being written; otherwise extract this slide again."
    return ArtefactError(f"{path}: this h5 file cannot be read: {why}.", hint=hint, path=str(path))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        # Locks as the file system can, so that a file which another program has open for writing is not half read.
        with _BUSY, h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise unreadable(path, _why(error)) from error


def _why(error: Exception) -> str:
    words = str(error) or type(error).__name__
    known = [plain for mark, plain in _WHY.items() if mark in words]
    inner = re.search(r"(?:Unable to|Can't) [\w ]+ \((.+)\)", words)  # Unable to synchronously open file (the cause)
    return known[0] if known else (inner.group(1) if inner else words).rstrip(".")


def _datasets(group: h5py.Group, above: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Datasets of a file and of the groups in it, one level deep."""
    for name, item in group.items():
        if isinstance(item, h5py.Dataset):
            yield above + name, item
        elif isinstance(item, h5py.Group) and not above:
            yield from _datasets(item, f"{name}/")


def _attributes(item: h5py.File | h5py.Dataset) -> dict[str, Any]:
    return {name: _plain(item.attrs[name]) if name in _ASKED else None for name in item.attrs}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _never_written(stored: h5py.Dataset) -> bool:
    if stored.chunks is None:
        owned = not stored.is_virtual and stored.external is None
        return bool(stored.size) and owned and stored.id.get_storage_size() == 0
    wanted = math.prod(math.ceil(length / step) for length, step in zip(stored.shape, stored.chunks, strict=True))
    return bool(stored.id.get_num_chunks() < wanted)
