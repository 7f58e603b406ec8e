"""Tissue against glass, on an overview of a slide.

A pixel is tissue if it is darker than the empty glass, its surroundings have colour or texture, and it is no ink
(`tiling.stain`, with sources). Fat is closed in by its membranes, holes are filled, the smeared edge is cut back to
where half of it is left, specks and pieces without any hue are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tiling.grid import TissueMask
from tiling.morphology import Bools, closed, grown, holes, opened, pieces, shrunk, trimmed
from tiling.stain import RGB, Contrast, Looks, extremes, looks
from wsi.geometry import pixels_along, round_px


@dataclass(frozen=True, slots=True)
class TissueConfig:
    """How tissue is told from glass. Lengths and areas are physical; no field is in pixels."""

    mpp: float = 8.0  # um per overview px: a tile is then 14 px wide, and 25 x 15 mm are 6 million px
    darkness: float = 0.035  # share of light held back from which a pixel is not glass; the glass varies by 0.02
    chroma: float = 0.03  # share of light by which channels differ in a stain: pale mucus 0.03, glass below 0.01
    texture: float = 0.014  # share of light, sd of fine structure: tissue 0.02-0.04, glass and smears below 0.006
    close_um: float = 40.0  # gaps up to twice this are closed: the widest fat cells with thin or torn membranes
    max_hole_um2: float = 50_000.0  # holes up to this area are lumens and vessels, and filled: a disc of 250 um
    min_piece_um2: float = 40_000.0  # pieces below this area are dropped: a disc of 225 um, about three tiles
    min_coloured: float = 0.05  # share of a piece that must have a hue: dust has none. 0 for silver stains, greyscale
    drop_ink: bool = True  # False for stains with a dense blue, green or red of their own: trichrome, Sirius red

    def __post_init__(self) -> None:
        if self.mpp <= 0:
            raise ValueError(f"mpp must be positive, not {self.mpp}")
        for name in ("close_um", "max_hole_um2", "min_piece_um2"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, as {getattr(self, name)} is")
        for name in ("darkness", "chroma", "texture", "min_coloured"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")


_DEFAULT = TissueConfig()
_ONE_COLOUR = 4  # grey levels; compression alone makes that much of one colour
_DENSE_SHARE = 0.3  # of a stroke of ink; a piece of tissue with a hue near an ink's has next to nothing so dense
_INK_RIM_UM = 16.0  # the rim of a stroke is pale and could pass for a stain
_COLOUR_RIM_UM = 20.0  # within this of the edge, half of the square in which colour is judged is glass
_WINDOW_RIM_UM = 28.0  # the same for texture
_LATTICE_HOLES = 20.0  # times the largest hole: glass up to this area that membranes run through is fat,
_LATTICE_SHARE = 0.1  # and this share of it is membranes; of glass with dust on it 0.03 is dark
_EDGE_UM = 16.0  # how far an edge may be smeared: optics, averaging, the closing's rounding
_NEARBY_UM = 56.0  # side of the square whose mean says how dark the tissue beside an edge is
_STRAND_UM = 16.0  # strands narrower than this are debris
_GLOW_UM = 12.0  # sigma: joins the lit nuclei of a tissue


def detect_tissue(slide: Any, config: TissueConfig = _DEFAULT) -> TissueMask:
    """Tissue within the slide's bounds (anything with `.mpp`, `.bounds` and `.overview(mpp)`).

    The overview is read at `config.mpp`, or at the slide's own scale where that is coarser: nothing is upsampled.
    A slide without tissue gives an empty mask. What a slide that is not brightfield gives, `segment_tissue` says.
    """
    bounds = slide.bounds
    rgb, px = slide.overview(max(config.mpp, slide.mpp))
    height, width = (pixels_along(side, px)[0] for side in (bounds.height, bounds.width))  # beyond, it is white
    return TissueMask.within(segment_tissue(rgb[:height, :width], slide.mpp * px, config), px, bounds)


def segment_tissue(rgb: RGB, mpp: float, config: TissueConfig = _DEFAULT) -> Bools:
    """uint8 (h, w, 3) RGB at `mpp` um per pixel -> bool (h, w), True on tissue.

    Images finer than `config.mpp` are averaged down to it first. Where `brightfield(rgb)` is False the signal is
    segmented instead: what glows above the dark background, closed and filled alike. An image of one colour has no
    tissue. Ink is left out, and tissue where ink hides it.

    Raises ValueError if `rgb` is not uint8 (h, w, 3) or `mpp` is not positive.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not mpp > 0:
        raise ValueError(
            f"an RGB image, uint8 (h, w, 3), and a positive mpp are needed: {rgb.dtype} {rgb.shape}, {mpp}"
        )
    height, width = rgb.shape[:2]
    if rgb.size == 0 or _is_one_colour(rgb):
        return np.zeros((height, width), np.bool_)
    small, scale = _averaged(rgb, mpp, config.mpp)
    mask = _stained(small, scale, config) if brightfield(small) else _glowing(small, scale, config)
    return _enlarged(mask, (width, height))


