"""Tiles against classes: cosine, smoothing over the lattice, softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heads.bag import Bag
from wsi.errors import EncoderMismatch, UsageError

Lattice = tuple[int, int]  # (rows, cols), the shape of TileGrid.keep

_BLOCK = 8192  # tiles compared at a time: bounds the float64 copy
_LARGEST_LOG = 10.0  # exp(10) is 220 times CLIP's temperature; beyond it somebody gave the factor, not its logarithm


def unit(vectors: ArrayLike) -> NDArray[np.float64]:
    """Vectors along the last axis at length 1, in float64; a vector of zeros stays one."""
    v = np.asarray(vectors, np.float64)
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(length > 0, length, 1)


def tile_similarity(
    bag: Bag, class_embeddings: NDArray[np.float32], smooth_over: Lattice | None = None
) -> NDArray[np.float32]:
    """Cosine of every tile with every class, float32 (N, C), -1..1.

    class_embeddings (C, D), of any length but 0. With smooth_over, the shape (rows, cols) of the slide's lattice
    (`grid.keep.shape`), a tile's row is the mean over itself and those of its 8 neighbours that are in the bag.

    Raises UsageError for a bag without tiles, class embeddings that are not finite rows, or cells outside the lattice;
    EncoderMismatch where D differs.
    """
    classes = np.asarray(class_embeddings)
    if classes.ndim != 2 or not len(classes) or not np.isfinite(classes).all() or not classes.any(axis=1).all():
        raise UsageError("class_embeddings holds one vector a class (classes, dimensions): finite, and not all zeros.")
    if classes.shape[1] != bag.x.shape[1]:
        raise EncoderMismatch(
            f"Slide {bag.slide_id!r} has {bag.x.shape[1]} features a tile, the classes have {classes.shape[1]}.",
            hint="Embed the prompts with the encoder of the features.",
        )
    if not len(bag):
        raise UsageError(f"Slide {bag.slide_id!r} has no tiles to compare.", hint="Look at its tissue mask.")
    across = unit(classes).T
    s = np.concatenate([unit(bag.x[i : i + _BLOCK]) @ across for i in range(0, len(bag), _BLOCK)], dtype=np.float32)
    return s if smooth_over is None else _smooth(s, bag.cells, smooth_over)


def softmax(s: NDArray[Any], logit_scale: float) -> NDArray[np.float64]:
    """softmax(exp(logit_scale) * s) over the last axis. Raises UsageError for a scale that cannot be a logarithm."""
    if not (math.isfinite(logit_scale) and logit_scale <= _LARGEST_LOG):
        raise UsageError(
            f"logit_scale is a natural logarithm, and {logit_scale:g} is too large for one.",
            hint="For a factor of 100 give log(100) = 4.605.",
        )
    z = math.exp(logit_scale) * np.asarray(s, np.float64)
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _smooth(s: NDArray[np.float32], cells: NDArray[np.int64], lattice: Lattice) -> NDArray[np.float32]:
    rows, cols = lattice
    if cells[-1] >= rows * cols:
        raise UsageError(f"Cell {cells[-1]} lies outside a lattice of {rows} x {cols}.", hint="Give grid.keep.shape.")
    n, wide = len(s), cols + 2
    row, col = np.divmod(cells, cols)
    here = (row + 1) * wide + col + 1  # in a lattice with a rim, so that every cell has 8 neighbours
    row_of = np.full((rows + 2) * wide, n)  # n, one past the last tile: a row of zeros
    row_of[here] = np.arange(n)
    padded = np.concatenate([s, np.zeros_like(s[:1])])
    total, count = np.zeros(s.shape), np.zeros((n, 1))
    for step in (down * wide + right for down in (-1, 0, 1) for right in (-1, 0, 1)):
        near = row_of[here + step]
        total += padded[near]
        count += (near < n)[:, None]
    return (total / count).astype(np.float32)
