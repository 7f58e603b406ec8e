"""Drawing overviews and thumbnails: a whole slide at a coarse scale, in blocks, around what cannot be decoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi.errors import SlideUnreachable, SlideUnreadable
from wsi.geometry import Level, Region, Size, best_level, round_px
from wsi.limits import check_read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Overviews are read in blocks of at most this many level pixels (64 MB with alpha), wider than high, for flat TIFFs
# are often stored in strips across the whole width, each decoded again for every block that touches it.
_BLOCK = Size(16_384, 1_024)
_FINER_PX = 1 << 20  # of a finer level, read in place of what is damaged
_LEAST_PX = 8  # side of a part that is given up as a whole: 64 um of a tissue overview
MAX_LOST = 0.05  # share of a drawing from which on it is no drawing of the slide


@dataclass(slots=True, eq=False)
class Drawing:
    """A picture of `bounds`. `lost` tells afterwards how much of it could be decoded at no level, and is white."""

    bounds: Region
    levels: tuple[Level, ...]
    reductions: list[int]  # that the reader can decode at, the largest first
    read_box: Callable[[Region, int, int], tuple[NDArray[np.uint8], Region]]  # of a level, at 1 / factor
    lost: float = 0.0

    def draw(self, size: Size, px: tuple[float, float]) -> NDArray[np.uint8]:
        """(size.height, size.width, 3) from the corner of `bounds`, each pixel spanning `px` level-0 px in x and y.

        What a level cannot give is drawn from the next finer one. Raises SlideUnreadable where more than 5 % of the
        drawing can be had from none.
        """
        import numpy as np

        from wsi.pixels import resize

        check_read(size.width * size.height)
        scale = self._scale(best_level(self.levels, min(px)), px)
        if max(scale.step) > _BLOCK.height:  # a single pixel would be more than a block: draw it finer first
            fine = math.ceil(max(scale.step) / _BLOCK.height)
            finer = self.draw(Size(size.width * fine, size.height * fine), (px[0] / fine, px[1] / fine))
            return resize(finer, size)
        image = np.empty((size.height, size.width, 3), np.uint8)
        for part in _parts(size, Size(int(_BLOCK.width / scale.step[0]), int(_BLOCK.height / scale.step[1]))):
            self._put(image, part, px)
        return image

    def _put(self, image: NDArray[np.uint8], part: Region, px: tuple[float, float]) -> None:
        fault: SlideUnreadable | None = None
        for scale in self._scales(part, px):
            try:
                image[part.y : part.bottom, part.x : part.right] = self._drawn(part, scale)
                return
            except SlideUnreachable:
                raise
            except SlideUnreadable as error:
                fault = fault or error
        assert fault is not None, "the coarsest level was tried"
        if max(part.width, part.height) > _LEAST_PX:
            for quarter in _parts(Size(part.width, part.height), Size(-(-part.width // 2), -(-part.height // 2))):
                self._put(image, Region(part.x + quarter.x, part.y + quarter.y, quarter.width, quarter.height), px)
            return
        self.lost += part.width * part.height / (image.shape[0] * image.shape[1])
        if self.lost > MAX_LOST:
            raise fault
        image[part.y : part.bottom, part.x : part.right] = 255

    def _scales(self, part: Region, px: tuple[float, float]) -> Iterator[_Scale]:
        """The level that a part is drawn from, and the finer ones that could stand in for it."""
        first = best_level(self.levels, min(px))
        yield self._scale(first, px)
        finer = [i for i, at in enumerate(self.levels) if at.downsample < self.levels[first].downsample]
        for level in sorted(finer, key=lambda i: -self.levels[i].downsample):
            scale = self._scale(level, px)
            if part.width * scale.step[0] * part.height * scale.step[1] * scale.factor**2 <= _FINER_PX:
                yield scale

    def _scale(self, level: int, px: tuple[float, float]) -> _Scale:
        at = self.levels[level]
        # The mean of at least two reduced pixels a side: edges rounded to these are off by a quarter of a pixel drawn.
        finest = min(px[0] / at.downsample_x, px[1] / at.downsample_y)
        factor = next((f for f in self.reductions if 2 * f <= finest), 1)
        pitch = (at.downsample_x * factor, at.downsample_y * factor)
        return _Scale(level, factor, pitch, (px[0] / pitch[0], px[1] / pitch[1]))

    def _drawn(self, part: Region, scale: _Scale) -> NDArray[np.uint8]:
        from wsi.pixels import crop, resize

        left, top = self.bounds.x / scale.pitch[0], self.bounds.y / scale.pitch[1]
        x, right = (round_px(left + edge * scale.step[0]) for edge in (part.x, part.right))
        y, bottom = (round_px(top + edge * scale.step[1]) for edge in (part.y, part.bottom))
        box = Region(x, y, max(1, right - x), max(1, bottom - y))
        return resize(crop(*self.read_box(box, scale.level, scale.factor), box), Size(part.width, part.height))


@dataclass(frozen=True, slots=True)
class _Scale:
    """How pixels of one level become pixels drawn."""

    level: int
    factor: int  # the reader's own reduction
    pitch: tuple[float, float]  # level-0 px per pixel read
    step: tuple[float, float]  # pixels read per pixel drawn


def _parts(size: Size, step: Size) -> Iterator[Region]:
    """`size` cut into rectangles of at most `step`."""
    for y in range(0, size.height, step.height):
        for x in range(0, size.width, step.width):
            yield Region(x, y, min(step.width, size.width - x), min(step.height, size.height - y))
