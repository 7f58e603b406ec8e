"""Stain normalisation: a slide in the colours of a reference, so that laboratories and scanners look alike.

normaliser = StainNormaliser("macenko").fit(pixels)   # once a slide, on tissue from all over it
tiles = normaliser.apply(tiles)                       # any number of times

One fit serves a whole slide. A tile of nothing but stroma or fat has no two stains to fit, and neighbours fitted each
for itself would differ in colour where the slide does not. (Finding tissue by its stain is another matter:
`tiling.stain`.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self

import numpy as np

from tiling import macenko, reinhard
from tiling.grid import STAINS
from tiling.macenko import Light, Pixels, Stains
from tiling.reinhard import Colours

WHITE: Light = (255.0, 255.0, 255.0)

# The mean of five public slides once "macenko" has brought them to its reference, so that both methods aim at one look:
# OpenSlide's CMU-1-Small-Region and OS-1, TCGA-CR-7395-01A-01-TS1, and the examples of HistoPrep and of
# pathology-whole-slide-packer. One by one they lie within 7 of it in L*, and within 5 in a* and b*.
REFERENCE_COLOURS = Colours(mean=(65.5, 22.0, -9.7), sd=(14.7, 6.2, 5.5))


class StainNormaliser:
    """Gives tiles of one slide the look of a reference. Fit it once, on pixels of that slide.

    "macenko" matches the two stains, "reinhard" the mean and spread of colours; see the modules of those names. Either
    way glass becomes white, and the slide must be stained with haematoxylin and eosin.
    """

    def __init__(self, method: str = "macenko", target: Pixels | None = None) -> None:
        """`target`: uint8 (..., 3) RGB, tissue of an image to look like, on white glass.

        Without it the reference is fixed: for "macenko" the published one (`macenko.Stains`), for "reinhard"
        REFERENCE_COLOURS.

        Raises ValueError for another method.
        """
        if method not in STAINS[1:]:
            raise ValueError(f"method is {' or '.join(STAINS[1:])}, not {method!r}")
        self.method = method
        self.stains: Stains | None = None  # those of the slide, once fitted, whatever the method
        self._target = target
        self._change: Callable[[Pixels], Pixels] | None = None

    @property
    def has_own_target(self) -> bool:
        """Whether it aims at another look than the fixed reference."""
        return self._target is not None

    def fit(self, pixels: Pixels, glass: Light = WHITE) -> Self:
        """To tissue of the slide: uint8 (..., 3) RGB, at the scale of the tiles, and the colour of its empty glass.

        A few hundred thousand pixels from all over the slide are plenty. Glass among them does no harm.

        Raises StainsUnfit where they are not of two stains that could be haematoxylin and eosin: too few are stained,
        only one stain is there, or another one; for "macenko", also of the target. Nothing sensible could be done.
        """
        stains = macenko.find_stains(_checked(pixels), glass)
        if self.method == "macenko":
            target = Stains() if self._target is None else macenko.find_stains(self._target, WHITE)
            change = partial(macenko.developed, factors=macenko.tables(stains, target, glass))
        else:
            wanted = REFERENCE_COLOURS if self._target is None else reinhard.find_colours(self._target, WHITE)
            levels = reinhard.tables(reinhard.find_colours(pixels, glass), wanted)
            change = partial(reinhard.transferred, white=reinhard.whitening(glass), levels=levels)
        self.stains, self._change = stains, change
        return self

    def apply(self, tiles: Pixels) -> Pixels:
        """Tiles uint8 (B, H, W, 3), or one (H, W, 3), in the colours of the reference; a new array of the same shape.

        Each pixel depends on itself alone. Safe in several threads at a time. Raises RuntimeError before `fit`.
        """
        if self._change is None:
            raise RuntimeError("fit the normaliser to pixels of the slide first")
        tiles = _checked(tiles)
        if tiles.ndim == 3:
            return self._change(tiles)
        changed = np.empty_like(tiles)
        for tile, place in zip(tiles, changed, strict=True):
            place[:] = self._change(tile)
        return changed


def _checked(pixels: Pixels) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[-1] != 3:
        raise ValueError(f"RGB pixels are needed, uint8 (..., 3), not {pixels.dtype} {pixels.shape}")
    return pixels
