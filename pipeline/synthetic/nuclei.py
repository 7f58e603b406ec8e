"""Nuclei, drawn once as a bank of small stamps and then pressed onto the stain maps by the ten thousand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from .noise import Field, ramp, smooth

_OVERSAMPLE = 3
_TURNS = 12


@dataclass(frozen=True, slots=True)
class NucleusKind:
    """How nuclei of one kind look. Lengths in um, stain amounts relative to a typical nucleus."""

    length: float
    width: float
    spread: float  # of the size, as a share
    haematoxylin: float
    clumps: float  # contrast of the chromatin, 0 smooth - 1 coarse
    rim: float  # extra stain of the nuclear membrane
    irregular: float = 0.05  # of the outline, as a share of the radius
    nucleoli: int = 0  # at most so many
    eosin: float = 0.25  # what is left of pink within
    opacity: float = 0.9
    halo: float = 0.0  # um of cleared cytoplasm around some of them
    variants: int = 28


KINDS: Mapping[str, NucleusKind] = MappingProxyType(
    {
        "lymphocyte": NucleusKind(6.8, 6.1, 0.10, 2.5, 0.55, 0.1, eosin=0.5),
        "plasma": NucleusKind(7.6, 6.7, 0.10, 1.9, 0.9, 0.25, eosin=0.45, halo=0.3),
        "fibroblast": NucleusKind(15.0, 3.0, 0.25, 1.6, 0.5, 0.15, 0.1, eosin=0.5),
        "endothelium": NucleusKind(9.0, 2.6, 0.2, 1.8, 0.4, 0.1, eosin=0.5),
        "gland": NucleusKind(8.6, 5.0, 0.12, 1.85, 0.55, 0.2, 0.05, 1, eosin=0.5),
        "adenocarcinoma": NucleusKind(11.5, 5.8, 0.2, 1.85, 0.85, 0.3, 0.1, 2, eosin=0.45, variants=40),
        "squamous": NucleusKind(10.2, 8.2, 0.17, 1.35, 0.85, 0.45, 0.07, 2, eosin=0.42, halo=1.3, variants=40),
        "basal": NucleusKind(9.5, 5.8, 0.15, 1.85, 0.7, 0.2, 0.07, 1, eosin=0.45, halo=0.4),
        "ghost": NucleusKind(8.5, 7.0, 0.25, 0.45, 0.5, 0.15, 0.1, eosin=0.72, opacity=0.5),
        "debris": NucleusKind(2.0, 1.6, 0.45, 1.9, 0.1, 0.0, 0.14, eosin=0.5),
        "apoptotic": NucleusKind(4.5, 3.8, 0.25, 2.3, 0.1, 0.0, 0.12, eosin=0.6),
        "red cell": NucleusKind(6.8, 6.2, 0.08, 0.05, 0.0, 0.0, 0.04, eosin=1.35, opacity=0.9),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Nuclei:
    """Some nuclei of one kind."""

    kind: str
    xy: NDArray[np.float32]  # (N, 2) centres in level-0 px
    angle: NDArray[np.float32]  # (N,) of the long axis, radians


@dataclass(frozen=True, slots=True, eq=False)
class _Stamp:
    cover: Field  # (h, w) 0-1
    ink: Field  # cover x haematoxylin
    pink: Field  # cover x eosin


def gather(batches: list[Nuclei]) -> list[Nuclei]:
    """One batch for each kind, in the order the kinds first appear."""
    by_kind: dict[str, list[Nuclei]] = {}
    for batch in batches:
        by_kind.setdefault(batch.kind, []).append(batch)
    return [
        Nuclei(kind, np.concatenate([b.xy for b in some]), np.concatenate([b.angle for b in some]))
        for kind, some in by_kind.items()
    ]


def press(maps: tuple[Field, Field], nuclei: Nuclei, mpp: float, rng: np.random.Generator) -> None:
    """Draw the nuclei into the maps (H, W) of haematoxylin and eosin, in place; none that would reach beyond them."""
    haematoxylin, eosin = maps
    kind = KINDS[nuclei.kind]
    # A small slide needs no full bank: about six nuclei share a stamp at the most.
    bank = [_turned(_paint(kind, mpp, rng)) for _ in range(min(kind.variants, 1 + len(nuclei.xy) // 6))]
    variant = rng.integers(len(bank), size=len(nuclei.xy))
    turn = np.round(nuclei.angle / math.pi * _TURNS).astype(int) % _TURNS
    corners = np.round(nuclei.xy).astype(int)
    for (x, y), v, t in zip(corners, variant, turn, strict=True):
        stamp = bank[v][t]
        half = stamp.cover.shape[0] // 2
        rows, cols = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
        if y < half or x < half or y + half >= haematoxylin.shape[0] or x + half >= haematoxylin.shape[1]:
            continue
        clear = 1 - stamp.cover
        haematoxylin[rows, cols] = haematoxylin[rows, cols] * clear + stamp.ink
        eosin[rows, cols] = eosin[rows, cols] * clear + stamp.pink


def _paint(kind: NucleusKind, mpp: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Cover, haematoxylin and eosin (h, w, 3) of one nucleus with its long axis along x, finer than the slide."""
    um = mpp / _OVERSAMPLE
    size = math.exp(rng.normal(0, kind.spread))
    a, b = kind.length * size / 2, kind.width * size * math.exp(rng.normal(0, kind.spread / 2)) / 2
    side = (2 * math.ceil((max(a, b) * 1.3 + 0.8 + kind.halo) / mpp) + 1) * _OVERSAMPLE  # an odd number of pixels
    y, x = ((np.mgrid[:side, :side] - (side - 1) / 2) * um).astype(np.float32)
    depth = _depth(kind, (a, b), (x, y), rng)
    haze = abs(float(rng.normal(0, 0.3)))  # some lie above or below the plane of focus
    cover = ramp(depth, -0.25 - haze, 0.5 + haze) * (kind.opacity * rng.uniform(0.88, 1.0))
    chromatin = smooth(rng, x.shape, 0.5 / um) + 0.8 * smooth(rng, x.shape, 1.1 / um)
    amount = 1 + 0.36 * kind.clumps * np.clip(chromatin, -1.7, 1.9)
    amount += kind.rim * np.exp(-(((depth - 0.5) / 0.5) ** 2))
    for _ in range(int(rng.integers(0, kind.nucleoli + 1))):
        cx, cy = a * rng.uniform(-0.45, 0.45), b * rng.uniform(-0.45, 0.45)
        amount += 0.55 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 0.6**2))
    amount *= kind.haematoxylin * math.exp(rng.normal(0, 0.16))
    if kind.halo:
        reach = kind.halo * rng.uniform(0.2, 2.0)
        halo = float(rng.choice([0.15, 0.3, 0.6], p=[0.5, 0.35, 0.15])) * ramp(depth, -reach - 0.9, -reach + 0.9)
        return np.stack([np.maximum(cover, halo), cover * amount, cover * kind.eosin], axis=-1)
    return np.stack([cover, cover * amount, cover * kind.eosin], axis=-1)