def brightfield(rgb: RGB) -> bool:
    """False for fluorescence and for black frames: most pixels dark, hardly any with light in all three channels.

    uint8 (h, w, 3), an overview at any scale. Stained sections on glass, with however much black border short of
    nine tenths, are True.
    """
    darkest, lightest = extremes(rgb)
    dark, lit = np.count_nonzero(lightest < 60), np.count_nonzero(darkest > 90)
    return bool(dark < 0.5 * darkest.size or lit > 0.1 * darkest.size)


def _is_one_colour(rgb: RGB) -> bool:
    import cv2

    spans = (cv2.minMaxLoc(channel)[:2] for channel in cv2.split(rgb))
    return all(high - low <= _ONE_COLOUR for low, high in spans)


def _averaged(rgb: RGB, mpp: float, wanted: float) -> tuple[RGB, float]:
    """The image at about `wanted` um per pixel and what it came to; coarser images, and nearly so fine, as they are."""
    import cv2

    if mpp * 1.25 > wanted:
        return rgb, mpp
    height, width = (max(1, round_px(n * mpp / wanted)) for n in rgb.shape[:2])
    small = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return small, mpp * float(np.sqrt(rgb.shape[0] * rgb.shape[1] / (width * height)))


def _enlarged(mask: Bools, size: tuple[int, int]) -> Bools:
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0)


def _stained(rgb: RGB, mpp: float, config: TissueConfig) -> Bools:
    seen = looks(rgb, mpp, Contrast(config.darkness, config.chroma, config.texture))
    clear = ~grown(_ink(seen), _INK_RIM_UM / mpp) if config.drop_ink else np.ones_like(seen.ink)
    sure = seen.dark & (seen.coloured | seen.textured) & clear
    sure |= grown(sure, _COLOUR_RIM_UM / mpp) & seen.dark & clear
    body = closed(_with_faint(sure, seen.faint & clear, mpp, config), config.close_um / mpp)
    body = _filled(body, seen.dark & clear, mpp, config)
    body = trimmed(body, seen.darkness, _EDGE_UM / mpp, _NEARBY_UM / mpp)
    found = pieces(opened(body, _STRAND_UM / 2 / mpp))
    large = found.area >= config.min_piece_um2 / mpp**2
    return found.chosen(large & (found.share(seen.coloured & sure) >= config.min_coloured))


def _ink(seen: Looks) -> Bools:
    """Strokes of ink, told from tissue of a near hue by how much of each is dense."""
    strokes = pieces(seen.ink)
    return strokes.chosen(strokes.share(seen.dense_ink) >= _DENSE_SHARE)


def _filled(body: Bools, dark: Bools, mpp: float, config: TissueConfig) -> Bools:
    """Small holes filled, and larger ones that membranes run through."""
    found = holes(body)
    area = found.area * mpp**2
    fat = (area <= _LATTICE_HOLES * config.max_hole_um2) & (found.share(dark) >= _LATTICE_SHARE)
    return body | found.chosen(fat | (area <= config.max_hole_um2))


def _with_faint(sure: Bools, faint: Bools, mpp: float, config: TissueConfig) -> Bools:
    """Faint tissue beside the sure, less the rim where the sure tissue alone makes its surroundings look faint."""
    both = np.pad(faint | closed(sure, config.close_um / mpp), 1)  # beyond the frame is glass
    return sure | shrunk(both, max(1.0, _WINDOW_RIM_UM / mpp))[1:-1, 1:-1]


def _glowing(rgb: RGB, mpp: float, config: TissueConfig) -> Bools:
    """Fluorescence: brighter than the dark background by `config.darkness`, in any channel."""
    import cv2

    glow = cv2.GaussianBlur(extremes(rgb)[1].astype(np.float32) / 255, (0, 0), max(0.3, _GLOW_UM / mpp))
    lit = glow >= float(np.percentile(glow, 20)) + config.darkness
    body = closed(lit, config.close_um / mpp)
    found = pieces(_filled(body, np.zeros_like(lit), mpp, config))
    return found.chosen(found.area >= config.min_piece_um2 / mpp**2)
