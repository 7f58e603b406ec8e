"""Small blood vessels, cut across: a wall, flat endothelium around it, red cells within."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .noise import Field, at, ramp, scatter
from .recipe import STROMA
from .sheet import Sheet, any_angle

_REACH = 40  # field px around a vessel's centre that are looked at
_SPACING_UM = 130.0


@dataclass(frozen=True, slots=True)
class _Vessel:
    """An ellipse; lengths in field px."""

    centre: tuple[int, int]
    a: float
    b: float
    turn: float

    @property
    def window(self) -> tuple[slice, slice]:
        x, y = self.centre
        return slice(y - _REACH, y + _REACH + 1), slice(x - _REACH, x + _REACH + 1)

    def depth(self) -> Field:
        """How far inside the ellipse each pixel of the window lies, about in px."""
        y, x = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1]
        c, s = math.cos(self.turn), math.sin(self.turn)
        return ((1 - np.hypot((x * c + y * s) / self.a, (y * c - x * s) / self.b)) * self.b).astype(np.float32)

    def rim(self, theta: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Points (N, 2) on the outline and its direction there."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        u, v = self.a * np.cos(theta), self.b * np.sin(theta)
        points = np.stack([u * c - v * s, u * s + v * c], axis=1) + self.centre
        return points.astype(np.float32), np.arctan2(self.b * np.cos(theta), -self.a * np.sin(theta)) + self.turn


def vessels(sheet: Sheet) -> None:
    """A few in the stroma, none near its border."""
    if STROMA not in sheet.share:
        return
    rng = sheet.rng("vessels")
    h, w = sheet.shape
    centres = sheet.scatter(rng, _SPACING_UM, (sheet.share[STROMA] > 0.95) * 0.6)
    for x, y in centres.astype(int):
        if _REACH <= x < w - _REACH - 1 and _REACH <= y < h - _REACH - 1:
            a = float(rng.uniform(5, 22)) / sheet.um
            vessel = _Vessel((int(x), int(y)), a, a * rng.uniform(0.5, 0.9), rng.uniform(0, math.pi))
            _wall(sheet, vessel)
            _cells(sheet, vessel, rng)


def _wall(sheet: Sheet, vessel: _Vessel) -> None:
    depth = vessel.depth()
    wall, lumen = ramp(depth, -3.5, -1.5), ramp(depth, -0.3, 0.6)
    for layer, in_wall, in_lumen in ((sheet.haematoxylin, 0.15, 0.0), (sheet.eosin, 0.7, 0.04)):
        here = layer[vessel.window]
        here += wall * (in_wall - here)
        here += lumen * (in_lumen - here)
    sheet.fibre[vessel.window] *= 1 - wall


def _cells(sheet: Sheet, vessel: _Vessel, rng: np.random.Generator) -> None:
    ring, tangent = vessel.rim(np.arange(0, 2 * math.pi, 9 / (vessel.a * sheet.um)) + rng.uniform(0, 1))
    sheet.add("endothelium", ring, tangent)
    red = scatter(rng, (2 * _REACH + 1, 2 * _REACH + 1), 6.5 / sheet.um, 0.3)
    red = red[(at(vessel.depth(), red) > 3 / sheet.um) & (rng.random(len(red)) < rng.uniform(0.2, 1.0))]
    corner = np.array(vessel.centre, np.float32) - _REACH
    sheet.add("red cell", red + corner, any_angle(rng, len(red)))
