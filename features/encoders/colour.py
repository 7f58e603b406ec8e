"""Stain, colour and texture statistics of a tile: no weights, no training, 82-d; for baselines and quick looks."""

# Stains: Ruifrok and Johnston, Anal Quant Cytol Histol 23:291, 2001. Local binary patterns: Ojala, Pietikainen and
# Maenpaa, IEEE TPAMI 24:971, 2002. Co-occurrence: Haralick, Shanmugam and Dinstein, IEEE TSMC 3:610, 1973.

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, rgb2lab
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from features.encoders.images import check_pixels
from features.encoders.request import EncoderRequest, images_only, refuse_argument
from features.spec import EncoderSpec
from wsi.errors import UsageError

DIM = 82
_LEAST_PX = 16  # below it a quarter-size texture has nothing to count
_RANGE = 10.0  # values are cut to +-10, which float16 keeps to 0.008
_TINY = 1e-6

Plane = NDArray[np.float32]  # (h, w)


def load(request: EncoderRequest) -> ColourEncoder:
    """Always the same: it runs on the CPU in float32 whatever the device. Raises UsageError for weights."""
    refuse_argument("colour", request)
    if request.weights is not None:
        raise UsageError("The encoder colour has no weights to load.", hint="Leave --weights out.")
    if request.precision not in ("auto", "float32"):
        raise UsageError(f"The encoder colour computes in float32, not {request.precision}.", hint="Leave it at auto.")
    return ColourEncoder()


class ColourEncoder:
    """See `features.spec.Encoder`. A row depends on its own pixels only; tiles of any size are taken as they are."""

    logit_scale = 0.0

    def __init__(self) -> None:
        self.spec = EncoderSpec(
            name="colour",
            dim=DIM,
            input_px=224,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="none",
            normalised=False,
            weights_sha256="",
            precision="float32",
            has_text=False,
        )

    def encode_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) RGB, at least 16 px a side -> float32 (B, 82), finite, in -10..10."""
        check_pixels(pixels)
        if min(pixels.shape[1:3]) < _LEAST_PX:
            raise UsageError(f"Tiles of {pixels.shape[1:3]} px are too small: {_LEAST_PX} px a side are needed.")
        rows = np.empty((len(pixels), DIM), np.float32)
        for row, tile in zip(rows, pixels, strict=True):
            row[:] = describe(tile)
        return rows.clip(-_RANGE, _RANGE)

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """Raises UsageError: statistics know no words."""
        raise images_only("colour")


def describe(tile: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (H, W, 3) -> float32 (82,): stains 41, colour 6, local patterns 20, co-occurrence 10, gradients 5."""
    half = _halved(tile)
    quarter = _halved(half)
    green, coarse = half[..., 1], quarter[..., 1]  # green is where both stains of H&E absorb
    parts = [*_stain_facts(half), _colour_facts(half), _patterns(green), _patterns(coarse)]
    return np.concatenate([*parts, _co_occurrence(green), _gradients(green)]).astype(np.float32)


def _halved(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 pixels, rounded; an odd last row or column is left out."""
    h, w = tile.shape[0] // 2 * 2, tile.shape[1] // 2 * 2
    wide = tile[:h, :w].astype(np.uint16)
    total = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def _stains(tile: NDArray[np.uint8]) -> Plane:
    """(3, pixels): haematoxylin, eosin and the rest, as optical densities. Sums are written out: BLAS has threads."""
    density = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
    unmix = hed_from_rgb.astype(np.float32)
    r, g, b = density[tile.reshape(-1, 3).T]
    return np.stack([r * unmix[0, s] + g * unmix[1, s] + b * unmix[2, s] for s in range(3)])


def _stain_facts(tile: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Per stain mean, deviation, skewness and five quantiles; histograms of H and E; how they vary together."""
    stains = _stains(tile)
    mean = stains.mean(axis=1, keepdims=True)
    centred = stains - mean
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    scaled = centred / (deviation + _TINY)
    skewness = (scaled * scaled * scaled).mean(axis=1)
    quantiles = np.quantile(stains, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)
    together = (scaled[0] * scaled[1]).mean(keepdims=True)
    histograms = [_shares((stain * 5).astype(np.intp), 8) for stain in stains[:2]]  # bins of 0.2 up to 1.6
    return [2 * mean[:, 0], 4 * deviation[:, 0], skewness, 2 * quantiles.ravel(), *histograms, together]


def _shares(values: NDArray[np.intp], bins: int) -> NDArray[np.float32]:
    """Square roots of the shares of 0..bins-1, so that distances are Hellinger's; values beyond go to the ends."""
    counts = np.bincount(values.ravel().clip(0, bins - 1), minlength=bins)
    return np.sqrt(counts / values.size).astype(np.float32)


def _colour_facts(tile: NDArray[np.uint8]) -> NDArray[np.float32]:
    lab = rgb2lab(tile.astype(np.float32) / 255).reshape(-1, 3)
    return np.concatenate([lab.mean(axis=0) / 10, lab.std(axis=0) / 5])


def _patterns(plane: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Ten uniform, rotation-invariant patterns of eight neighbours at one pixel."""
    return _shares(local_binary_pattern(plane, 8, 1, "uniform").astype(np.intp), 10)


def _co_occurrence(plane: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Five Haralick features at distances 1 and 3, of 16 grey levels, mean over two directions."""
    matrix = graycomatrix(plane // 16, [1, 3], [0, np.pi / 2], levels=16, symmetric=True, normed=True)
    kinds = ("contrast", "homogeneity", "energy", "correlation", "entropy")
    facts = np.stack([graycoprops(matrix, kind).mean(axis=1) for kind in kinds])
    facts[0] = np.log1p(facts[0])
    return facts.ravel().astype(np.float32)


def _gradients(plane: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Strength of edges (mean, deviation, 90 %), how much they share a direction (0..1), and fine detail."""
    grey = plane.astype(np.float32) / 32
    dy, dx = np.gradient(grey)
    strength = np.hypot(dy, dx)
    xx, yy, xy = (dx * dx).mean(), (dy * dy).mean(), (dx * dy).mean()
    coherence = np.hypot(xx - yy, 2 * xy) / (xx + yy + _TINY)
    detail = np.diff(grey, n=2, axis=0).std() + np.diff(grey, n=2, axis=1).std()
    facts = [strength.mean(), strength.std(), np.quantile(strength, 0.9), coherence, detail]
    return np.array(facts, np.float32)
