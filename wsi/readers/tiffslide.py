"""Slides through tiffslide (tifffile underneath): TIFF flavours that openslide refuses, OME-TIFF among them.

One lock around the reads. The library's handle is not made for several threads, one handle for each would parse the
whole index again and again, and it decodes the tiles of a read in threads of its own anyway.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiffslide import TiffSlide

from wsi.geometry import Region, Size
from wsi.location import Location
from wsi.readers import INDEX_FAULTS, unreadable, unsupported
from wsi.remote import RemoteBytes

_GREY, _RGB, _YCBCR = 1, 2, 6  # PhotometricInterpretation, as TIFF 6.0 numbers it
_JPEG, _JPEG_2000 = 7, (33003, 33004)  # Compression; the latter as Aperio and Leica number it
_INTERLEAVED = 1  # PlanarConfiguration
_PREMULTIPLIED = 1  # ExtraSamples


class TiffSlideReader:
    """A slide opened with tiffslide; see `wsi.readers.Reader`."""

    name = "tiffslide"
    bounds: Region | None = None

    def __init__(self, file: Path | RemoteBytes) -> None:
        """A remote file is closed with the reader."""
        self._source = file if isinstance(file, RemoteBytes) else None
        self._path: Location = file.where if isinstance(file, RemoteBytes) else file
        self._lock = threading.Lock()
        taken: Any = file.file() if isinstance(file, RemoteBytes) else file
        try:
            self._slide = TiffSlide(taken)
        except INDEX_FAULTS as error:
            raise unsupported(self._path, error) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of every vendor it knows in part; we look for ourselves
                facts = self._slide.properties
            self._pages = self._level_pages(facts)
            self._check_vendor()
            self._check_index()
            self._check_colours(facts["tiffslide.series-axes"])
            self.level_sizes = tuple(Size(w, h) for w, h in self._slide.level_dimensions)
            self.associated_names = tuple(sorted(self._slide.associated_images))
        except INDEX_FAULTS as error:
            self._slide.close()
            raise unsupported(self._path, error) from error
        self.properties: Mapping[str, str] = {k: str(v) for k, v in facts.items() if v is not None}
        self.vendor = self.properties.get("tiffslide.vendor", "generic-tiff")

    @property
    def files(self) -> tuple[Location, ...]:
        return (self._path,)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        corner = (_level_0(x, downsample), _level_0(y, downsample))
        page, box = self._pages[level], Region(x, y, width, height)
        if self._source is not None:
            self._source.prefetch(_byte_ranges(page, box))
        try:
            with self._lock:
                pixels = self._slide.read_region(corner, level, (width, height), as_array=True, padding=False)
        except INDEX_FAULTS as error:
            where = f"level {level} at ({x}, {y}), {width} x {height} px"
            raise unreadable(self._path, where, error) from error
        colours = _as_colour(np.asarray(pixels, np.uint8), page)
        for hole in _holes(page, box):
            colours[hole.y - y : hole.bottom - y, hole.x - x : hole.right - x] = 255
        return colours

    def associated(self, name: str) -> NDArray[np.uint8]:
        try:
            with self._lock:
                return np.asarray(self._slide.associated_images[name].convert("RGB"))
        except INDEX_FAULTS as error:
            raise unreadable(self._path, f"its associated image {name!r}", error) from error

    def close(self) -> None:
        self._slide.close()
        if self._source is not None:
            self._source.close()

    def _level_pages(self, facts: Mapping[str, Any]) -> tuple[Any, ...]:
        """The TIFF page that describes each level."""
        series = self._slide.ts_tifffile.series[facts["tiffslide.series-index"]]
        return tuple(level.keyframe for level in series.levels)

    def _check_vendor(self) -> None:
        """Raises ValueError for remote slides whose layout only openslide knows: tiles that overlap, padded levels."""
        tiff = self._slide.ts_tifffile
        if self._source is not None and (tiff.is_bif or tiff.is_philips):
            vendor = "Ventana" if tiff.is_bif else "Philips"
            raise ValueError(f"slides of {vendor} are read right by openslide only, which takes local files")

    def _check_index(self) -> None:
        """Raises ValueError where the index names fewer tiles than there are: the others would come out black."""
        for page in self._pages:
            named, there = len(page.dataoffsets), len(page.databytecounts)
            if named < there:
                raise ValueError(f"its index names {named} of {there} tiles")

    def _check_colours(self, axes: str) -> None:
        """Raises ValueError for samples that are not 8-bit colours: fluorescence channels are not red, green, blue."""
        page = self._pages[0]
        if not isinstance(page.compression, IntEnum):
            raise ValueError(f"its compression {page.compression} is not known")
        grey = axes == "YX" and page.photometric == _GREY
        decoded = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression in (_JPEG, *_JPEG_2000))
        colour = page.samplesperpixel in (3, 4) and decoded  # YCbCr of other codecs would come out unconverted
        if page.dtype != np.uint8 or not (grey or colour):
            kind = getattr(page.photometric, "name", page.photometric)
            raise ValueError(f"its pixels are {page.samplesperpixel} x {page.dtype} {kind}, not 8-bit RGB or grey")


def _level_0(position: int, downsample: float) -> int:
    """The level-0 position that the library, which divides and cuts off, takes back to `position` of the level."""
    found = math.ceil(position * downsample)
    return found if int(found / downsample) == position else found + 1


def _as_colour(pixels: NDArray[np.uint8], page: Any) -> NDArray[np.uint8]:
    """(h, w, 1, 3 or 4) as stored -> (h, w, 3), or (h, w, 4) with alpha not multiplied in; writable."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if _PREMULTIPLIED in page.extrasamples:  # multiplied in already: only the white behind it is missing
        return pixels[..., :3] + (255 - pixels[..., 3:])
    return pixels


def _holes(page: Any, box: Region) -> Iterator[Region]:
    """Where in `box` the file has no tile. The library gives black there, which would pass for tissue."""
    if all(page.databytecounts) or page.planarconfig != _INTERLEAVED:
        return
    for index, part in _segments(page, box):
        if not page.databytecounts[index]:
            yield part


def _byte_ranges(page: Any, box: Region) -> Iterator[tuple[int, int]]:
    """Where in the file the tiles or strips lie that `box` touches, as far as the page tells in a plain way."""
    if page.planarconfig == _INTERLEAVED:
        for index, _ in _segments(page, box):
            if index < len(page.dataoffsets):
                yield page.dataoffsets[index], page.dataoffsets[index] + page.databytecounts[index]


def _segments(page: Any, box: Region) -> Iterator[tuple[int, Region]]:
    """The tiles or strips that `box` touches, by their number, and what of it lies in each."""
    width, height = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    columns = math.ceil(page.imagewidth / width)
    for row in range(box.y // height, math.ceil(box.bottom / height)):
        for column in range(box.x // width, math.ceil(box.right / width)):
            part = Region(column * width, row * height, width, height).intersection(box)
            if part is not None:
                yield row * columns + column, part
