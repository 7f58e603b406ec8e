"""Overviews drawn by hand: glass, tissue of any stain, ink."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MPP = 8.0
PINK, VIOLET, GLASS = (205, 140, 180), (120, 80, 150), (240, 239, 240)
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def glass(colour: tuple[int, int, int] = GLASS, noise: float = 1.0, shape: tuple[int, int] = (200, 260)) -> Image:
    rng = np.random.default_rng(7)
    return np.clip(np.array(colour) + rng.normal(0, noise, (*shape, 3)), 0, 255).astype(np.uint8)


def texture(seed: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Structure of a few um to a few cells, the same in all channels; standard deviation 0.12."""
    rng = np.random.default_rng(seed)
    parts = [cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), sigma) for sigma in (0.7, 2.0)]
    return 0.12 * np.asarray(sum(part / part.std() for part in parts)) / 2**0.5


def tissue(
    stain: tuple[int, int, int] = PINK, on: tuple[int, int, int] = GLASS, strength: float = 1.0
) -> tuple[Image, Mask]:
    """An ellipse of tissue of 1.3 x 0.9 mm on glass: optical density of the stain, with texture."""
    image = glass(on).astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    inside = ((x - 130) / 80) ** 2 + ((y - 100) / 56) ** 2 < 1
    density = -np.log(np.array(stain) / np.array(GLASS)) * strength
    amount = np.clip(1 + texture(3, inside.shape), 0.2, None)[..., None] * inside[..., None]
    return np.clip(image * np.exp(-density * amount), 0, 255).astype(np.uint8), inside


def stroke(image: Image, colour: tuple[int, int, int], points: list[tuple[int, int]], width: int = 12) -> Image:
    """A line of ink, streaky, that lets through `colour` of the light."""
    cover = np.zeros(image.shape[:2], np.uint8)
    cv2.polylines(cover, [np.array(points, np.int32)], False, 255, width, cv2.LINE_AA)
    streaks = np.clip(0.95 - 0.3 * np.abs(texture(5, cover.shape)), 0, 1)
    share = (cover / 255 * streaks)[..., None]
    return np.asarray(image * (1 - share * (1 - np.array(colour) / 255)), np.uint8)
