"""Shapes of a mask: grown, closed, opened, trimmed; its pieces and holes. Radii and areas are in pixels of the mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]  # (h, w)

_STRIP_PX = 512  # rows worked on at a time where floats are needed: a whole glass then fits into little memory


def strips(height: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """Rows in strips: which to look at, `halo` more above and below, and which of those looked at to keep."""
    for top in range(0, height, _STRIP_PX):
        above = min(top, halo)
        yield slice(top - above, top + _STRIP_PX + halo), slice(above, above + _STRIP_PX)


def grown(mask: Bools, radius: float) -> Bools:
    """Everything within a radius of the mask; the mask itself for radii below one pixel."""
    import cv2

    reach = np.arange(-int(radius), int(radius) + 1)
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.uint8)
    return np.asarray(cv2.dilate(mask.view(np.uint8), disc)).view(np.bool_)


def shrunk(mask: Bools, radius: float) -> Bools:
    """What is farther than a radius from everything outside the mask. Beyond the frame counts as inside."""
    return ~grown(~mask, radius)


def closed(mask: Bools, radius: float) -> Bools:
    """Gaps narrower than twice the radius joined. Beyond the frame its outermost pixels go on."""
    pad = int(np.ceil(radius)) + 1
    return shrunk(grown(np.pad(mask, pad, mode="edge"), radius), radius)[pad:-pad, pad:-pad].copy()


def opened(mask: Bools, radius: float) -> Bools:
    """Without what is narrower than twice the radius."""
    return grown(shrunk(mask, radius), radius)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Connected parts of a mask. Label 0 is everything else; it has no area and is never chosen."""

    labels: NDArray[np.int32]  # (h, w)
    area: NDArray[np.int32]  # (n,) pixels of each label

    def share(self, witness: Bools) -> NDArray[np.float64]:
        """(n,) share of each part that is also in `witness`."""
        seen = np.bincount(self.labels[witness], minlength=len(self.area))
        return np.divide(seen, self.area, out=np.zeros(len(seen)), where=self.area > 0)

    def chosen(self, which: Bools) -> Bools:
        """(h, w) the pixels of the parts for which `which` (n,) is True."""
        return np.asarray((which & (self.area > 0))[self.labels])


def pieces(mask: Bools) -> Parts:
    """What hangs together, corners included."""
    labels, stats = _components(mask, 8)
    return Parts(labels, stats[:, 4])


def holes(mask: Bools) -> Parts:
    """What the mask encloses. What is open to the frame is no hole."""
    labels, stats = _components(~mask, 4)
    left, top, width, height, area = stats.T
    closed_in = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    return Parts(labels, np.where(closed_in, area, 0))


def _components(mask: Bools, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Labels (h, w), 0 outside the mask, and for each label left, top, width, height and area (0 for label 0)."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    stats[0, 4] = 0
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def trimmed(mask: Bools, weight: NDArray[np.float32], rim: float, window: float) -> Bools:
    """Without rim pixels of less than half the mean weight of the mask around them.

    An edge that a lens or an average has smeared out goes back to where half of it is left.
    """
    import cv2

    side = max(3, 2 * round(window / 2) + 1)
    kept = shrunk(mask, rim)
    for seen, inner in strips(len(mask), side):
        inside = mask[seen].astype(np.float32)
        total, share = cv2.blur(weight[seen] * inside, (side, side)), cv2.blur(inside, (side, side))
        heavy = weight[seen] * share >= total / 2
        kept[seen][inner] |= mask[seen][inner] & heavy[inner]
    return kept
