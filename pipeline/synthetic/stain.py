"""From amounts of stain to grey levels: the Beer-Lambert law, then the scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .noise import Field, blur
from .recipe import SlideRecipe, stream

_BAND = 256  # rows developed at a time: bounds the memory of the three float channels


@dataclass(frozen=True, slots=True, eq=False)
class Ink:
    """What lies on the glass and takes light."""

    cover: Field  # (H, W) 0-1
    transmission: tuple[float, float, float]  # of R, G, B where the cover is 1


def develop(haematoxylin: Field, eosin: Field, ink: Ink, plan: SlideRecipe) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of the amounts of both stains (H, W), in optical density along each stain's vector.

    I = I0 exp(-sum of c_s v_s), Ruifrok & Johnston 2001; then the pen, the blur of the lens and the sensor's noise.
    """
    height, width = haematoxylin.shape
    pixels = np.empty((height, width, 3), np.uint8)
    sigma = plan.stain.blur_um / plan.mpp
    margin = int(np.ceil(4 * sigma))
    rng = stream(plan.seed, "sensor")
    for top in range(0, height, _BAND):
        rows = slice(max(0, top - margin), min(height, top + _BAND + margin))
        light = _transmit(haematoxylin[rows], eosin[rows], plan)
        if ink.cover[rows].any():
            light *= 1 - ink.cover[rows][..., None] * (1 - np.array(ink.transmission, np.float32))
        light = blur(light, sigma)[top - rows.start :][:_BAND]
        light += plan.stain.noise * rng.standard_normal(light.shape, dtype=np.float32)
        pixels[top : top + _BAND] = np.clip(light + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _transmit(haematoxylin: Field, eosin: Field, plan: SlideRecipe) -> NDArray[np.float32]:
    """Grey levels 0-255 before blur and noise, float32 (h, w, 3)."""
    stain = plan.stain
    amounts = (haematoxylin * stain.haematoxylin_strength, eosin * stain.eosin_strength)
    light = np.empty((*haematoxylin.shape, 3), np.float32)
    for channel in range(3):
        density = amounts[0] * stain.haematoxylin[channel] + amounts[1] * stain.eosin[channel]
        light[..., channel] = stain.white[channel] * np.exp(-density)
    return light
