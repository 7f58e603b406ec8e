"""Dead tissue: smudged granular pink, dust of broken nuclei, ghosts of cells."""

from __future__ import annotations

from .noise import ramp
from .recipe import NECROSIS
from .sheet import Sheet, any_angle


def necrosis(sheet: Sheet) -> None:
    """No cell borders are left: clots, small holes, clouds of dust."""
    if NECROSIS not in sheet.share:
        return
    rng = sheet.rng("necrosis")
    own = sheet.share[NECROSIS]
    clots = sheet.smooth(rng, 9) + 0.6 * sheet.smooth(rng, 4)
    grain = sheet.smooth(rng, 1.3)
    haze = ramp(sheet.smooth(rng, 30) + 0.4 * grain, -0.3, 2.2)
    holes = ramp(sheet.smooth(rng, 2.2) - 0.5 * clots, 1.5, 2.3)
    eosin = 0.8 + 0.06 * clots + 0.14 * grain
    sheet.lay(own, (0.08 + 0.22 * haze) * (1 - holes), eosin * (1 - 0.75 * holes))
    ghosts = sheet.scatter(rng, 14, own * 0.35)
    sheet.add("ghost", ghosts, any_angle(rng, len(ghosts)))
    dust = sheet.scatter(rng, 5.5, own * ramp(sheet.smooth(rng, 25), 0.0, 2.2) * 0.7)
    sheet.add("debris", dust, any_angle(rng, len(dust)))
    dying = sheet.scatter(rng, 16, own * 0.2)
    sheet.add("apoptotic", dying, any_angle(rng, len(dying)))
