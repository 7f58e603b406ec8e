"""Slides whose levels are tiles of JPEG, decoded straight from their bytes: Aperio SVS and plain tiled TIFF.

Another reader stands behind it for all that is no pixel. Each compressed tile is decoded once for all that is read
around it, by libjpeg-turbo in the caller's thread, without the lock of Python; where every second, fourth or eighth
pixel is enough, the decoder's own scaling gives them, which spares most of the arithmetic (a smaller inverse
DCT of the low frequencies). At full scale the pixels are openslide's, bit for bit.

What it cannot be exact about, it leaves to the other reader and says why: see `accelerated`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsi.geometry import Region, Size, bounding
from wsi.location import Location
from wsi.readers import INDEX_FAULTS, Reader, unreadable
from wsi.readers.sources import ByteSource, LocalBytes
from wsi.remote import RemoteBytes

REDUCTIONS = (2, 4, 8)
KEPT_BYTES = 48 * 2**20  # of decoded tiles at the border of what was read, which the next to be read wants again
_VENDORS = ("aperio", "generic-tiff")  # others overlap tiles, leave some out, or join several scans
_JPEG, _RGB, _YCBCR, _CONTIGUOUS = 7, 2, 6, 1  # Compression, PhotometricInterpretation, PlanarConfiguration
_SOI = b"\xff\xd8"
_APPLICATION = frozenset(range(0xE0, 0xF0))  # second bytes of the markers APP0 (JFIF) to APP15
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"  # APP14; the transform follows: 0 is RGB, 1 is YCbCr
_FOREIGN = (ValueError, OSError, MemoryError)  # what damaged streams and failing storage bring out of the decoder

Pixels = NDArray[np.uint8]
_Key = tuple[int, int, int]  # level, reduction, index of a tile
_Piece = tuple[Pixels, slice, slice]  # a part of a room; rows and columns of a tile that go there


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """Where the tiles of one level lie, and what goes before each: colours and tables, which tiles share."""

    size: Size
    tile: Size
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]  # bytes of each tile; 0 where nothing was scanned
    head: bytes

    @property
    def columns(self) -> int:
        return -(-self.size.width // self.tile.width)


class FastReader:
    """A slide's JPEG tiles; see `wsi.readers.ReducingReader`. Made by `accelerated`."""

    name = "fast"
    reductions = REDUCTIONS

    def __init__(self, path: Location, behind: Reader, levels: tuple[_Level, ...], source: ByteSource) -> None:
        self._path, self._behind, self._levels, self._source = path, behind, levels, source
        self._by_index = behind.name == "openslide"  # which goes by the index in colours; tifffile by JFIF where it is
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Pixels] = OrderedDict()
        self._kept_bytes = 0
        self._scratch = threading.local()
        self.level_sizes, self.vendor, self.bounds = behind.level_sizes, behind.vendor, behind.bounds
        self.properties: Mapping[str, str] = behind.properties
        self.associated_names = behind.associated_names

    @property
    def files(self) -> tuple[Location, ...]:
        return self._behind.files

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        pixels = np.empty((height, width, 3), np.uint8)
        self.read_into(level, 1, [Region(x, y, width, height)], [pixels])
        return pixels

    def read_into(self, level: int, reduction: int, boxes: Sequence[Region], rooms: Sequence[Pixels]) -> None:
        at = self._levels[level]
        wide, high = at.tile.width // reduction, at.tile.height // reduction
        wanted = _pieces(boxes, rooms, Size(wide, high), at.columns)
        self._prefetch(level, reduction, wanted)
        around = bounding(boxes)
        inner_rows, inner_columns = _within(around.y, around.bottom, high), _within(around.x, around.right, wide)
        for index in sorted(wanted):
            row, column = divmod(index, at.columns)
            passing = row in inner_rows and column in inner_columns
            tile = (self._passing if passing else self._tile)((level, reduction, index))
            for room, rows, own in wanted[index]:
                room[:] = tile[rows, own]

    def associated(self, name: str) -> Pixels:
        return self._behind.associated(name)

    def close(self) -> None:
        self._behind.close()
        self._source.close()
        self._kept.clear()

    def _prefetch(self, level: int, reduction: int, indices: Iterable[int]) -> None:
        """Lets what is far away be fetched together."""
        at = self._levels[level]
        with self._lock:
            wanted = [index for index in indices if (level, reduction, index) not in self._kept]
        self._source.prefetch((int(at.offsets[i]), int(at.offsets[i] + at.counts[i])) for i in wanted)

    def _passing(self, key: _Key) -> Pixels:
        """A tile that nothing else will ask for, until this thread's next one: in memory that its cache still holds."""
        with self._lock:
            tile = self._kept.get(key)
        if tile is None:
            shape = self._shape(key)
            room = getattr(self._scratch, "room", None)
            if room is None or room.shape != shape:
                room = self._scratch.room = np.empty(shape, np.uint8)
            tile = self._decoded(key, room)
        return tile

    def _tile(self, key: _Key) -> Pixels:
        """A tile that is kept for a while, since others may ask for the rest of it."""
        with self._lock:
            if (tile := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return tile
        tile = self._decoded(key, np.empty(self._shape(key), np.uint8))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = tile
                self._kept_bytes += tile.nbytes
                while self._kept_bytes > KEPT_BYTES:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return tile

    def _shape(self, key: _Key) -> tuple[int, int, int]:
        level, reduction, _ = key
        tile = self._levels[level].tile
        return tile.height // reduction, tile.width // reduction, 3

    def _decoded(self, key: _Key, room: Pixels) -> Pixels:
        """The tile, in the room of its size: a stream that claims more pixels than the index does not fit."""
        level, _, index = key
        at = self._levels[level]
        n_bytes, offset = int(at.counts[index]), int(at.offsets[index])
        height, width = room.shape[:2]
        if n_bytes == 0:
            room[:] = 255
            return room
        try:
            stream = at.head + _headless(self._source.pread(n_bytes, offset), bare=self._by_index)
            tile = simplejpeg.decode_jpeg(stream, "RGB", min_height=height, min_width=width, buffer=room)
            if tile.shape != room.shape:
                raise ValueError(f"it holds {tile.shape[1]} x {tile.shape[0]} px, not {width} x {height}")
        except _FOREIGN as error:
            x, y = index % at.columns * at.tile.width, index // at.columns * at.tile.height
            raise unreadable(self._path, f"tile {index} of level {level} at ({x}, {y})", error) from error
        return tile


def _pieces(boxes: Sequence[Region], rooms: Sequence[Pixels], tile: Size, across: int) -> dict[int, list[_Piece]]:
    """Of each tile that has pixels of the boxes, by its index, `across` to a row: where in the rooms they go."""
    wanted: dict[int, list[_Piece]] = {}
    for box, room in zip(boxes, rooms, strict=True):
        columns = _along(box.x, box.right, tile.width)
        for row, to_rows, rows in _along(box.y, box.bottom, tile.height):
            for column, to_columns, own in columns:
                wanted.setdefault(row * across + column, []).append((room[to_rows, to_columns], rows, own))
    return wanted


def _along(start: int, stop: int, step: int) -> list[tuple[int, slice, slice]]:
    """Of each tile of `step` that has pixels from `start` to `stop`: its number, which they are, which of its own."""
    found = []
    for number in range(start // step, -(-stop // step)):
        begins = number * step
        first, last = max(begins, start), min(begins + step, stop)
        found.append((number, slice(first - start, last - start), slice(first - begins, last - begins)))
    return found


def _within(start: int, stop: int, step: int) -> range:
    """The tiles of `step` that lie from `start` to `stop` as a whole."""
    return range(-(-start // step), stop // step)


def accelerated(file: Path | RemoteBytes, behind: Reader) -> FastReader | str:
    """The slide `behind` has open, by this reader; or why not, in words that follow "because".

    Exact are 8-bit RGB or YCbCr levels of JPEG tiles, of vendors who lay tiles side by side and leave none out.
    """
    if behind.vendor not in _VENDORS:
        return f"it is of the kind {behind.vendor}"
    try:
        with tifffile.TiffFile(file.file() if isinstance(file, RemoteBytes) else file) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            if [(p.imagewidth, p.imagelength) for p in pages] != [tuple(size) for size in behind.level_sizes]:
                return "its levels are not one tiled image each"
            reasons = [reason for page in pages if (reason := _strange(page, behind.vendor))]
            if reasons:
                return reasons[0]
            levels = tuple(map(_level, pages))
            if isinstance(file, RemoteBytes):
                return FastReader(file.where, behind, levels, file)
            return FastReader(file, behind, levels, LocalBytes(file))
    except INDEX_FAULTS as error:  # the slide has just been opened by another library, which serves as well
        return f"its index cannot be followed ({' '.join(str(error).split()) or type(error).__name__})"


def _strange(page: Any, vendor: str) -> str:
    """What about a level this reader would not be exact about; "" if nothing."""
    width, height = page.tilewidth, page.tilelength
    tiles = -(-page.imagewidth // width) * -(-page.imagelength // height)
    named = min(len(page.dataoffsets), len(page.databytecounts))
    kind = f"{page.samplesperpixel} x {page.bitspersample} bit {getattr(page.photometric, 'name', page.photometric)}"
    colours = page.photometric in (_RGB, _YCBCR) and (page.samplesperpixel, page.bitspersample) == (3, 8)
    faults = {
        f"its tiles are compressed as {getattr(page.compression, 'name', page.compression)}": page.compression != _JPEG,
        f"its pixels are {kind}, not RGB": not colours,
        "its colours or planes lie apart": page.planarconfig != _CONTIGUOUS or page.imagedepth != 1,
        f"its tiles of {width} x {height} px are no multiples of 8": width % 8 > 0 or height % 8 > 0,
        f"its index names {named} of {tiles} tiles": named != tiles,
        "it leaves tiles out, which are drawn from other levels": vendor == "aperio" and not all(page.databytecounts),
    }
    return next((fault for fault, there in faults.items() if there), "")


def _level(page: Any) -> _Level:
    tables = page.jpegtables or b""  # a stream of its own: without its ends it goes into every tile's
    colours = _ADOBE + (b"\0" if page.photometric == _RGB else b"\1")
    return _Level(
        Size(page.imagewidth, page.imagelength),
        Size(page.tilewidth, page.tilelength),
        np.array(page.dataoffsets, np.int64),
        np.array(page.databytecounts, np.int64),
        _SOI + colours + tables[2:-2],
    )


def _headless(stream: bytes, *, bare: bool) -> bytes:
    """A JPEG stream without its first marker; `bare`: without what JFIF and Adobe say of its colours, too.

    Raises ValueError for what is no JPEG.
    """
    if stream[:2] != _SOI:
        raise ValueError("it does not begin as a JPEG does")
    at = 2
    while bare and stream[at : at + 1] == b"\xff" and stream[at + 1 : at + 2] and stream[at + 1] in _APPLICATION:
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return stream[at:]
