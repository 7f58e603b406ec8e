"""Shapes of a mask: grown, closed, opened, holes filled, specks dropped. Radii and areas are in pixels of the mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]  # (h, w)


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


def without_holes(mask: Bools, area: float) -> Bools:
    """Holes of at most this area filled. Glass that reaches the frame is no hole."""
    import cv2

    height, width = mask.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)
    left, top, w, h, size = stats.T
    reaches_frame = (left == 0) | (top == 0) | (left + w == width) | (top + h == height)
    hole = (size <= area) & ~reaches_frame
    hole[0] = False  # label 0 is the mask itself
    return mask | hole[labels]


def without_specks(mask: Bools, area: float, witness: Bools, share: float) -> Bools:
    """Pieces of at least this area of which at least a share is also in `witness`."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    size = stats[:, cv2.CC_STAT_AREA]
    seen = np.bincount(labels[mask & witness], minlength=count)
    kept = (size >= area) & (seen >= share * size)
    kept[0] = False  # label 0 is the outside
    return kept[labels]


def trimmed(mask: Bools, weight: NDArray[np.float32], rim: float, window: float) -> Bools:
    """Without rim pixels of less than half the mean weight of the mask around them.

    An edge that a lens or an average has smeared out goes back to where half of it is left.
    """
    import cv2

    side = max(3, 2 * round(window / 2) + 1)
    inside = mask.astype(np.float32)
    total, share = cv2.blur(weight * inside, (side, side)), cv2.blur(inside, (side, side))
    core = shrunk(mask, rim)
    return mask & (core | (weight * share >= total / 2))
