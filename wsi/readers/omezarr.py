"""Slides as OME-Zarr (NGFF 0.4 on Zarr v2, 0.5 on Zarr v3): one folder, three channels of 8 bits.

A chunk that was never written reads as the array's fill value, which is 0 nearly always: black, which would pass for
tissue. A chunk of nothing but zeros is therefore taken for one that was not scanned, whether or not a file of it is
there; by the format the two are the same, and writers leave out the one for the other. Reads are made of whole
chunks for that, so that a pixel does not depend on the rectangle it was asked for in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi.geometry import Region, Size
from wsi.limits import MAX_LEVELS, MAX_SEGMENT_PX, implausible
from wsi.ngff import Multiscale, image_folder, read_multiscale
from wsi.readers import INDEX_FAULTS, unreachable, unreadable, unsupported

_CHANNELS = 3

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
        except INDEX_FAULTS as error:
            raise unsupported(folder, " ".join(str(error).split()) or type(error).__name__) from error
        self.level_sizes = tuple(self._size(level.shape) for level in self._levels)
        self._chunks = tuple(self._size(level.chunks) for level in self._levels)
        for chunk in self._chunks:
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

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        box = Region(x, y, width, height)
        held = _whole_chunks(box, self._chunks[level], self.level_sizes[level])
        try:
            pixels = self._read(level, held)
        except INDEX_FAULTS as error:
            where = f"level {level} at ({x}, {y}), {width} x {height} px"
            raise unreadable(self._path, where, error) from error
        if not self._levels[level].fill_value:
            for chunk in _cells(held, self._chunks[level]):
                part = pixels[chunk.y - held.y : chunk.bottom - held.y, chunk.x - held.x : chunk.right - held.x]
                if not part.any():
                    part[...] = 255
        return pixels[y - held.y : box.bottom - held.y, x - held.x : box.right - held.x]

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

    def _size(self, shape: tuple[int, ...]) -> Size:
        return Size(shape[self._image.axes.index("x")], shape[self._image.axes.index("y")])


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


def _whole_chunks(box: Region, chunk: Size, size: Size) -> Region:
    """`box` with all of every chunk it touches, as far as the level goes."""
    x, y = box.x - box.x % chunk.width, box.y - box.y % chunk.height
    right = min(size.width, -(-box.right // chunk.width) * chunk.width)
    bottom = min(size.height, -(-box.bottom // chunk.height) * chunk.height)
    return Region(x, y, right - x, bottom - y)


def _cells(box: Region, chunk: Size) -> Iterator[Region]:
    """The chunks of a box that is made of whole ones."""
    for y in range(box.y, box.bottom, chunk.height):
        for x in range(box.x, box.right, chunk.width):
            yield Region(x, y, min(chunk.width, box.right - x), min(chunk.height, box.bottom - y))
