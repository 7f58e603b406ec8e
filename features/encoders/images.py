"""From tiles as they are cut to what an image tower sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from features.spec import EncoderSpec
from wsi.errors import UsageError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def check_interpolation(name: str) -> str:
    """`name`, if tiles can be resized by it: bicubic or bilinear. Raises UsageError otherwise."""
    if name not in _FILTERS:
        raise UsageError(f"The encoder wants '{name}' interpolation, known are: {', '.join(_FILTERS)}.")
    return name


def square(size: int | Sequence[int]) -> int:
    """The side of a square input given as a number or as (height, width). Raises UsageError for other shapes."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UsageError(f"The encoder wants images of {size} px; only square ones can be given here.")
    return int(sides.pop())


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Three channels' numbers, as an EncoderSpec keeps them."""
    r, g, b = values
    return float(r), float(g), float(b)


def check_pixels(pixels: NDArray[np.uint8]) -> None:
    """Raises UsageError unless `pixels` is uint8 (B, H, W, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise UsageError(
            f"Tiles must be uint8 (B, H, W, 3), not {pixels.dtype} {pixels.shape}.",
            hint="Add a first axis to a single tile, and drop an alpha channel.",
        )


def fit(pixels: NDArray[np.uint8], spec: EncoderSpec) -> NDArray[np.uint8]:
    """(B, H, W, 3) -> (B, input_px, input_px, 3): shortest side to `input_px` with antialiasing, then centre crop.

    Tiles of that size are given back as they are. The arithmetic is PIL's, as in open_clip and in the PIL backend of
    transformers, bit for bit.
    """
    side = spec.input_px
    if pixels.shape[1:3] == (side, side):
        return pixels
    return np.stack([_resized(image, side, _FILTERS[spec.interpolation]) for image in pixels])


def _resized(pixels: NDArray[np.uint8], side: int, method: Image.Resampling) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    shortest = min(height, width)
    size = (int(side * width / shortest), int(side * height / shortest))
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(Image.fromarray(pixels).resize(size, method))[top : top + side, left : left + side]


def normalised(pixels: NDArray[np.uint8], spec: EncoderSpec, device: torch.device) -> torch.Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) on `device`, (x / 255 - mean) / std. Bytes travel, not floats."""
    writable = np.require(pixels, requirements=["C", "W"])  # torch warns of memory it might write to but must not
    x = (
        torch.from_numpy(writable)
        .to(device)
        .permute(0, 3, 1, 2)
        .to(torch.float32, memory_format=torch.contiguous_format)
    )
    mean = torch.tensor(spec.mean, device=device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=device).view(3, 1, 1)
    return x.div_(255).sub_(mean).div_(std)
