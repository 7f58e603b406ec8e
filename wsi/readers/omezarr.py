"""Slides as OME-Zarr (NGFF 0.4 on Zarr v2, 0.5 on Zarr v3): one folder, three channels of 8 bits.

A chunk that was never written reads as the array's fill value, which is 0 nearly always: black, which would pass for
tissue. A chunk of nothing but zeros is therefore taken for one that was not scanned, whether or not a file of it is
there; by the format the two are the same, and writers leave out the one for the other. Reads are made of whole
chunks for that, so that a pixel does not depend on the rectangle it was asked for in.

A copy that lost files looks the same. What tells the two apart: no writer leaves out one channel of glass, and what a
coarser level shows was there. Such chunks are unreadable; how many others are not there, `warnings` say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi.geometry import Region
from wsi.limits import MAX_LEVELS, MAX_SEGMENT_PX, implausible
from wsi.ngff import DamagedMetadata, Multiscale, image_folder, read_multiscale
from wsi.readers import INDEX_FAULTS, unreachable, unreadable, unsupported
from wsi.readers.chunks import Chunks

_CHANNELS = 3
_SOME = "its chunk of a channel that others have"
_BLACK, _WHITE = 16, 230  # grey levels: what lies between is more than glass, or the zeros of what was left out

Pixels = NDArray[np.uint8]


class OmeZarrReader:
    """An image opened with zarr; see `wsi.readers.Reader`. Zarr's arrays may be read from several threads."""

    name = "omezarr"
    vendor = "ome-zarr"
    bounds: Region | None = None
    associated_names: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._path = folder
        try:
            image = image_folder(folder)
            self._image = read_multiscale(image)
            self._levels = [zarr.open_array(image / path, mode="r") for path in self._image.paths[: MAX_LEVELS + 1]]
            for level in self._levels:
                _check_colours(self._image, level)
        except FileNotFoundError as error:  # zarr's word for an array without metadata as well
            raise unreadable(folder, "its metadata", error) from error
        except OSError as error:
            raise unreachable(folder, error) from error
        except (DamagedMetadata, JSONDecodeError) as error:  # of the image, or of an array
            raise unreadable(folder, "its metadata", error) from error
        except INDEX_FAULTS as error:
            raise unsupported(folder, " ".join(str(error).split()) or type(error).__name__) from error
        self._chunks = tuple(
            Chunks(level, image / path, self._image.axes)
            for level, path in zip(self._levels, self._image.paths, strict=False)
        )
        self.level_sizes = tuple(chunks.size for chunks in self._chunks)
        self._left_out: set[tuple[int, Region]] = set()
        for chunk in (chunks.chunk for chunks in self._chunks):
            if chunk.width * chunk.height > MAX_SEGMENT_PX:
                raise implausible(folder, f"declares a chunk of {chunk.width} x {chunk.height} px")

    @property
    def properties(self) -> Mapping[str, str]:
        scale = self._image.um_per_px
        return (
            {} if scale is None else {f"ome-zarr.scale-{axis}": str(um) for axis, um in zip("xy", scale, strict=True)}
        )

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._path,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of what was read until now: the chunks that are not there and were given as white."""
        counts = Counter(level for level, _ in self._left_out)
        return tuple(
            f"{n} of {self._chunks[level].count} chunks of level {level} are not there: taken for never scanned, white."
            for level, n in sorted(counts.items())
        )

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        box = Region(x, y, width, height)
        held = self._chunks[level].around(box)
        try:
            pixels = self._read(level, held)
        except INDEX_FAULTS as error:
            where = f"level {level} at ({x}, {y}), {width} x {height} px"
            raise unreadable(self._path, where, error) from error
        if not self._levels[level].fill_value:
            for chunk in self._chunks[level].within(held):
                part = pixels[chunk.y - held.y : chunk.bottom - held.y, chunk.x - held.x : chunk.right - held.x]
                self._fill(level, chunk, part)
        return pixels[y - held.y : box.bottom - held.y, x - held.x : box.right - held.x]

    def _fill(self, level: int, chunk: Region, part: Pixels) -> None:
        """Whitens a chunk of nothing but zeros. Raises SlideUnreadable where the zeros stand for a lost file."""
        if part[0, 0].all():
            return
        zeros = [channel for channel in range(_CHANNELS) if not part[..., channel].any()]
        gone = [channel for channel in zeros if not self._chunks[level].is_there(chunk, channel)]
        if gone and (len(zeros) < _CHANNELS or self._is_shown_coarser(level, chunk)):
            where = f"level {level} at ({chunk.x}, {chunk.y}), {chunk.width} x {chunk.height} px"
            raise unreadable(self._path, where, f"{'its chunk' if len(gone) == _CHANNELS else _SOME} is not there")
        if len(zeros) == _CHANNELS:
            part[...] = 255
            if gone:
                self._left_out.add((level, chunk))

    def _is_shown_coarser(self, level: int, chunk: Region) -> bool:
        """Whether a coarser level has more than glass where this chunk is, its rim left aside."""
        at = self.level_sizes[level]
        for coarser in range(len(self._levels) - 1, level, -1):
            size = self.level_sizes[coarser]
            left, right = (math.floor(x * size.width / at.width) for x in (chunk.x, chunk.right))
            top, bottom = (math.floor(y * size.height / at.height) for y in (chunk.y, chunk.bottom))
            inner = Region(left + 2, top + 2, right - left - 3, bottom - top - 3)
            if min(inner.width, inner.height) < 1:
                continue
            try:
                shown = self._read(coarser, inner)
            except INDEX_FAULTS:
                continue
            return bool(((shown.max(-1) > _BLACK) & (shown.min(-1) < _WHITE)).any())
        return False

    def associated(self, name: str) -> Pixels:
        raise KeyError(name)  # the format names none

    def close(self) -> None:
        self._levels.clear()

    def _read(self, level: int, box: Region) -> Pixels:
        """`box` in level pixels -> (h, w, 3)."""
        spans = {"x": slice(box.x, box.right), "y": slice(box.y, box.bottom), "c": slice(None)}
        data = np.asarray(self._levels[level][tuple(spans.get(name, 0) for name in self._image.axes)])
        kept = [name for name in self._image.axes if name in spans]
        return np.ascontiguousarray(data.transpose([kept.index(name) for name in "yxc"]))


def _check_colours(image: Multiscale, level: zarr.Array[Any]) -> None:
    """Raises ValueError for what is not red, green and blue of 8 bits in one plane, and says what it is."""
    size = dict(zip(image.axes, level.shape, strict=False))
    if len(image.axes) != level.ndim or not {"x", "y"} <= size.keys() or len(size) != level.ndim:
        raise ValueError(f"its axes are {', '.join(image.axes)} and its arrays have {level.ndim} dimensions")
    channels = size.pop("c", 1)
    if level.dtype != np.uint8 or channels != _CHANNELS:
        raise ValueError(f"its pixels are {channels} x {level.dtype}, not 3 channels of 8 bits: no brightfield slide")
    if image.other_colours:
        raise ValueError(f"its channels are {', '.join(image.other_colours)}, not red, green and blue")
    deep = {name: length for name, length in size.items() if name not in ("x", "y") and length > 1}
    if deep:
        raise ValueError(f"it is a stack ({', '.join(f'{n} {name}' for name, n in deep.items())}), not one plane")
