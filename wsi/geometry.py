"""Where things are on a slide: one frame (level-0 pixels, x to the right, y down) and one rounding rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


def round_px(value: float) -> int:
    """The toolkit's only rounding of lengths to pixels: half goes up, so that it never depends on parity."""
    return math.floor(value + 0.5)


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def __iter__(self) -> Iterator[int]:
        yield self.width
        yield self.height


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in level-0 pixels; (x, y) is its top-left corner and may lie outside the slide."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    def intersection(self, other: Region) -> Region | None:
        """The part both cover, or None if they do not touch."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return Region(x, y, right - x, bottom - y) if right > x and bottom > y else None

    def holds(self, other: Region) -> bool:
        """Whether all of the other lies inside this one."""
        inside = self.x <= other.x and self.y <= other.y
        return inside and other.x + other.width <= self.x + self.width and other.bottom <= self.bottom


def bounding(regions: Sequence[Region]) -> Region:
    """The smallest rectangle that holds them all."""
    x, y = min(region.x for region in regions), min(region.y for region in regions)
    return Region(x, y, max(region.right for region in regions) - x, max(region.bottom for region in regions) - y)


def pixels_along(length: int, px: float) -> tuple[int, int]:
    """How many pixels of a raster of `px` fit into `length` (at least one), and how many cover it."""
    # The small term keeps 100.00000001 from growing a pixel of nothing.
    return max(1, int(length / px + 1e-6)), math.ceil(length / px - 1e-6)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid: its own size and how many level-0 pixels one of its pixels spans, per axis."""

    size: Size
    downsample_x: float
    downsample_y: float

    @property
    def downsample(self) -> float:
        """Geometric mean of the two axes; scanners round each axis by itself, so they differ in the 4th digit."""
        return math.sqrt(self.downsample_x * self.downsample_y)


# A level may be finer than wanted by any factor, coarser by at most 1 % (15.998 for a wanted 16 is the same
# level, rounded by the scanner's software; 4 for a wanted 3.9 is not).
LEVEL_TOLERANCE = 1.01


def best_level(levels: tuple[Level, ...], wanted_downsample: float) -> int:
    """Index of the coarsest level that still holds the wanted detail; 0 if none does."""
    fit = [i for i, level in enumerate(levels) if level.downsample <= wanted_downsample * LEVEL_TOLERANCE]
    return max(fit, key=lambda i: levels[i].downsample, default=0)
