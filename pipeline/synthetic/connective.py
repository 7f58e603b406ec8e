"""Connective tissue: collagen with its fibroblasts, fat, aggregates of lymphocytes."""

from __future__ import annotations

import numpy as np

from .noise import blur, ramp, scatter, tessellate
from .recipe import ADIPOSE, LYMPH, STROMA
from .sheet import Sheet, any_angle, direction


def stroma(sheet: Sheet) -> None:
    """Pink fibres under everything; spindle nuclei along them, a few lymphocytes between."""
    rng = sheet.rng("stroma")
    loose = sheet.smooth(rng, 60)
    body = 0.66 + 0.08 * loose + 0.05 * sheet.smooth(rng, 8)
    sheet.lay(sheet.tissue, 0.08, body - (0.12 + 0.3 * ramp(loose, 0, 2)) * (1 - sheet.seam))
    sheet.fibre = sheet.tissue * sheet.seam * (0.9 + 0.2 * loose).clip(0.3, 1.3)
    own = sheet.share.get(STROMA, np.zeros(sheet.shape, np.float32))
    cellular = ramp(sheet.smooth(rng, 35), -1.5, 1.5)
    points = sheet.scatter(rng, 15, own * (0.15 + 0.5 * cellular))
    sheet.add("fibroblast", points, sheet.fibre_angle(points) + rng.normal(0, 0.2, len(points)))
    roaming = sheet.scatter(rng, 11, own * ramp(sheet.smooth(rng, 30), 0.7, 2.4) * 0.6)
    sheet.add("lymphocyte", roaming, any_angle(rng, len(roaming)))


def lymphocytes(sheet: Sheet) -> None:
    """Dense sheets of small round dark nuclei; paler where they are larger and apart."""
    if LYMPH not in sheet.share:
        return
    rng = sheet.rng("lymphocytes")
    own = sheet.share[LYMPH]
    gaps = ramp(sheet.smooth(rng, 2.6), 0.5, 1.5)
    sheet.lay(own * 0.9, 0.4 * (1 - gaps), 0.5 + 0.07 * sheet.smooth(rng, 5) - 0.42 * gaps)
    pale = ramp(sheet.smooth(rng, 45), 0.9, 1.7)
    spilt = np.maximum(own, 0.8 * blur(own, 22 / sheet.um) ** 2) * sheet.tissue
    dense = sheet.scatter(rng, 7.0, spilt * (1 - pale) * 0.94)
    sheet.add("lymphocyte", dense, any_angle(rng, len(dense)))
    large = sheet.scatter(rng, 9.2, own * pale)
    sheet.add("plasma", large, any_angle(rng, len(large)))


def adipose(sheet: Sheet) -> None:
    """White droplets between thin membranes, flat nuclei in the corners."""
    if ADIPOSE not in sheet.share:
        return
    rng = sheet.rng("adipose")
    own = sheet.share[ADIPOSE]
    _, wall = tessellate(scatter(rng, sheet.shape, 52 / sheet.um, 0.4), sheet.shape, sheet.bend(rng, 20, 5))
    # Blurring the distance rounds the droplets: where three meet the membrane grows thick.
    wall_um = blur(wall * sheet.um, 3.2 / sheet.um) - 2.2
    thickness = 0.55 + 0.25 * sheet.smooth(rng, 25)
    membrane = 1 - ramp(wall_um - thickness, -0.9, 0.5)
    tone = 0.25 + 0.07 * sheet.smooth(rng, 15) + 0.06 * sheet.smooth(rng, 3)
    sheet.lay(own, 0.06 * membrane, tone * membrane + 0.005)
    points = sheet.scatter(rng, 11, own * (wall_um < 0.8) * 0.15)
    sheet.add("endothelium", points, direction(wall_um, points) + np.pi / 2)