def _depth(kind: NucleusKind, axes: tuple[float, float], at: tuple[Field, Field], rng: np.random.Generator) -> Field:
    """um inside the membrane: an ellipse a little squared, its outline uneven."""
    u, v = at[0] / axes[0], at[1] / axes[1]
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for k in (2, 3, 4, 5):
        wave = np.cos(k * theta + rng.uniform(0, 2 * math.pi))
        outline += float(rng.normal(0, kind.irregular * 1.6 / k)) * wave
    radius = (np.abs(u) ** 2.35 + np.abs(v) ** 2.35) ** (1 / 2.35)
    return ((outline - radius) * min(axes)).astype(np.float32)


def _turned(layers: NDArray[np.float32]) -> list[_Stamp]:
    """The stamp at every turn, reduced to the slide's pixels."""
    centre = (layers.shape[1] - 1) / 2
    stamps = []
    for turn in range(_TURNS):
        rotation = cv2.getRotationMatrix2D((centre, centre), -180 * turn / _TURNS, 1)
        fine = cv2.warpAffine(layers, rotation, layers.shape[1::-1], flags=cv2.INTER_LINEAR)
        coarse = cv2.resize(fine, None, fx=1 / _OVERSAMPLE, fy=1 / _OVERSAMPLE, interpolation=cv2.INTER_AREA)
        cover, ink, pink = (np.array(coarse[..., i], np.float32) for i in range(3))
        stamps.append(_Stamp(cover, ink, pink))
    return stamps
