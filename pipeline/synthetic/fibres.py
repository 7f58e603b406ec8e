"""The fine grain of a section at full resolution: collagen along its run, and the granules of cytoplasm."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import fft, ndimage

from .noise import Field, ramp, upsample
from .sheet import Sheet

_TEXTURE_PX = 1024
_TEXTURE_UM = 0.5  # um per texture px
_ROWS = 128  # field rows at a time


def weave(sheet: Sheet, haematoxylin: Field, eosin: Field) -> None:
    """Add the texture to full-resolution stain maps (H, W), in place."""
    collagen = _collagen(sheet.rng("collagen"))
    grain = _grain(sheet.rng("grain"), sheet.frame.mpp)
    for top in range(0, sheet.shape[0], _ROWS):
        rows = slice(top, min(top + _ROWS, sheet.shape[0]))
        out = slice(rows.start * sheet.frame.field_px, rows.stop * sheet.frame.field_px)
        fibre, across, along = (
            _enlarge(field, rows, sheet.frame.field_px) for field in (sheet.fibre, sheet.across, sheet.along)
        )
        where = along / _TEXTURE_UM, across / _TEXTURE_UM
        eosin[out] += fibre * cv2.remap(collagen, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        speck = grain[np.arange(out.start, out.stop) % grain.shape[0]][:, np.arange(eosin.shape[1]) % grain.shape[1]]
        eosin[out] *= 1 + 0.12 * speck
        haematoxylin[out] *= 1 + 0.12 * speck
    np.maximum(eosin, 0, out=eosin)


def _enlarge(field: Field, rows: slice, factor: int) -> Field:
    """Some rows of a field in full resolution; a row more on either side is looked at, so that bands meet unseen."""
    above = min(rows.start, 1)
    large = upsample(field[rows.start - above : rows.stop + 1], factor)
    return large[above * factor :][: (rows.stop - rows.start) * factor]


def _collagen(rng: np.random.Generator) -> Field:
    """Eosin to add, (n, n), repeating at its edges: strands along x, with pale clefts between bundles."""
    bundle, strand, fibril = (_stretched(rng, a, b) for a, b in ((6.0, 40.0), (2.2, 18.0), (0.8, 7.0)))
    cleft = 1 - ramp(np.abs(_stretched(rng, 5.0, 26.0)), 0.10, 0.5)
    cleft *= ramp(_stretched(rng, 18.0, 34.0), -0.9, 0.7)
    eosin = 0.14 * bundle + 0.13 * strand + 0.10 * fibril
    return eosin - 0.66 * cleft


def _stretched(rng: np.random.Generator, across_um: float, along_um: float) -> Field:
    noise = rng.standard_normal((_TEXTURE_PX, _TEXTURE_PX), dtype=np.float32)
    # A Gaussian of standard deviation s is exp(-2 (pi f s)^2) in frequency, and repeats at the edges by itself.
    fall = np.exp(-2 * (np.pi * np.fft.fftfreq(_TEXTURE_PX) * across_um / _TEXTURE_UM / 2) ** 2).astype(np.float32)
    run = np.exp(-2 * (np.pi * np.fft.rfftfreq(_TEXTURE_PX) * along_um / _TEXTURE_UM / 2) ** 2).astype(np.float32)
    noise = fft.irfft2(fft.rfft2(noise) * fall[:, None] * run, s=noise.shape)
    return np.asarray(noise / noise.std(), np.float32)


def _grain(rng: np.random.Generator, mpp: float) -> Field:
    """Unit noise at two fine scales, repeating at its edges."""
    fine, coarse = (
        ndimage.gaussian_filter(rng.standard_normal((911, 1013), dtype=np.float32), um / mpp, mode="wrap")
        for um in (0.35, 0.9)
    )
    return np.asarray(fine / fine.std() * 0.6 + coarse / coarse.std() * 0.8, np.float32)
