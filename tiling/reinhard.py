"""Colours moved and stretched so that their mean and spread become those of a reference.

Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 34-41 (2001): channel
by channel in a space whose channels are nearly independent. Theirs is l-alpha-beta; here it is CIE LAB in eight bits,
as in most implementations for histology: results can be compared with theirs, and nothing but integers is needed.
The glass is no part of it: moved along with the tissue it would be tinted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiling.macenko import Light, Pixels
from wsi.errors import StainsUnfit

Lab = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Colours:
    """Mean and standard deviation of tissue in CIE L* (0 to 100), a* and b*."""

    mean: Lab
    sd: Lab


_NO_TISSUE, _TISSUE = 0.03, 0.10  # share of light held back in the channel that loses most; the glass varies by 0.02
_LEAST_PIXELS = 1_000
_PER_UNIT = np.array([2.55, 1.0, 1.0])  # levels of eight bits for one of L*, a* and b*
_ZERO = np.array([0.0, 128.0, 128.0])  # the level of none


def find_colours(pixels: Pixels, glass: Light) -> Colours:
    """Mean and spread of what is tissue among pixels uint8 (..., 3), relative to the glass.

    Raises StainsUnfit where there is next to no tissue, or all of it has one colour.
    """
    import cv2

    bright = cv2.LUT(np.ascontiguousarray(pixels).reshape(-1, 1, 3), whitening(glass))
    tissue = bright[bright.min(axis=2) <= 255 * (1 - _TISSUE)].reshape(-1, 1, 3)
    if len(tissue) < _LEAST_PIXELS:
        raise StainsUnfit(
            f"of the {len(bright):,} pixels looked at, {len(tissue):,} are darker than empty glass, where "
            f"{_LEAST_PIXELS:,} ({_LEAST_PIXELS / max(1, len(bright)):.1%}) are needed"
        )
    lab = (cv2.cvtColor(tissue, cv2.COLOR_RGB2LAB).reshape(-1, 3).T - _ZERO[:, None]) / _PER_UNIT[:, None]
    mean, sd = lab.mean(axis=1), lab.std(axis=1)
    if sd.min() == 0:
        raise StainsUnfit("the tissue has one colour")
    return Colours((float(mean[0]), float(mean[1]), float(mean[2])), (float(sd[0]), float(sd[1]), float(sd[2])))


def whitening(glass: Light) -> Pixels:
    """(1, 256, 3) levels that make glass of that colour white."""
    return np.clip(np.rint(np.arange(256)[:, None] * 255 / np.array(glass)), 0, 255).astype(np.uint8)[None]


def tables(found: Colours, target: Colours) -> Pixels:
    """(1, 256, 3) levels of L*, a* and b* for those seen."""
    seen = (np.arange(256)[:, None] - _ZERO) / _PER_UNIT
    wanted = (seen - found.mean) * (np.array(target.sd) / found.sd) + target.mean
    return np.clip(np.rint(wanted * _PER_UNIT + _ZERO), 0, 255).astype(np.uint8)[None]


def transferred(tile: Pixels, white: Pixels, levels: Pixels) -> Pixels:
    """uint8 (h, w, 3), every pixel for itself; what is as bright as glass stays white, with a seamless passage."""
    import cv2

    bright = cv2.LUT(tile, white)
    moved = cv2.cvtColor(cv2.LUT(cv2.cvtColor(bright, cv2.COLOR_RGB2LAB), levels), cv2.COLOR_LAB2RGB)
    red, green, blue = cv2.split(bright)
    share = cv2.LUT(cv2.min(cv2.min(red, green), blue), _fading())
    held = cv2.multiply(cv2.bitwise_not(moved), cv2.merge([share] * 3), scale=1 / 255)
    return np.asarray(cv2.bitwise_not(held), np.uint8)


def _fading() -> Pixels:
    """(256,) for the level of the darkest channel: 255 where it is tissue, 0 where it is glass."""
    darkness = 1 - np.arange(256) / 255
    return np.rint(255 * np.clip((darkness - _NO_TISSUE) / (_TISSUE - _NO_TISSUE), 0, 1)).astype(np.uint8)
