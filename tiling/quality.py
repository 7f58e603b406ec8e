"""What is wrong with a tile: out of focus, pen on it, folded, clipped. One bit each, from the tile's pixels alone.

A flag is raised on evidence and never on its absence: fat, mucus and empty glass have too little structure to tell
whether they are sharp, and are not called blurred; nor is tissue so far out of focus that no structure is left (a sigma
of 5 um). Judged for H&E and for IHC with haematoxylin; blue and green special stains (Alcian blue, trichrome) look like
ink. The thresholds were set on real tiles of nine tissues and three scanners; `benchmarks/results/quality.md` tells
what they find and miss.

Blur: how much of the gradient energy (Tenengrad) outlives further blurring, in the manner of Crete et al., SPIE 6492
(2007): a sharp image loses most of it, one that is already blurred hardly any, whatever its contrast. HistoQC
(Janowczyk et al., JCO Clin Cancer Inform 3, 2019) asks for the Laplacian itself, which calls pale tissue blurred.
Pen: share of the tile in the hues and densities of ink, in the plane of van der Laak et al., Cytometry 39:275 (2000).
Fold: saturation less intensity, Kothari et al., J Pathol Inform 4:22 (2013), where even the brightest spot of a cell
is dark, and much denser than is usual in the tile at its hue. Their thresholds adapt to a slide; here there is a tile
to compare with, so one that is folded all over is not seen, and of others the clear ones only.
Saturated: share of the stained pixels with a channel at either end of the scale, where its colour is lost. Glass does
not count, for scanners may well put it at white.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.morphology import Bools
from tiling.stain import RGB, Plane, extremes, hue_plane
from wsi.errors import UsageError

BLUR, PEN, FOLD, SATURATED = 1, 2, 4, 8
NAMES = ("blur", "pen", "fold", "saturated")  # bit 0 first
NO_FLAGS = "none"  # in place of their names

Flags = NDArray[np.uint8]

BLUR_UM = 0.5  # sigma of the first Gaussian, or a pixel of coarser tiles; the second has twice that
BLUR_KEPT = 0.6  # share of gradient energy kept from which on a block is blurred: sigma of about 1 um and more
BLUR_BLOCKS = 4  # blocks a side that are judged for themselves
BLUR_SHARP = (
    0.25  # share of the judged blocks that make a tile sharp: more than a grain of dust, less than fat's nuclei
)
BLUR_EVIDENCE = 4.0  # mean squared step in grey levels over two pixels: below, a block has no structure to judge by
BLUR_LEAST = 3  # blocks with structure that a tile needs
BLUR_FEWEST_PX = 16  # side below which a tile has no blocks to speak of

CELL_UM = 8.0  # side of the squares that pen and fold are judged in: about a cell, as in overviews
GLASS = 245.0  # grey level of empty glass: a tile shows none that could be relied on

PEN_SHARE = 0.1  # of the tile

FOLD_DENSITY = 0.2  # optical density of the brightest spot in a square
FOLD_RATIO = 1.7  # the same over its median in the tile: a second layer doubles it
FOLD_KOTHARI = -0.2  # saturation less intensity of that spot
FOLD_BLUER = 0.1  # first coordinate of its hue over the median in the tile
FOLD_EMPTY = 0.04  # density up to which a square is glass, and left out of the median
FOLD_SHARE = 0.08  # of the tile

STAINED = 215  # grey level of the darkest channel up to which a pixel is stained
CLIPPED = 1, 254  # a channel at or below, at or above
CLIPPED_SHARE = 0.2  # of the stained pixels; in good tiles it was 0.03 at most
CLIPPED_ROWS = 4  # one row of so many is enough to tell shares by
CLIPPED_LEAST = 0.05  # share of the tile that must be stained


def tile_flags(pixels: NDArray[np.uint8], mpp: float) -> Flags:
    """Flags (B,) uint8 of tiles (B, H, W, 3) RGB at `mpp` um per pixel: a sum of BLUR, PEN, FOLD and SATURATED.

    Each tile is judged by itself. Coarser than 0.5 um/px, less and less blur is seen: it needs two pixels.
    """
    if not len(pixels):
        return np.zeros(0, np.uint8)
    spots, means = (np.stack(squares) for squares in zip(*(_squares(tile, mpp) for tile in pixels), strict=True))
    raised = {
        BLUR: np.array([_is_blurred(tile, mpp) for tile in pixels]),
        PEN: _is_ink(*_hues(means)).mean(axis=(1, 2)) >= PEN_SHARE,
        FOLD: _is_thick(spots, *_hues(spots)[:2]).mean(axis=(1, 2)) >= FOLD_SHARE,
        SATURATED: np.array([_is_clipped(tile) for tile in pixels]),
    }
    return sum((bit * found.astype(np.uint8) for bit, found in raised.items()), np.zeros(len(pixels), np.uint8))


def unknown_flag(names: Sequence[str]) -> str:
    """A sentence about the first of these names that is no flag, with what may have been meant; "" where all are."""
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name.lower(), NAMES, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            return f"There is no quality flag {name!r}.{guess} Flags are {', '.join(NAMES)}."
    return ""


def drop_mask(names: Sequence[str]) -> int:
    """The bits of these flags together. Raises UsageError for a name that is none."""
    if told := unknown_flag(names):
        raise UsageError(told)
    return sum(1 << NAMES.index(name) for name in set(names))


def listed_flags(text: str) -> tuple[str, ...]:
    """`pen,blur` as a person writes it, in the order of NAMES; nothing for `none`. Raises UsageError as `drop_mask`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return raised_flags(0 if names == [NO_FLAGS] else drop_mask(names))


