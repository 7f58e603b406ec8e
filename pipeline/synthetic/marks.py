"""What does not belong on a section: pen on the glass, dust, a crack, a fold."""

from __future__ import annotations

import math
from types import MappingProxyType

import cv2
import numpy as np

from .layout import Frame
from .noise import Field, at, blur, ramp, smooth, upsample
from .nuclei import Nuclei
from .recipe import SlideRecipe, stream
from .sheet import Sheet
from .stain import Ink

_TRANSMISSION = MappingProxyType({"blue": (0.13, 0.24, 0.62), "green": (0.10, 0.48, 0.30), "black": (0.09, 0.09, 0.11)})
_DUST = (0.35, 0.32, 0.3)


def crack(sheet: Sheet) -> Field:
    """Tear the tissue open along a line or two, nuclei and all; returns where the glass shows, 0-1."""
    rng = sheet.rng("crack")
    line = np.abs(sheet.smooth(rng, 260) + 0.12 * sheet.smooth(rng, 40)) * 260
    width = ramp(sheet.smooth(rng, 150), 0.6, 2.2) * (13 + 1.5 * sheet.smooth(rng, 9))
    gap = ramp(width - line, 0, 2)
    sheet.lay(gap, 0, 0)
    sheet.nuclei = [_outside(gap, nuclei, sheet.frame) for nuclei in sheet.nuclei]
    return gap


def _outside(gap: Field, nuclei: Nuclei, frame: Frame) -> Nuclei:
    limit = np.array(gap.shape[::-1], np.float32) - 1
    keep = at(gap, np.clip(nuclei.xy / frame.field_px, 0, limit)) < 0.5
    return Nuclei(nuclei.kind, nuclei.xy[keep], nuclei.angle[keep])


def thickness(plan: SlideRecipe, frame: Frame) -> Field:
    """How thick the section lies, 1 on average, nearly 2 in a fold; (h, w) of the field."""
    rng = stream(plan.seed, "thickness")
    shape, um = frame.field_shape, frame.field_um
    even = 1 + 0.06 * smooth(rng, shape, 250 / um)
    line = np.abs(smooth(rng, shape, 220 / um) + 0.1 * smooth(rng, shape, 30 / um)) * 220
    here = ramp(smooth(rng, shape, 150 / um), 1.2, 1.8)
    return (even + 0.8 * here * (1 - ramp(line, 8, 14))).clip(0.7, 2)


def pen(plan: SlideRecipe, frame: Frame) -> Field:
    """How much of the light a pen stroke takes, 0-1 on the field's raster: an arc around the tissue, partly over it."""
    h, w = frame.field_shape
    if plan.pen is None:
        return np.zeros((h, w), np.float32)
    rng = stream(plan.seed, "pen")
    t = np.linspace(0, 1, 40)
    angle = rng.uniform(0, 2 * math.pi) + t * rng.uniform(1.2, 2.6)
    radius = rng.uniform(0.36, 0.46) * (1 + 0.06 * np.sin(5 * t + rng.uniform(0, 6)))
    points = np.stack([w * (0.5 + radius * np.cos(angle)), h * (0.5 + radius * np.sin(angle))], axis=1)
    stroke = np.zeros((h, w), np.uint8)
    width = max(1, round(rng.uniform(90, 150) / frame.field_um))
    cv2.polylines(stroke, [np.round(points).astype(np.int32)], False, 1, width)
    return _as_ink(stroke.astype(np.float32), frame, rng)


def _as_ink(stroke: Field, frame: Frame, rng: np.random.Generator) -> Field:
    """A ragged out-of-focus edge, darker where the ink dried at the rim, and paler patches."""
    shape, um = stroke.shape, frame.field_um
    ragged = blur(stroke, 12 / um) + 0.06 * smooth(rng, shape, 15 / um)
    patches = 0.90 - 0.10 * np.abs(smooth(rng, shape, 35 / um))
    rim = 0.14 * (1 - ramp(ragged, 0.6, 0.95))
    return blur(ramp(ragged, 0.38, 0.62) * (patches + rim).clip(0.55, 1), 3 / um)


def ink(plan: SlideRecipe, frame: Frame, stroke: Field) -> Ink:
    """The pen's stroke and some dust, ready for the whole slide."""
    cover = np.maximum(stroke, _dust(plan, frame))
    return Ink(upsample(cover, frame.field_px), _TRANSMISSION[plan.pen] if plan.pen else _DUST)


def _dust(plan: SlideRecipe, frame: Frame) -> Field:
    rng = stream(plan.seed, "dust")
    h, w = frame.field_shape
    dust = np.zeros((h, w), np.float32)
    for _ in range(int(rng.integers(4, 14))):
        centre = (int(rng.integers(w)), int(rng.integers(h)))
        axes = [max(1, round(rng.uniform(1, longest) / frame.field_um)) for longest in (4, 3)]
        cv2.ellipse(dust, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.2, 0.7)), -1)
    return blur(dust, 1.0)
