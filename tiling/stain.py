"""What light tells of each overview pixel: stained tissue, ink, or neither. Colours are seen relative to empty glass.

Three sources are put together. Transmittance relative to the glass, and the hue-saturation-density plane, in which a
stain keeps its place however thick it lies: van der Laak et al., Cytometry 39:275 (2000). Texture as evidence where
colour fails (fat, grey mixtures of brown and blue): Bug, Feuerhake & Merhof, BVM 2015, 419-424 (FESI).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiling.morphology import Bools, strips

Plane = NDArray[np.float32]  # (h, w)
RGB = NDArray[np.uint8]  # (h, w, 3)

DEFAULT_GLASS = (245.0, 245.0, 245.0)  # where a frame is filled with tissue and shows no glass

_FINE_UM = 6.0  # sigma that quiets the sensor without thickening membranes
_COARSE_UM = 14.0  # sigma of what is called smooth: structure smaller than this is texture
_COLOUR_UM = 40.0  # side of the square over which a colour is judged: a few cells
_TEXTURE_UM = 56.0  # side of the square over which texture is judged
_FAINT_UM = 120.0  # side of the square over which faint tissue is judged: a fat cell and its neighbours
_REACH_UM = 170.0  # how far a pixel's surroundings matter, all of the above together: overlap of the strips
_GLASS_SAMPLE = 10_000_000  # values of an overview from which every other, third, ... pixel is enough to know the glass

_FAINT_SHARES = 0.45, 0.3  # of the contrast in chroma and in texture that do when both are met over a wide square
_NOISY = 0.02  # own noise of a channel above that of any slide's overview: there, hue must stand out of it
_GREY = 0.12  # distance from the centre of the hue plane below which there is no hue; stains lie beyond 0.2


@dataclass(frozen=True, slots=True)
class Contrast:
    """From where on something is seen at all. Shares of the light that empty glass lets through."""

    darkness: float  # held back in the channel that loses most
    chroma: float  # between the clearest and the darkest channel
    texture: float  # standard deviation of fine structure


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What each pixel looks like; a pixel may be several of these or none."""

    darkness: Plane  # share of light held back in the channel that loses most
    dark: Bools  # not empty glass
    coloured: Bools  # in a square of a few cells, the light has a hue
    textured: Bools  # fine structure common to all three channels, which noise is not
    faint: Bools  # a trace of both, over a wide square
    ink: Bools  # a hue that markers have and tissue does not
    dense_ink: Bools  # the same, denser than any stain of near that hue


