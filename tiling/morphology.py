"""Shapes of a mask: grown, closed, opened, holes filled, specks dropped. Radii and areas are in pixels of the mask."""

from __future__ import annotations

from collections.abc import Iterator

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


def without_holes(mask: Bools, area: float, witness: Bools | None = None, share: float = 0.0) -> Bools:
    """Holes of at most this area filled, if at least a share of each is in `witness`.

    What is open to the frame is no hole.
    """
    height, width = mask.shape
    labels, stats = _components(~mask, 4)
    left, top, w, h, size = stats.T
    reaches_frame = (left == 0) | (top == 0) | (left + w == width) | (top + h == height)
    hole = (size <= area) & ~reaches_frame & _attested(labels, size, witness, share)
    hole[0] = False  # label 0 is the mask itself
    return mask | hole[labels]


def without_specks(mask: Bools, area: float, witness: Bools | None = None, share: float = 0.0) -> Bools:
    """Pieces of at least this area, if at least a share of each is in `witness`."""
    labels, stats = _components(mask, 8)
    size = stats[:, 4]
    kept = (size >= area) & _attested(labels, size, witness, share)
    kept[0] = False  # label 0 is the outside
    return kept[labels]


def _components(mask: Bools, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Labels (h, w), 0 outside the mask, and for each label left, top, width, height and area."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    return np.asarray(labels, np.int32), np.asarray(stats, np.int32)


def _attested(labels: NDArray[np.int32], size: NDArray[np.int32], witness: Bools | None, share: float) -> Bools:
    """(labels,) True where at least a share of a component's pixels is in `witness`, or none is asked."""
    if witness is None:
        return np.ones(len(size), np.bool_)
    return np.asarray(np.bincount(labels[witness], minlength=len(size)) >= share * size)


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