def raised_flags(flags: int) -> tuple[str, ...]:
    """The names of a tile's flags, in the order of NAMES."""
    return tuple(name for bit, name in enumerate(NAMES) if flags & (1 << bit))


def flag_counts(flags: Flags) -> dict[str, int]:
    """Tiles that each flag is raised on, by its name."""
    return {name: int(np.count_nonzero(flags & (1 << bit))) for bit, name in enumerate(NAMES)}


def _is_blurred(tile: RGB, mpp: float) -> bool:
    import cv2

    grey: Any = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    if mpp < BLUR_UM:
        side = max(1, round(len(grey) * mpp / BLUR_UM))
        grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    if len(grey) < BLUR_FEWEST_PX:
        return False
    once = cv2.pyrDown(grey).astype(np.float32)  # a Gaussian of one pixel, then every other pixel
    twice = cv2.GaussianBlur(once, (5, 5), 3**0.5 / 2)  # together two pixels
    before, after = _energy(once), _energy(twice)
    judged = (after >= BLUR_EVIDENCE) & (before > after)  # or an edge beside the block leaks into it
    if np.count_nonzero(judged) < BLUR_LEAST:
        return False
    return bool(np.quantile(after[judged] / before[judged], BLUR_SHARP) >= BLUR_KEPT)


def _energy(grey: Plane) -> Plane:
    """Mean squared gradient of each block, along every other row."""
    import cv2

    rows, below = grey[:-1:2], grey[1::2]
    across, down = rows[:, 1:] - rows[:, :-1], below[:, 1:] - rows[:, 1:]
    across *= across
    down *= down
    across += down
    return np.asarray(cv2.resize(across, (BLUR_BLOCKS, BLUR_BLOCKS), interpolation=cv2.INTER_AREA))


def _squares(tile: RGB, mpp: float) -> tuple[RGB, RGB]:
    """Of squares of CELL_UM, (n, n, 3): the brightest um, channel by channel, and the mean."""
    import cv2

    size = len(tile)
    n = max(1, round(size * mpp / CELL_UM))
    k = max(1, min(round(CELL_UM), size // n))
    fine = cv2.resize(tile, (n * k, n * k), interpolation=cv2.INTER_AREA)
    brightest = cv2.dilate(fine, np.ones((k, k), np.uint8), anchor=(0, 0))[::k, ::k]
    return np.asarray(brightest, np.uint8), np.asarray(cv2.resize(fine, (n, n), interpolation=cv2.INTER_AREA), np.uint8)


def _hues(rgb: RGB) -> tuple[Plane, Plane, Plane]:
    """Density and hue of squares (B, n, n, 3), each (B, n, n)."""
    light = np.minimum(rgb.astype(np.float32) / np.float32(GLASS), 1)
    planes = hue_plane([np.ascontiguousarray(light[..., k]).reshape(-1, rgb.shape[2]) for k in range(3)])
    density, x, y = (plane.reshape(rgb.shape[:3]) for plane in planes)
    return density, x, y


def _is_ink(density: Plane, x: Plane, y: Plane) -> Bools:
    """Ink on glass as in overviews, and ink over tissue, whose hue lies between the two. AEC's red begins at -0.5."""
    blue = ((x > 0.3) & (density > 0.3)) | ((x > 0.15) & (density > 0.4)) | ((x > 0.08) & (density > 0.6))
    green = ((x > 0.2) & (y < -0.1) & (density > 0.2)) | ((x > 0.08) & (y < 0.12) & (density > 0.3))
    red = (x < -0.55) & (y > -0.1) & (y < 0.2) & (density > 0.4)
    grey = x * x + y * y  # of brown over blue 0.18^2 at the least
    black = ((grey < 0.12**2) & (density > 0.45)) | ((grey < 0.15**2) & (density > 0.6))
    black |= (grey < 0.18**2) & (density > 0.8)
    return np.asarray(blue | green | red | black)


def _is_thick(spots: RGB, density: Plane, x: Plane) -> Bools:
    """Squares (B, n, n) whose brightest spot is as dark and saturated as two layers, seen against the tile's own.

    Two layers have the hue of one: what is denser and bluer is an epithelium beside its stroma.
    """
    stained = density > FOLD_EMPTY
    thick = density > np.maximum(FOLD_DENSITY, FOLD_RATIO * _usual(density, stained))
    thick &= x < FOLD_BLUER + _usual(x, stained)
    intensity = spots.mean(axis=3)
    saturation = 1 - spots.min(axis=3) / np.maximum(intensity, 1)
    return np.asarray(thick & (saturation - intensity / 255 > FOLD_KOTHARI))


def _usual(values: Plane, among: Bools) -> Plane:
    """(B, 1, 1) median of (B, n, n) in each tile, of those `among`; infinite where there are none."""
    ordered = np.sort(np.where(among, values, np.inf).reshape(len(values), -1), axis=1)
    middle = np.maximum(np.count_nonzero(among, axis=(1, 2)) - 1, 0) // 2
    return np.asarray(np.take_along_axis(ordered, middle[:, None], axis=1)[:, :, None])


def _is_clipped(tile: RGB) -> bool:
    low, high = extremes(tile[::CLIPPED_ROWS])
    stained = low <= STAINED
    count = int(np.count_nonzero(stained))
    clipped = int(np.count_nonzero(stained & ((low <= CLIPPED[0]) | (high >= CLIPPED[1]))))
    return count >= CLIPPED_LEAST * stained.size and clipped >= CLIPPED_SHARE * count
