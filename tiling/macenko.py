"""Two stains told apart by their colours, and each given the colour and the strength of a reference.

Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009, 1107-1110. Light falls
off exponentially in a stain, so its optical density is its amount times a vector of its own: what each channel loses.
The densities of all pixels lie in a sector of a plane whose two edges are the stains. Here density is in natural
logarithms, a channel's light relative to that of empty glass; the threshold below which a pixel has no colour worth
knowing is the paper's 0.15 in common logarithms, of the channels' mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.errors import StainsUnfit

Pixels = NDArray[np.uint8]  # (..., 3) RGB
Light = tuple[float, float, float]  # RGB of empty glass
Vector = tuple[float, float, float]  # what R, G and B lose in a stain, as a unit vector


@dataclass(frozen=True, slots=True)
class Stains:
    """The two stains of a slide. The defaults are the reference that users of the method share.

    They come with the first public implementation, M. Veta's "staining-normalization" for Matlab (2013), and are in
    every port of it.
    """

    haematoxylin: Vector = (0.5626, 0.7201, 0.4062)
    eosin: Vector = (0.2159, 0.8012, 0.5581)
    strongest: tuple[float, float] = (1.9705, 1.0308)  # 99th percentile of the amounts of each

    @property
    def vectors(self) -> NDArray[np.float64]:
        """(2, 3) unit vectors, haematoxylin first."""
        rows = np.array([self.haematoxylin, self.eosin])
        return rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))

    @property
    def angle(self) -> float:
        """Between the two, in degrees; 22 in the reference."""
        return float(np.degrees(np.arccos(np.clip((self.vectors[0] * self.vectors[1]).sum(), -1, 1))))


_LEAST_DENSITY = 0.15 * float(np.log(10))
_LEAST_PIXELS = 1_000  # so that a hundredth of them are ten
_LEAST_ANGLE = 10.0  # degrees; one stain and what JPEG makes of it comes to 6, slides of H&E to 16 and more
_LEAST_AMOUNT = 0.2  # a stain weaker than that would be blown up five times and more, noise and all


def find_stains(pixels: Pixels, glass: Light) -> Stains:
    """The stains of tissue pixels, uint8 (..., 3), on glass of that colour; glass among the pixels does no harm.

    Raises StainsUnfit where there are not two, or not two that could be haematoxylin and eosin.
    """
    red, green, blue = densities(pixels, glass)
    seen = (red + green + blue) / 3 >= _LEAST_DENSITY
    if (count := int(np.count_nonzero(seen))) < _LEAST_PIXELS:
        raise StainsUnfit(
            f"of the {seen.size:,} pixels looked at, {count:,} hold enough stain to tell its colour, where "
            f"{_LEAST_PIXELS:,} ({_LEAST_PIXELS / max(1, seen.size):.1%}) are needed"
        )
    density = np.stack([red[seen], green[seen], blue[seen]])
    vectors = _edges(density)
    strongest = np.percentile(_amounts(density, vectors), 99, axis=1)
    first, second = ((float(r), float(g), float(b)) for r, g, b in vectors)
    found = Stains(first, second, (float(strongest[0]), float(strongest[1])))
    _check_plausible(found)
    return found


def densities(pixels: Pixels, glass: Light) -> list[NDArray[np.float64]]:
    """Optical density of R, G and B, each (N,); 0 for what is as bright as the glass, or brighter."""
    ladders = _ladders(glass)
    return [ladders[k][pixels[..., k].ravel()] for k in range(3)]


def tables(found: Stains, target: Stains, glass: Light) -> NDArray[np.float32]:
    """(3, 3, 256): light of channel i that is left by the density of level v of channel k, at [i, k, v].

    Multiplied over k and by 255 they give the pixel in the target's stains, on glass that is white. The target's light
    is exp(-t . a) of amounts a, amounts are linear in the densities, so it is a product of one factor for each.
    """
    scale = np.array(target.strongest) / np.array(found.strongest)
    mixing = (target.vectors.T * scale) @ np.linalg.pinv(found.vectors.T)  # (3, 3): density wanted from density seen
    return np.exp(-mixing[:, :, None] * _ladders(glass)).astype(np.float32)


def developed(tile: Pixels, factors: NDArray[np.float32]) -> Pixels:
    """uint8 (h, w, 3), every pixel for itself: no sum over pixels, so that its company cannot change a bit."""
    import cv2

    planes = cv2.split(tile)
    channels = []
    for of_channel in factors:
        light = cv2.LUT(planes[0], of_channel[0] * np.float32(255))
        for k in (1, 2):
            light = cv2.multiply(light, cv2.LUT(planes[k], of_channel[k]), dst=light)
        channels.append(cv2.convertScaleAbs(light))  # rounded, 255 at most
    return np.asarray(cv2.merge(channels), np.uint8)


def _ladders(glass: Light) -> NDArray[np.float64]:
    """(3, 256) optical density of every level of every channel; level 0 is taken for 1."""
    levels = np.maximum(np.arange(256), 1)
    return np.maximum(np.log(np.array(glass))[:, None] - np.log(levels), 0)


def _edges(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) the edges of the sector that densities (3, N) lie in, haematoxylin first: it takes more of the red.

    Sums are numpy's own and not the BLAS', whose order depends on the machine's threads.
    """
    away = density - density.mean(axis=1, keepdims=True)
    covariance = np.array([[(a * b).mean() for b in away] for a in away])
    plane = np.linalg.eigh(covariance)[1][:, :0:-1].T  # (2, 3), the wider axis first
    plane *= np.where(plane.sum(axis=1, keepdims=True) < 0, -1, 1)
    along, across = ((axis[:, None] * density).sum(axis=0) for axis in plane)
    ends = np.percentile(np.arctan2(across, along), (1, 99))
    edges = np.cos(ends)[:, None] * plane[0] + np.sin(ends)[:, None] * plane[1]
    return edges[np.argsort(-edges[:, 0], kind="stable")]


def _amounts(density: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, N) of each stain, by least squares."""
    inverse = np.linalg.pinv(vectors.T)
    return np.stack([(row[:, None] * density).sum(axis=0) for row in inverse])


def _check_plausible(found: Stains) -> None:
    if found.angle < _LEAST_ANGLE or min(found.strongest) < _LEAST_AMOUNT:
        raise StainsUnfit(f"they are not two: their colours are {found.angle:.0f} degrees apart")
    red, green, blue = found.eosin
    if green <= max(red, blue):
        taken = ", ".join(f"{share:.2f}" for share in found.eosin)
        raise StainsUnfit(f"none of them is eosin, which takes green first (red, green, blue: {taken})")
