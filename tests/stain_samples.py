"""Images of two stains in known amounts: what a laboratory with other stains would make of the same section."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tiling.macenko import Stains

Image = NDArray[np.uint8]
REFERENCE = Stains().vectors
RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # Anal Quant Cytol Histol 23:291 (2001)
BLUISH = np.array([[0.77, 0.56, 0.31], [0.17, 0.91, 0.37]])  # as on the slide CMU-1
DAB = np.array([0.27, 0.57, 0.78])  # Ruifrok's too


def amounts(shape: tuple[int, int] = (512, 512), seed: int = 0) -> NDArray[np.float64]:
    """(h, w, 2): nuclei and cytoplasm, alone in places and together in others, with bare glass at the left."""
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), sigma) for sigma in (3, 6)]
    nuclei, cytoplasm = (field / field.std() for field in fields)
    drawn = np.stack([np.clip(nuclei - 0.6, 0, 1.6), np.clip(0.7 + 0.5 * cytoplasm, 0, 1.5)], axis=2)
    drawn[:, : shape[1] // 8] = 0
    return drawn


def stained(
    vectors: NDArray[np.float64], amount: NDArray[np.float64], glass: tuple[float, float, float] = (255, 255, 255)
) -> Image:
    """Lambert-Beer: light that `amount` (h, w, n) of stains (n, 3) lets through."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.rint(np.array(glass) * np.exp(-amount @ unit)).astype(np.uint8)


def jpeg(image: Image, quality: int) -> Image:
    """As it comes back from a file."""
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8)


def noisy(image: Image, sd: float = 1.0) -> Image:
    """With the noise of a sensor."""
    return np.clip(image + np.random.default_rng(7).normal(0, sd, image.shape), 0, 255).astype(np.uint8)
