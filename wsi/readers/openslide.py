"""Slides through libopenslide: most vendors' formats.

Three habits of the library decide what is written here.
- It takes level-0 coordinates and divides them by its own downsample, the mean of both axes. Where that is no whole
  number (4.0002), hardly any level pixel is hit exactly and it interpolates between neighbours, by a shift that
  depends on the corner asked for. Such levels are therefore always read from the corners of fixed cells, so that a
  pixel does not depend on the request; the shift stays under half a level-0 pixel.
- A handle that met one bad tile fails for ever after, in all threads.
- What was never scanned is transparent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi.errors import SlideUnreadable, SlideUnsupported
from wsi.geometry import Region, Size, round_px
from wsi.readers import unreadable, unsupported
from wsi.readers.companions import files_of

_CELL_PX = 256  # of the fixed cells: what a tile reads beyond itself against calls per block, measured


class OpenSlideReader:
    """A slide opened with openslide; see `wsi.readers.Reader`."""

    name = "openslide"

    def __init__(self, path: Path) -> None:
        self._path = path
        handle = _open(path)
        self._handle: openslide.OpenSlide | None = handle
        self._downsamples: tuple[float, ...] = handle.level_downsamples
        self.level_sizes = tuple(Size(w, h) for w, h in handle.level_dimensions)
        self.properties: Mapping[str, str] = dict(_properties(handle))
        self.vendor = self.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.associated_names = tuple(sorted(handle.associated_images))

    @property
    def bounds(self) -> Region | None:
        names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
        told = [int(self.properties.get(f"openslide.{name}", -1)) for name in names]
        return Region(*told) if min(told) >= 0 else None

    @property
    def files(self) -> tuple[Path, ...]:
        return files_of(self._path)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if self._downsamples[level].is_integer():
            return self._read(level, Region(x, y, width, height))
        pixels = np.empty((height, width, 4), np.uint8)
        for rows in _spans(y, y + height):
            for cols in _spans(x, x + width):
                box = Region(cols.cell, rows.cell, cols.stop - cols.cell, rows.stop - rows.cell)
                part = self._read(level, box)[rows.start - rows.cell :, cols.start - cols.cell :]
                pixels[rows.start - y : rows.stop - y, cols.start - x : cols.stop - x] = part
        return pixels

    def associated(self, name: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._current().associated_images[name])
        except openslide.OpenSlideError as error:
            self._handle = None
            raise unreadable(self._path, f"its associated image {name!r}", error) from error

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        self._handle = None

    def _current(self) -> openslide.OpenSlide:
        handle = self._handle  # looked at once: another thread may let it go in between
        if handle is None:
            handle = self._handle = _open_again(self._path)
        return handle

    def _read(self, level: int, box: Region) -> NDArray[np.uint8]:
        """`box` in level pixels -> (h, w, 4)."""
        downsample = self._downsamples[level]
        corner = (round_px(box.x * downsample), round_px(box.y * downsample))
        size = (box.width, box.height)
        try:
            return np.asarray(self._current().read_region(corner, level, size))
        except openslide.OpenSlideError:
            # Perhaps another thread met the bad tile, in this handle: only one of our own can tell. The spent one is
            # let go rather than closed, for others may still be inside it.
            self._handle = None
        try:
            with _open_again(self._path) as own:
                return np.asarray(own.read_region(corner, level, size))
        except openslide.OpenSlideError as error:
            where = f"level {level} at ({box.x}, {box.y}), {box.width} x {box.height} px"
            raise unreadable(self._path, where, error) from error


def _properties(handle: openslide.OpenSlide) -> Iterator[tuple[str, str]]:
    for name in handle.properties:
        # A damaged name is no UTF-8: the library lists it, and does not know it when asked for it.
        with contextlib.suppress(KeyError):
            yield name, handle.properties[name]


class _Span(NamedTuple):
    """start..stop lies in one cell, and `cell` is where that begins."""

    cell: int
    start: int
    stop: int


def _spans(start: int, stop: int) -> Iterator[_Span]:
    while start < stop:
        cell = start - start % _CELL_PX
        yield _Span(cell, start, min(stop, cell + _CELL_PX))
        start = cell + _CELL_PX


def _open(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise unsupported(path, error) from error
    except openslide.OpenSlideError as error:
        raise unreadable(path, "its header", error) from error


def _open_again(path: Path) -> openslide.OpenSlide:
    """A new handle of a file that has been open: where it is refused now, its format is not what changed."""
    try:
        return _open(path)
    except SlideUnsupported as error:
        told = error.facts["reason"]
        hint = "Its disk or network may fail: try again when it works, or copy it to a local disk."
        raise SlideUnreadable(
            f"{path} was open and cannot be opened again ({told}).", hint=hint, path=str(path), reason=told
        ) from error
