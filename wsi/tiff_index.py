"""The index of a TIFF file, read without any library: where its pages say that their bytes are.

A copy that broke off leaves a file whose index points beyond its end; libraries call that an unsupported format or
find out at the first missing tile, hours later. The same walk finds declared sizes that are out of all proportion,
before a library acts on them. Layout: TIFF 6.0 (1992) and its 64-bit form, BigTIFF.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from wsi.errors import SlideTruncated
from wsi.geometry import Size
from wsi.limits import MAX_SEGMENT_PX, check_sizes, implausible
from wsi.location import Location

MAX_PAGES = 4096
_WIDTH, _HEIGHT, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 278, 322, 323
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_SUB_PAGES = 330
_SAMPLES, _PLANES, _APART = 277, 284, 2  # samples of a pixel; whether red, green and blue are tiles of their own
_NDPI_VERSION = 65420  # Hamamatsu: a level is one strip with restart markers, decoded in part
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SIZES = (_WIDTH, _HEIGHT, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT)
_NEEDED = frozenset((*_SIZES, _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _SUB_PAGES, _SAMPLES, _PLANES, _NDPI_VERSION))
_UNSIGNED = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


@dataclass(frozen=True, slots=True)
class Page:
    """One image of the file."""

    size: Size
    segment: Size | None  # of a tile or strip, which decoders take into memory whole; None if they need not
    segments: int = 0  # how many it takes to fill the image
    named: int = 0  # how many the index names


class _Layout(NamedTuple):
    entries: str  # of entries in a directory
    entry: str  # tag, type, number of values; the values or their offset follow
    offset: str


_CLASSIC, _BIG = _Layout("H", "HHI", "I"), _Layout("Q", "HHQ", "Q")
_HEADERS = {
    b"II*\0": ("<", _CLASSIC, 4),  # byte order, layout, where the first page's offset is stored
    b"MM\0*": (">", _CLASSIC, 4),
    b"II+\0": ("<", _BIG, 8),
    b"MM\0+": (">", _BIG, 8),
}
_Tags = dict[int, tuple[int, ...]]


def is_tiff(head: bytes) -> bool:
    """By the first four bytes of a file."""
    return head[:4] in _HEADERS


def check_index(path: Location, file: IO[bytes], n_bytes: int) -> None:
    """Looks at all images of a TIFF file of `n_bytes`, sub-images (SubIFDs) included, for what cannot be.

    Raises SlideTruncated if the index, or anything it points to, lies beyond the end of the file, or if there is
    nothing where it points, as in the zeros of a copy that was given its full length first. Raises SlideImplausible if
    it names too many pages, or leads in a circle, which tifffile would follow for ever; and for sizes that no slide
    has. A page that several others point to is visited once.
    """
    pages = tuple(_Index(path, file, n_bytes).pages())
    check_sizes(path, [page.size for page in pages], n_bytes)
    for page in pages:
        _check_segments(path, page)


def _check_segments(path: Location, page: Page) -> None:
    """Raises SlideImplausible where tiles or strips are of no size, or too large, or where the index leaves some out.

    Libraries take what is left out for parts that were never scanned, and show them white.
    """
    if page.segment is None:
        return
    n_px = page.segment.width * page.segment.height
    if not 0 < n_px <= MAX_SEGMENT_PX:
        raise implausible(path, f"declares a tile or strip of {page.segment.width} x {page.segment.height} px")
    if 0 < page.named < page.segments:
        raise implausible(
            path, f"is made of {page.segments:,} tiles or strips, of which its index names {page.named:,}"
        )


class _Index:
    """A walk over the directories of one open file; every step is checked against the file's length."""

    def __init__(self, path: Location, file: IO[bytes], length: int) -> None:
        self._path = path
        self._file = file
        self._length = length
        self._order, self._layout, self._first = _HEADERS[file.read(4)]

    def pages(self) -> Iterator[Page]:
        if self._layout is _CLASSIC and self._length >= 1 << 32:
            return  # Hamamatsu's large files: their offsets are cut to 32 bits and mean nothing here
        waiting, seen = [self._number(self._first)], {0}
        while waiting:
            offset, chain = waiting.pop(), set[int]()
            while offset not in seen:
                seen.add(offset)
                chain.add(offset)
                if len(seen) > MAX_PAGES:
                    raise implausible(self._path, f"declares more than {MAX_PAGES} pages")
                tags, offset = self._directory(offset)
                waiting += tags.get(_SUB_PAGES, ())
                if tags.get(_WIDTH) and tags.get(_HEIGHT):
                    self._check_data(tags.get(_TILES, ()), tags.get(_TILE_BYTES, ()))
                    self._check_data(tags.get(_STRIPS, ()), tags.get(_STRIP_BYTES, ()))
                    yield _page(tags)
            if offset in chain:
                raise implausible(self._path, "has an index that leads in a circle")

    def _directory(self, offset: int) -> tuple[_Tags, int]:
        """The numbers of one page, and where the next one is (0: there is none)."""
        layout, order = self._layout, self._order
        head = struct.Struct(order + layout.entries)
        (n_entries,) = head.unpack(self._take(offset, head.size))
        if n_entries == 0:
            raise _broken_off(self._path, f"has nothing at byte {offset:,}, where its index points to")
        entry, inline = struct.Struct(order + layout.entry), struct.calcsize(layout.offset)
        end = offset + head.size + n_entries * (entry.size + inline)
        block = self._take(offset + head.size, end - offset - head.size)
        tags: _Tags = {}
        for at in range(0, len(block), entry.size + inline):
            tag, kind, n = entry.unpack_from(block, at)
            n_bytes = n * _TYPE_BYTES.get(kind, 0)
            value = block[at + entry.size : at + entry.size + inline]
            if n_bytes > inline:
                (where,) = struct.unpack(order + layout.offset, value)
                self._check_end(where + n_bytes)
                value = self._take(where, n_bytes) if tag in _NEEDED else b""
            if tag in _NEEDED and kind in _UNSIGNED:
                tags[tag] = struct.unpack_from(f"{order}{n}{_UNSIGNED[kind]}", value)
        return tags, self._number(end)

    def _check_data(self, offsets: tuple[int, ...], counts: tuple[int, ...]) -> None:
        self._check_end(max((o + n for o, n in zip(offsets, counts, strict=False) if n), default=0))

    def _number(self, at: int) -> int:
        """The offset that is stored at `at`."""
        (number,) = struct.unpack(
            self._order + self._layout.offset, self._take(at, struct.calcsize(self._layout.offset))
        )
        return int(number)

    def _take(self, offset: int, n_bytes: int) -> bytes:
        self._check_end(offset + n_bytes)
        self._file.seek(offset)
        return self._file.read(n_bytes)

    def _check_end(self, end: int) -> None:
        if end > self._length:
            raise _broken_off(self._path, f"ends at byte {self._length:,}, but its index points to byte {end:,}")


def _broken_off(path: Location, what: str) -> SlideTruncated:
    hint = "The copy broke off or the file is damaged: copy it again from its source."
    return SlideTruncated(f"{path} {what}.", hint=hint, path=str(path))


def _page(tags: _Tags) -> Page:
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    if _NDPI_VERSION in tags:
        return Page(Size(width, height), None)
    if tags.get(_TILE_WIDTH) and tags.get(_TILE_HEIGHT):
        segment, where = Size(tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]), (_TILES, _TILE_BYTES)
    else:
        rows = tags.get(_ROWS_PER_STRIP) or (height,)
        segment, where = Size(width, min(rows[0], height)), (_STRIPS, _STRIP_BYTES)
    planes = tags.get(_SAMPLES, (1,))[0] if tags.get(_PLANES) == (_APART,) else 1
    across, down = -(-width // max(1, segment.width)), -(-height // max(1, segment.height))
    named = min((len(tags[tag]) for tag in where if tag in tags), default=0)
    return Page(Size(width, height), segment, across * down * planes, named)
