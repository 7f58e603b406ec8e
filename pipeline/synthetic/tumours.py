"""Two carcinomas: one that forms crowded crooked glands, one of solid nests with keratin pearls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .noise import Field, at, band, blur, distance, per_label, ramp, scatter, tessellate
from .recipe import ADENO, SQUAMOUS
from .sheet import Sheet, any_angle, direction


def adenocarcinoma(sheet: Sheet) -> None:
    """Glands back to back, some with many lumens; long dark uneven nuclei in several rows."""
    if ADENO not in sheet.share:
        return
    rng = sheet.rng("adenocarcinoma")
    own = sheet.share[ADENO]
    label, wall = tessellate(scatter(rng, sheet.shape, 98 / sheet.um, 0.42), sheet.shape, sheet.bend(rng, 26, 13))
    gap = 5 + 5 * ramp(sheet.smooth(rng, 50), -0.5, 2)
    depth = blur(wall, 2 / sheet.um) * sheet.um - gap  # um inside a gland
    lumen = _lumens(sheet, rng, label, depth)
    apical = distance(lumen < 0.5) * sheet.um  # um from the nearest lumen
    gland = own * ramp(depth, 0, 1.5)
    _desmoplasia(sheet, rng, own * (1 - gland))
    fine = sheet.smooth(rng, 1.5) + sheet.smooth(rng, 4)
    brush = 1 - ramp(apical, 1, 9)
    sheet.lay(gland, 0.46 - 0.14 * brush + 0.07 * fine, 0.66 - 0.12 * brush + 0.07 * fine)
    dirty = ramp(sheet.smooth(rng, 9) + 0.4 * sheet.smooth(rng, 2), 0.5, 1.6) * 0.6
    sheet.lay(gland * lumen, dirty * 0.2, dirty + 0.02)
    points = sheet.scatter(rng, 7.4, gland * (depth > 3) * (apical > 4.5) * (1 - 0.45 * ramp(apical, 9, 4)))
    sheet.add("adenocarcinoma", points, direction(depth - 0.5 * apical, points) + rng.normal(0, 0.3, len(points)))
    dying = sheet.scatter(rng, 6, gland * lumen * (dirty > 0.2) * 0.6)
    sheet.add("debris", dying, any_angle(rng, len(dying)))


def _lumens(sheet: Sheet, rng: np.random.Generator, label: NDArray[np.int32], depth: Field) -> Field:
    """1 in the lumens: one crooked hole in some glands, many round ones in others, none in a few."""
    single = depth + 5 * sheet.smooth(rng, 12) - per_label(rng, label, 18, 37)
    sieve = band(rng, sheet.shape, 8 / sheet.um) * 12 - per_label(rng, label, 2, 17)
    sieve = np.minimum(sieve, (depth - 13) * 2)
    return ramp(np.maximum(single, sieve), 0, 2.5)


def _desmoplasia(sheet: Sheet, rng: np.random.Generator, between: Field) -> None:
    """The stroma a tumour calls forth: cellular, with lymphocytes."""
    spindle = sheet.scatter(rng, 11, between * 0.32)
    sheet.add("fibroblast", spindle, sheet.fibre_angle(spindle) + rng.normal(0, 0.25, len(spindle)))
    immune = sheet.scatter(rng, 9, between * ramp(sheet.smooth(rng, 40), -0.3, 2) * 0.7)
    sheet.add("lymphocyte", immune, any_angle(rng, len(immune)))


def squamous_carcinoma(sheet: Sheet) -> None:
    """Nests of polygonal cells, dark at the rim, pinker inwards, keratin pearls in the largest."""
    if SQUAMOUS not in sheet.share:
        return
    rng = sheet.rng("squamous")
    own = sheet.share[SQUAMOUS]
    label, wall = tessellate(scatter(rng, sheet.shape, 215 / sheet.um, 0.42), sheet.shape, sheet.bend(rng, 45, 26))
    gap = 8 + 9 * ramp(sheet.smooth(rng, 60), -0.5, 2)
    depth = blur(wall, 7 / sheet.um) * sheet.um - 4 - gap
    nest = own * ramp(depth + 1.2 * sheet.smooth(rng, 5), 0, 2)
    _desmoplasia(sheet, rng, own * (1 - nest))
    ripe = ramp(depth + 7 * sheet.smooth(rng, 18), 8, 60)  # 0 at the rim, 1 where cells keratinise
    pearl = ramp(depth + 6 * sheet.smooth(rng, 12) + per_label(rng, label, -45, 8), 44, 56)
    centres = scatter(rng, sheet.shape, 15 / sheet.um, 0.36)
    cell, border = tessellate(centres, sheet.shape, sheet.bend(rng, 6, 1.8))
    border_um = blur(border, 0.8) * sheet.um
    bridge = 1 - ramp(border_um, 0.5, 1.5)
    edge = ramp(border_um, 0.8, 1.8) * (1 - ramp(border_um, 1.8, 4.0))  # cytoplasm is densest just inside the membrane
    fine = sheet.smooth(rng, 1.4)
    tone = per_label(rng, cell, -0.08, 0.08) + 0.06 * fine
    haem = 0.44 - 0.3 * ripe - 0.08 * bridge + 0.6 * tone
    eos = 0.58 + 0.3 * ripe - 0.3 * bridge + 0.14 * edge + tone
    sheet.lay(nest, haem, eos)
    _pearls(sheet, rng, nest * pearl, depth)
    _squamous_nuclei(sheet, rng, centres, (nest, pearl, ripe, depth))


def _pearls(sheet: Sheet, rng: np.random.Generator, cover: Field, depth: Field) -> None:
    """Whorls of keratin: bright pink lamellae around the middle of a nest, split by pale clefts."""
    leaf = depth * 0.95 + 3.0 * sheet.smooth(rng, 9) + 0.8 * sheet.smooth(rng, 3)
    rings, slow = np.sin(leaf), np.sin(leaf * 0.37 + 1)
    cleft = ramp(slow + 0.5 * sheet.smooth(rng, 8), 0.9, 1.5)
    sheet.lay(cover, (0.14 + 0.08 * rings) * (1 - cleft), (1.15 + 0.2 * rings + 0.15 * slow) * (1 - 0.7 * cleft))


def _squamous_nuclei(sheet: Sheet, rng: np.random.Generator, centres: np.ndarray, fields: tuple[Field, ...]) -> None:
    nest, pearl, ripe, depth = (at(f, centres) for f in fields)
    alive = rng.random(len(centres)) < nest * (1 - pearl) * (depth > 4) * (1 - 0.25 * ripe)
    inner = centres[alive & (depth > 12)]
    sheet.add("squamous", inner, any_angle(rng, len(inner)))
    rim = sheet.scatter(rng, 8.8, fields[0] * (fields[3] > 3) * (fields[3] < 13) * 0.85)
    sheet.add("basal", rim, direction(fields[3], rim) + rng.normal(0, 0.3, len(rim)))
    ghosts = sheet.scatter(rng, 16, fields[0] * fields[1] * 0.4)
    sheet.add("ghost", ghosts, direction(fields[3], ghosts) + np.pi / 2)
