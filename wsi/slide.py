"""A slide: an open file, where its pixels are, how large they are, and how to get them.

All geometry lives here, once for all readers. Rectangles in public signatures are level-0 pixels; a `box` in this
module is the same kind of rectangle in the pixels of one level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Never, Self

from wsi.drawing import Drawing
from wsi.files import fingerprint
from wsi.geometry import Level, Region, Size, best_level, bounding, pixels_along, round_px
from wsi.limits import check_overview, check_read
from wsi.location import Location
from wsi.readers import ReducingReader, WarningReader, unreachable
from wsi.resolution import objective_power, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsi.readers import Reader


class Slide:
    """An open whole-slide image; `with open_slide(path) as slide`.

    Safe to read from several threads. Never pickled: send the path, and open it where it is needed.
    """

    def __init__(self, path: Location, reader: Reader, mpp: float | None = None, reader_note: str = "") -> None:
        """`mpp` in um per level-0 px goes before what the file says; MppImplausible if it is outside 0.05-20."""
        self.path = path
        self.reader = reader.name
        self.reader_note = reader_note  # why no faster reader took it; "" where one did, or where none was asked for
        self.vendor = reader.vendor
        self.size = reader.level_sizes[0]
        self.levels = tuple(
            Level(size, self.size.width / size.width, self.size.height / size.height) for size in reader.level_sizes
        )
        self.objective_power = objective_power(reader.properties)
        self.associated_names = reader.associated_names
        self._whole = Region(0, 0, self.size.width, self.size.height)
        self.bounds = (reader.bounds and reader.bounds.intersection(self._whole)) or self._whole
        self._resolution = resolve(reader.properties, mpp)
        self._reader = reader
        self._reducing = reader if isinstance(reader, ReducingReader) else None
        self._reductions = sorted(self._reducing.reductions, reverse=True) if self._reducing else []
        self._closed = False
        self._lost = 0.0  # share of an overview that could not be decoded

    @property
    def mpp(self) -> float:
        """um per level-0 pixel. Raises MppMissing, or MppImplausible if what the file says cannot be."""
        return self._resolution.require(self.path)

    @property
    def mpp_source(self) -> str:
        """The property that `mpp` was taken from, "given by the caller" or "none"."""
        return self._resolution.source

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences a user should see: figures that were not believed, a resolution unusual for the objective.

        Once an overview was drawn, also how much of it could not be decoded, or was never stored.
        """
        noticed = self._reader.warnings if isinstance(self._reader, WarningReader) else ()
        lost = f"{self._lost:.2%} of the overview cannot be decoded at any level: it is drawn white."
        return (*self._resolution.warnings, *([lost] if self._lost else []), *noticed)

    @property
    def files(self) -> tuple[Location, ...]:
        """All files of the slide, the main one first: companions of MRXS, the other parts of a DICOM series.

        An OME-Zarr is the one folder that it is. A remote slide is a `wsi.location.RemoteFile`.

        They are looked for each time. Raises SlideMissing or SlideUnreadable where that fails.
        """
        with self._reaching():
            return self._reader.files

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that change when the slide is replaced; see `wsi.files.fingerprint`. Errors as `files`."""
        with self._reaching():
            return fingerprint(self._reader.files)

    def read(self, region: Region, size: Size | None = None) -> NDArray[np.uint8]:
        """uint8 (h, w, 3) RGB of `region`, resampled to `size` (default: one pixel per level-0 pixel).

        White beyond the slide and where nothing was scanned. Raises SlideUnreadable where pixels cannot be decoded,
        UsageError for more than 2^28 pixels at once.
        """
        pixels, _ = self.read_many([region], size or Size(region.width, region.height))
        return pixels[0]

    def read_many(
        self, regions: Sequence[Region], size: Size, *, exact: bool = True
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """n regions of one width and height -> uint8 (n, h, w, 3) RGB, and padded, bool (n,): leaves the slide.

        What they share is read once, so give neighbours; the box around them all may be. Each region is resampled by
        itself: its pixels are the same, bit for bit, in whatever company it is read. Errors as `read`.

        Not `exact`: where a region is made of whole blocks of 2, 4 or 8 pixels a side, and no more than one pixel for
        each is wanted, a reader that can scale in decoding may do that instead of taking means. It is about twice as
        fast and differs by less than one grey level on average.
        """
        import numpy as np

        tiles = np.empty((len(regions), size.height, size.width, 3), np.uint8)
        return tiles, self.read_into(list(tiles), regions, exact=exact)

    def read_into(
        self, rooms: Sequence[NDArray[np.uint8]], regions: Sequence[Region], *, exact: bool = True
    ) -> NDArray[np.bool_]:
        """As `read_many`, each region's pixels into its own room, a contiguous uint8 (h, w, 3); gives padded (n,)."""
        import numpy as np

        size = Size(rooms[0].shape[1], rooms[0].shape[0])
        level = self._level_for(regions, size)
        boxes = [self._box(region, level) for region in regions]
        factors = [1 if exact else self._reduction(box, size) for box in boxes]
        for factor in set(factors):
            at = [i for i, own in enumerate(factors) if own == factor]
            self._fill([rooms[i] for i in at], [_scaled(boxes[i], factor) for i in at], level, factor)
        return np.array([not self._whole.holds(region) for region in regions])

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        """uint8 (h, w, 3) RGB of `bounds`, its longer side `max_px`, or less if the slide has no more pixels.

        Errors as `read`.
        """
        px = max(1.0, max(self.bounds.width, self.bounds.height) / max_px)
        size = Size(max(1, round_px(self.bounds.width / px)), max(1, round_px(self.bounds.height / px)))
        return self._draw(size, (self.bounds.width / size.width, self.bounds.height / size.height))

    def overview(self, mpp: float) -> tuple[NDArray[np.uint8], float]:
        """`bounds` at `mpp` um per pixel: uint8 (h, w, 3) RGB, and how many level-0 px one of its pixels spans.

        Pixel (0, 0) begins at the corner of `bounds`; the last ones may reach beyond it. A slide coarser than `mpp`
        is given as it is, with a span of 1. Raises MppMissing or MppImplausible as `.mpp`, SlideImplausible for more
        than 2^28 pixels, SlideUnreadable as `read`.
        """
        px = max(1.0, mpp / self.mpp)
        size = Size(*(pixels_along(side, px)[1] for side in (self.bounds.width, self.bounds.height)))
        check_overview(self.path, size, self.mpp)
        return self._draw(size, (px, px)), px

    def associated(self, name: str) -> NDArray[np.uint8]:
        """uint8 (h, w, 3) RGB of a small picture beside the slide. Raises KeyError if it has none of that name."""
        from wsi.pixels import on_white

        if name not in self.associated_names:
            raise KeyError(f"{self.path} has no associated image {name!r}, only {', '.join(self.associated_names)}")
        self._check_open()
        return on_white(self._reader.associated(name))

    def close(self) -> None:
        """Gives the file back. Calling it twice does no harm."""
        self._closed = True
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Slide {str(self.path)!r}, {self.size.width} x {self.size.height} px, by {self.reader}>"

    def __reduce__(self) -> Never:
        raise TypeError("A Slide holds an open file and is never pickled: send its path, and open it there.")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Around work on the files themselves, which no reader translates."""
        try:
            yield
        except OSError as error:
            raise unreachable(self.path, error) from error

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.path} is closed")

    def _level_for(self, regions: Sequence[Region], size: Size) -> int:
        spans = {Size(region.width, region.height) for region in regions}
        if len(spans) != 1:
            raise ValueError(f"regions read together have one width and height, not {len(spans)}")
        (span,) = spans
        if min(*span, *size) < 1:
            raise ValueError(f"a region and what it is read to are at least one pixel wide and high: {span}, {size}")
        return best_level(self.levels, min(span.width / size.width, span.height / size.height))

    def _box(self, region: Region, level: int) -> Region:
        at = self.levels[level]
        x, width = _along(region.x, region.width, at.downsample_x, self.size.width)
        y, height = _along(region.y, region.height, at.downsample_y, self.size.height)
        return Region(x, y, width, height)

    def _reduction(self, box: Region, size: Size) -> int:
        """The largest factor the reader can scale by in decoding: of whole blocks, and without falling below `size`."""
        wanted = min(box.width / size.width, box.height / size.height)
        edges = (box.x, box.y, box.width, box.height)
        fit = (factor for factor in self._reductions if factor <= wanted and not any(edge % factor for edge in edges))
        return next(fit, 1)

    def _fill(self, rooms: Sequence[NDArray[np.uint8]], boxes: Sequence[Region], level: int, factor: int) -> None:
        """Each room with its box, all of one size: as it is decoded, or resampled out of the block around them all."""
        from wsi.pixels import crop, resize_into, white_outside

        if self._reducing is None or rooms[0].shape[:2] != (boxes[0].height, boxes[0].width):
            pixels, held = self._read_box(bounding(boxes), level, factor)
            for room, box in zip(rooms, boxes, strict=True):
                resize_into(room, crop(pixels, held, box))
            return
        self._check_open()
        whole = self._extent(level, factor)
        parts = [white_outside(whole, box, room) for box, room in zip(boxes, rooms, strict=True)]
        if inside := [part for part in parts if part is not None]:
            around = bounding([box for box, _ in inside])
            check_read(around.width * around.height)
            self._reducing.read_into(level, factor, *zip(*inside, strict=True))

    def _read_box(self, box: Region, level: int, factor: int = 1) -> tuple[NDArray[np.uint8], Region]:
        """RGB of what lies inside the level, and the box it fills: (0, 0, 3) and an empty one if nothing does.

        In pixels of the level at a scale of 1 / factor, the last of which may be filled in part.
        """
        import numpy as np

        from wsi.pixels import on_white

        held = box.intersection(self._extent(level, factor))
        if held is None:
            return np.empty((0, 0, 3), np.uint8), Region(0, 0, 0, 0)
        check_read(held.width * held.height)
        self._check_open()
        if self._reducing is not None:
            pixels = np.empty((held.height, held.width, 3), np.uint8)
            self._reducing.read_into(level, factor, [held], [pixels])
            return pixels, held
        return on_white(self._reader.read_level(level, held.x, held.y, held.width, held.height)), held

    def _extent(self, level: int, factor: int) -> Region:
        return Region(0, 0, *(-(-side // factor) for side in self.levels[level].size))

    def _draw(self, size: Size, px: tuple[float, float]) -> NDArray[np.uint8]:
        """`bounds` as `Drawing.draw` gives it; what is lost is told in `warnings`."""
        drawing = Drawing(self.bounds, self.levels, self._reductions, self._read_box)
        image = drawing.draw(size, px)
        self._lost = max(self._lost, drawing.lost)
        return image


def _along(start: int, span: int, downsample: float, whole: int) -> tuple[int, int]:
    """Start and length in level pixels of what begins at `start` and spans `span` level-0 pixels of `whole`.

    The two roundings may together reach a pixel over the edge; what lies inside the slide is moved back inside.
    """
    first, length = round_px(start / downsample), max(1, round_px(span / downsample))
    if start >= 0 and start + span <= whole:
        first = min(first, round_px(whole / downsample) - length)
    return first, length


def _scaled(box: Region, factor: int) -> Region:
    return Region(box.x // factor, box.y // factor, box.width // factor, box.height // factor)