def glass_colour(rgb: RGB) -> tuple[float, float, float] | None:
    """Median RGB of empty glass, or None where there is none: the brightest peak of bright, pale and smooth pixels.

    Pure white is left out: it is what scanners and readers put where nothing was scanned.
    """
    import cv2

    step = 1 + rgb.size // _GLASS_SAMPLE
    calm, rgb = np.asarray(cv2.blur(rgb, (5, 5)), np.uint8)[::step, ::step], rgb[::step, ::step]
    low, high = extremes(calm)
    relief = cv2.morphologyEx(low, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    pink = cv2.subtract(np.minimum(calm[..., 0], calm[..., 2]), calm[..., 1])  # every stain takes green first
    candidate = (low >= 140) & (high - low <= 32) & (pink <= 6) & (relief <= 6) & (extremes(rgb)[0] < 254)
    count = int(np.count_nonzero(candidate))
    if count < max(16, candidate.size // 1000):
        return None
    histogram = np.convolve(_histogram(low, candidate), np.ones(5), "same")
    peaks = (v for v in range(255, -1, -1) if histogram[v] >= histogram[max(0, v - 3) : v + 4].max())
    brightest = next(v for v in peaks if histogram[v] >= 0.02 * count)
    near = candidate & (low >= brightest - 3) & (low <= brightest + 3)
    red, green, blue = (_median(_histogram(np.ascontiguousarray(rgb[..., k]), near)) for k in range(3))
    return red, green, blue


def extremes(rgb: RGB) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each pixel's darkest and lightest channel, (h, w)."""
    import cv2

    red, green, blue = cv2.split(rgb)
    lowest, highest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(lowest, np.uint8), np.asarray(highest, np.uint8)


def _histogram(channel: NDArray[np.uint8], where: Bools) -> NDArray[np.float64]:
    """(256,) counts of grey levels."""
    import cv2

    counts = cv2.calcHist([channel], [0], where.astype(np.uint8), [256], [0, 256])
    return np.asarray(counts, np.float64).ravel()


def _median(histogram: NDArray[np.float64]) -> float:
    return float(np.searchsorted(histogram.cumsum(), histogram.sum() / 2))


def looks(rgb: RGB, mpp: float, contrast: Contrast) -> Looks:
    """Judges every pixel of `rgb`, in strips that overlap enough to leave no seam."""
    glass = glass_colour(rgb) or DEFAULT_GLASS
    halo = int(np.ceil(_REACH_UM / mpp)) + 8
    parts = []
    for seen, inner in strips(len(rgb), halo):
        planes = _strip(_transmittance(rgb[seen], glass), mpp, contrast)
        parts.append([plane[inner] for plane in planes])
    return Looks(*(np.concatenate(planes) for planes in zip(*parts, strict=True)))


def _transmittance(rgb: RGB, glass: tuple[float, float, float]) -> list[Plane]:
    """Light let through per channel, 0..1; what is brighter than the glass counts as glass."""
    import cv2

    ladder = np.minimum(np.arange(256)[:, None] / np.array(glass), 1).astype(np.float32)
    return [np.asarray(cv2.LUT(np.ascontiguousarray(rgb[..., k]), ladder[:, k])) for k in range(3)]


def _strip(sharp: list[Plane], mpp: float, contrast: Contrast) -> tuple[Plane | Bools, ...]:
    """The fields of `Looks`, in their order."""
    light = [_blur(channel, _FINE_UM / mpp) for channel in sharp]
    broad = [_mean(channel, _COLOUR_UM / mpp) for channel in light]
    chroma = _most(broad) - _least(broad)
    texture, noise = _structure(light, mpp)
    chroma[(noise > _NOISY) & (chroma < 5 * noise)] = 0
    return (
        1 - _least(sharp),
        _least(light) <= 1 - contrast.darkness,
        chroma >= contrast.chroma,
        texture >= contrast.texture,
        _is_faint(chroma, texture, mpp, contrast),
        *_inks(*hue_plane(light)),
    )


def _structure(light: list[Plane], mpp: float) -> tuple[Plane, Plane]:
    """Standard deviation of fine structure: what all channels share (texture), and what each has for itself (noise).

    For channels of shared variance S and own variance N, the variance of their mean is S + N/3 and a third of their
    mean variance is S/3 + N/3.
    """
    fine = [c - _blur(c, max(1.0, _COARSE_UM / mpp)) for c in light]
    mean = (fine[0] + fine[1] + fine[2]) / 3
    for plane in fine:
        np.square(plane, out=plane)
    third = (fine[0] + fine[1] + fine[2]) / 9
    of_mean, of_third = _mean(mean * mean, _TEXTURE_UM / mpp), _mean(third, _TEXTURE_UM / mpp)
    shared = np.maximum(of_mean - of_third, 0) * np.float32(1.5)
    return np.sqrt(shared), np.sqrt(np.maximum(3 * of_third - shared, 0))


def hue_plane(light: list[Plane]) -> tuple[Plane, Plane, Plane]:
    """Optical density (log10, mean of the channels) and the two coordinates of hue; (0, 0) is grey."""
    import cv2

    red, green, blue = (cv2.log(np.maximum(c, 0.004)) * np.float32(-1 / np.log(10)) for c in light)
    density = (red + green + blue) / 3
    safe = np.maximum(density, np.float32(0.02))
    return density, red / safe - 1, (green - blue) / (np.float32(np.sqrt(3)) * safe)


def _is_faint(chroma: Plane, texture: Plane, mpp: float, contrast: Contrast) -> Bools:
    """Thin fat and mucus: not seen in a pixel, but over a hundred of them. Capped, so that an edge is no area."""
    found = np.ones(chroma.shape, np.bool_)
    for plane, full, share in zip((chroma, texture), (contrast.chroma, contrast.texture), _FAINT_SHARES, strict=True):
        found &= _mean(np.minimum(plane, 1.5 * share * full), _FAINT_UM / mpp) >= share * full
    return found


def _inks(density: Plane, x: Plane, y: Plane) -> tuple[Bools, Bools]:
    """Where a marker may be, and where nothing else can be: black, green, blue and red.

    Over tissue and glass of H&E and IHC slides x stays below 0.2 where density passes 0.3, and y above 0.3 where x is
    below -0.6. Haematoxylin alone comes to x = 0.4, but hardly to a density of 0.3.
    """
    blue = ((x > 0.3) & (density > 0.12)) | ((x > 0.15) & (density > 0.4))
    green = (x > 0.2) & (y < -0.1) & (density > 0.06)
    red = (x < -0.6) & (np.abs(y) < 0.22) & (density > 0.15)
    black = (x * x + y * y < _GREY**2) & (density > 0.2)
    dense = (black & (density > 0.45)) | (green & (density > 0.2)) | (blue & (density > 0.3)) | (red & (density > 0.35))
    return blue | green | red | black, dense


def _least(planes: list[Plane]) -> Plane:
    return np.minimum(np.minimum(planes[0], planes[1]), planes[2])


def _most(planes: list[Plane]) -> Plane:
    return np.maximum(np.maximum(planes[0], planes[1]), planes[2])


def _blur(plane: Plane, sigma_px: float) -> Plane:
    import cv2

    # Below 0.3 px a Gaussian is the pixel itself.
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma_px)) if sigma_px > 0.3 else plane


def _mean(plane: Plane, side_px: float) -> Plane:
    import cv2

    side = max(3, 2 * round((side_px - 1) / 2) + 1)
    return np.asarray(cv2.blur(plane, (side, side)))
