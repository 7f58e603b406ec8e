"""Random fields and tessellations that tissue is made of. All float32, all in pixels of the caller's raster."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # float32 throughout; the wider type spares casts around NumPy's own signatures


def smooth(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    """A smooth Gaussian field of `shape` with zero mean and unit spread; blobs are about 3 x `scale` px wide."""
    step = max(scale / 2, 1.0)
    coarse = [math.ceil(n / step) + 8 for n in shape]
    grid = rng.standard_normal(coarse, dtype=np.float32)
    grid = blur(grid, max(scale / step, 0.5))
    grid *= 1 / max(float(grid.std()), 1e-6)
    to_grid = np.array([[1 / step, 0, 3], [0, 1 / step, 3]], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    field = cv2.warpAffine(grid, to_grid, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(field, np.float32)


def band(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    """Like `smooth`, without the slow part: blobs of one size, evenly strewn."""
    field = smooth(rng, shape, scale) - 0.75 * smooth(rng, shape, scale * 2.5)
    return field / 1.25


def ramp(field: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between (cubic Hermite)."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def upsample(field: Field, factor: int) -> Field:
    """Bilinear enlargement by a whole factor."""
    return np.asarray(cv2.resize(field, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR), np.float32)


def blur(field: Field, sigma: float) -> Field:
    """Gaussian, `sigma` in px; channels of an (h, w, c) array each by itself."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma), np.float32)


def scatter(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, jitter: float = 0.35
) -> NDArray[np.float32]:
    """(N, 2) points (x, y) over the raster, about `spacing` px apart: a hexagonal lattice, turned and shaken."""
    reach = math.hypot(*shape) / 2 + 2 * spacing
    n = math.ceil(reach / (spacing * math.sqrt(3) / 2))
    row, col = np.mgrid[-n : n + 1, -n : n + 1].astype(np.float64)
    points = np.stack([(col + 0.5 * (row % 2)) * spacing, row * spacing * math.sqrt(3) / 2], axis=-1).reshape(-1, 2)
    turn = rng.uniform(0, 2 * math.pi)
    turned = points @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    turned += rng.uniform(-jitter, jitter, turned.shape) * spacing + np.array(shape[::-1]) / 2
    inside = ((turned >= 0) & (turned < np.array(shape[::-1]) - 1)).all(axis=1)
    return turned[inside].astype(np.float32)


def at(field: NDArray, points: NDArray[np.float32]) -> NDArray:
    """Values of a raster at (N, 2) points (x, y), nearest pixel."""
    return field[points[:, 1].astype(int), points[:, 0].astype(int)]


def tessellate(
    points: NDArray[np.float32], shape: tuple[int, int], warp: tuple[Field, Field] | None = None
) -> tuple[NDArray[np.int32], Field]:
    """Which point is nearest to each pixel (h, w), and how far in px the pixel is from the border of that cell.

    `warp` (dx, dy) bends the borders.
    """
    seeds = np.full(shape, 255, np.uint8)
    seeds[points[:, 1].astype(int), points[:, 0].astype(int)] = 0
    _, raw = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    if warp is not None:
        x, y = pixel_grid(shape)
        where = (x + warp[0]).astype(np.float32), (y + warp[1]).astype(np.float32)
        raw = cv2.remap(raw.astype(np.float32), *where, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    label = np.asarray(raw, np.int32)
    within = np.ones(shape, np.bool_)
    within[:, 1:] &= label[:, 1:] == label[:, :-1]
    within[1:] &= label[1:] == label[:-1]
    return label, distance(within)


def distance(inside: NDArray[np.bool_]) -> Field:
    """How far each pixel lies inside, px; 0 outside. Where nothing is outside, the raster's longer side."""
    far = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    return np.minimum(np.asarray(far, np.float32), max(inside.shape))


def pixel_grid(shape: tuple[int, int]) -> tuple[Field, Field]:
    """x (1, w) and y (h, 1) of the pixels: together they broadcast to the raster."""
    return np.arange(shape[1], dtype=np.float32)[None, :], np.arange(shape[0], dtype=np.float32)[:, None]


def per_label(rng: np.random.Generator, labels: NDArray[np.int32], low: float, high: float) -> Field:
    """One uniform number for each label, laid out like `labels`."""
    return rng.uniform(low, high, int(labels.max()) + 1).astype(np.float32)[labels]
