"""Many slides in one h5 file: rows one slide after the other, and where each begins.

features (T, D)            all rows
offsets (n + 1,)           slide i is features[offsets[i]:offsets[i + 1]]
meta/<column> (n,)         optional; meta/slide_id names the slides
labels (n,)                optional
folds (repeats, k, n)      optional
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.foreign.bag import ForeignBag, readable
from features.foreign.dialects import dialect_of, encoder_of, fault
from features.foreign.h5 import Contents, read_array, read_contents, read_list
from wsi.errors import UsageError

_HINT = "Write the file again: features (T, D), offsets (n + 1,) from 0 to T, every column with one entry a slide."


def packed_bags(contents: Contents) -> list[ForeignBag]:
    """One bag for each interval, in the order of the file. Raises ArtefactError for offsets or ids that do not fit."""
    offsets = _offsets(contents)
    encoder = encoder_of(contents, "packed")
    dim = contents.datasets["features"].shape[1]
    starts, lengths = offsets[:-1].tolist(), np.diff(offsets).tolist()
    return [
        ForeignBag(name, contents.path, "packed", n, dim, encoder, start=start)
        for name, start, n in zip(_ids(contents, len(starts)), starts, lengths, strict=True)
    ]


def packed_columns(path: Path) -> dict[str, list[Any]]:
    """The label table that a packed file brings along, as Python values: lists of length n, in the order of the bags.

    `slide_id` comes first, as the bags have it; then the columns of `meta`, `labels` if there are any, and `folds` as
    the file nests them: [repeat][fold][slide]. Text stays text.
    Raises UsageError for another kind of file, ArtefactError for damage and for columns of another length.
    """
    contents = read_contents(Path(path))
    if dialect_of(contents) != "packed":
        hint = "Give one h5 file that holds features and offsets, or a table of labels as CSV."
        raise UsageError(f"{path}: not a packed file: it has no offsets.", hint=hint)
    n = len(_offsets(contents)) - 1
    columns: dict[str, list[Any]] = {"slide_id": _ids(contents, n)}
    for name in _columns(contents):
        _check_length(contents, name, n)
        columns[name.removeprefix("meta/")] = read_list(contents.path, name)
    return columns


def _columns(contents: Contents) -> list[str]:
    meta = [name for name in contents.datasets if name.startswith("meta/") and name != "meta/slide_id"]
    beside = [name for name in ("labels", "folds") if name in contents.datasets]
    twice = [name for name in beside if f"meta/{name}" in meta]
    if twice:
        raise fault(contents.path, f"{twice[0]} and meta/{twice[0]} would be one column", "Rename one of them.")
    return meta + beside


def _offsets(contents: Contents) -> NDArray[np.int64]:
    features, stored = contents.datasets["features"], contents.datasets["offsets"]
    if len(features.shape) != 2 or not features.shape[1] or not features.is_number:
        what = f"features is {features.dtype} of shape {features.shape}, not numbers of shape (rows, dimensions)"
        raise fault(contents.path, what, _HINT)
    if len(stored.shape) != 1 or not stored.shape[0] or stored.dtype.kind not in "iu":
        raise fault(contents.path, f"offsets is {stored.dtype} of shape {stored.shape}, not n + 1 whole numbers", _HINT)
    offsets = read_array(contents.path, "offsets").astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != features.shape[0] or (np.diff(offsets) < 0).any():
        what = f"offsets do not ascend from 0 to the {features.shape[0]} rows of features"
        raise fault(contents.path, what, _HINT)
    return offsets


def _ids(contents: Contents, n: int) -> list[str]:
    """The column meta/slide_id as text, or running numbers from 0."""
    if "meta/slide_id" not in contents.datasets:
        return [str(i) for i in range(n)]
    _check_length(contents, "meta/slide_id", n)
    ids = [readable(str(value)) for value in read_list(contents.path, "meta/slide_id")]
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise fault(contents.path, f"several bags have the slide id {twice[0]!r}{more}", _HINT)
    return ids


def _check_length(contents: Contents, name: str, n: int) -> None:
    shape = contents.datasets[name].shape
    length = shape[-1:] if name == "folds" else shape[:1]
    if length != (n,):
        raise fault(contents.path, f"{name} has shape {shape}, but there are {n} bags", _HINT)
