"""Normal mucosa: round crypts of goblet cells around a lumen, one row of nuclei at the base, loose stroma between."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .noise import Field, at, distance, ramp, scatter
from .recipe import GLAND
from .sheet import Sheet, any_angle

_SPACING_UM = 96.0
_CELL_UM = 10.5  # width of a goblet cell at its base
_NUCLEUS_UM = 7.0  # room for a nucleus along the base
_KNOTS = 96  # of a crypt's outline


@dataclass(frozen=True, slots=True, eq=False)
class _Crypts:
    centre: NDArray[np.float32]  # (N, 2) field px
    outline: NDArray[np.float32]  # (N, _KNOTS) radius in field px at equal angles
    label: NDArray[np.int32]  # (h, w) 1 + crypt, 0 between them
    depth: Field  # (h, w) um inside the outline, 0 between crypts


def normal_glands(sheet: Sheet) -> None:
    """Crypts evenly apart, cut across or a little aslant; plasma cells between them."""
    if GLAND not in sheet.share:
        return
    rng = sheet.rng("glands")
    own = sheet.share[GLAND]
    _lamina_propria(sheet, rng, own)
    crypts = _place(sheet, rng, own)
    _epithelium(sheet, rng, crypts)
    _basal_nuclei(sheet, rng, crypts)


def _lamina_propria(sheet: Sheet, rng: np.random.Generator, own: Field) -> None:
    gaps = ramp(sheet.smooth(rng, 4), 0.5, 1.3)
    sheet.lay(own * 0.8, 0.1 * (1 - gaps), (0.52 + 0.12 * sheet.smooth(rng, 5)) * (1 - gaps))


def _place(sheet: Sheet, rng: np.random.Generator, own: Field) -> _Crypts:
    spacing = _SPACING_UM / sheet.um
    centre = scatter(rng, sheet.shape, spacing, 0.12)
    centre = centre[at(own, centre) > 0.9]
    n = len(centre)
    theta = np.linspace(0, 2 * np.pi, _KNOTS, endpoint=False)
    stretch, turn = rng.uniform(0.0, 0.2, (n, 1)), rng.uniform(0, np.pi, (n, 1))
    outline = 1 + stretch * np.cos(2 * (theta - turn))
    for k in (3, 4, 5):
        outline += rng.normal(0, 0.035, (n, 1)) * np.cos(k * theta + rng.uniform(0, 6.3, (n, 1)))
    outline *= rng.uniform(0.36, 0.46, (n, 1)) * spacing
    label = np.zeros(sheet.shape, np.int32)
    for i, (c, r) in enumerate(zip(centre, outline, strict=True)):
        knots = c + r[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
        cv2.fillPoly(label, [np.round(knots * 16).astype(np.int32)], i + 1, shift=4)
    depth = distance(label > 0) * sheet.um
    return _Crypts(centre, outline.astype(np.float32), label, depth)


def _epithelium(sheet: Sheet, rng: np.random.Generator, crypts: _Crypts) -> None:
    """Colour every pixel of the crypts from its depth below the outline and its place across its goblet cell."""
    ys, xs = np.nonzero(crypts.label)
    which, depth = crypts.label[ys, xs] - 1, crypts.depth[ys, xs]
    radius = crypts.outline.mean(axis=1)[which] * sheet.um
    cell, place = _cells(sheet, rng, crypts, (ys, xs))
    luck = rng.random((3, 997), dtype=np.float32)[:, (which * 131 + cell) % 997]  # three numbers a cell
    thick = np.minimum(29, 0.72 * radius) + 1.4 * (luck[0] - 0.5)
    narrow = 1 - depth / (2.6 * radius)  # cells are wedges
    bowl = ((depth - 0.62 * thick - 3 * (luck[1] - 0.5)) / (7 + 4 * luck[2])) ** 2 + (place * narrow / 0.34) ** 2
    mucin = (1 - ramp(bowl, 0.65, 1.15)) * (luck[2] > 0.22)
    side = ramp(np.abs(place), 0.38, 0.5) * 0.14
    fine = sheet.smooth(rng, 1.6)[ys, xs]
    haem = 0.38 + 0.25 * (1 - ramp(depth, 7, 15)) + side + 0.05 * fine
    eos = 0.62 + side + 0.06 * fine
    cover, open_ = ramp(depth, 0, 1.5), 1 - ramp(depth - thick, -1.2, 1.4)
    for layer, cytoplasm, slime in ((sheet.haematoxylin, haem, 0.15), (sheet.eosin, eos, 0.13)):
        amount = (cytoplasm + mucin * (slime + 0.03 * fine - cytoplasm)) * open_
        layer[ys, xs] += cover * (amount - layer[ys, xs])
    sheet.fibre[ys, xs] *= 1 - cover


def _cells(
    sheet: Sheet, rng: np.random.Generator, crypts: _Crypts, pixels: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> tuple[NDArray[np.intp], Field]:
    """The goblet cell of each pixel, counted around its crypt, and the place across it, -0.5 to 0.5."""
    ys, xs = pixels
    which = crypts.label[ys, xs] - 1
    dx, dy = xs - crypts.centre[which, 0], ys - crypts.centre[which, 1]
    around = np.round(crypts.outline.mean(axis=1) * sheet.um * 2 * np.pi / _CELL_UM).astype(np.float32)
    wobble = (sheet.smooth(rng, 22) * 0.5 + sheet.smooth(rng, 5) * 0.14)[ys, xs]
    sector = (np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * around[which] + wobble
    cell = np.floor(sector)
    return cell.astype(np.intp), (sector - cell - 0.5).astype(np.float32)


def _basal_nuclei(sheet: Sheet, rng: np.random.Generator, crypts: _Crypts) -> None:
    for centre, outline in zip(crypts.centre, crypts.outline, strict=True):
        n = int(outline.mean() * sheet.um * 2 * np.pi / _NUCLEUS_UM)
        theta = (np.arange(n) + rng.uniform(-0.22, 0.22, n)) / n * 2 * np.pi
        radius = np.interp(theta, np.linspace(0, 2 * np.pi, _KNOTS, endpoint=False), outline, period=2 * np.pi)
        radius -= rng.normal(6.0, 0.8, n) / sheet.um
        points = centre + radius[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
        sheet.add("gland", points.astype(np.float32), theta + rng.normal(0, 0.15, n))
    between = sheet.share[GLAND] * (crypts.label == 0)
    plasma = sheet.scatter(rng, 9.0, between * 0.6)
    sheet.add("plasma", plasma, any_angle(rng, len(plasma)))
    spindle = sheet.scatter(rng, 11, between * 0.35)
    sheet.add("fibroblast", spindle, any_angle(rng, len(spindle)))
