"""What a slide will be, before a pixel is drawn: everything follows from the seed and can be overridden by name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

REGIONS: tuple[str, ...] = (
    "glass",
    "stroma",
    "normal gland",
    "adenocarcinoma",
    "squamous carcinoma",
    "lymphocytes",
    "adipose",
    "necrosis",
    "pen",
)
GLASS, STROMA, GLAND, ADENO, SQUAMOUS, LYMPH, ADIPOSE, NECROSIS, PEN = range(len(REGIONS))

DIAGNOSES = ("benign", "adenocarcinoma", "squamous carcinoma")
TUMOUR_OF = MappingProxyType({"adenocarcinoma": ADENO, "squamous carcinoma": SQUAMOUS})

PEN_COLOURS = ("blue", "green", "black")


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers of one purpose: adding a purpose leaves the others as they were."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


@dataclass(frozen=True, slots=True)
class StainRecipe:
    """How one laboratory stains and one scanner sees it."""

    haematoxylin: tuple[float, float, float]  # optical density per unit of stain in R, G, B; unit length
    eosin: tuple[float, float, float]  # the same
    haematoxylin_strength: float  # 1 is a typical laboratory
    eosin_strength: float
    white: tuple[float, float, float]  # grey levels of empty glass, 0-255
    blur_um: float  # standard deviation of the point spread
    noise: float  # standard deviation of the sensor's noise, grey levels


@dataclass(frozen=True, slots=True)
class SlideRecipe:
    """One slide. Lengths of cells and glands are physical, whatever the scanner's mpp."""

    seed: int
    diagnosis: str  # one of DIAGNOSES
    width_um: float
    height_um: float
    mpp: float  # um per pixel
    pieces: int  # separate pieces of tissue, 1-3
    pen: str | None  # one of PEN_COLOURS, or None
    shares: tuple[float, ...]  # of the tissue's area, one per region of REGIONS, sum 1; glass and pen 0
    stain: StainRecipe

    def __post_init__(self) -> None:
        if self.diagnosis not in DIAGNOSES:
            raise ValueError(f"diagnosis must be one of {DIAGNOSES}, not {self.diagnosis!r}")
        if self.pen is not None and self.pen not in PEN_COLOURS:
            raise ValueError(f"pen must be one of {PEN_COLOURS} or None, not {self.pen!r}")
        if not 0.1 <= self.mpp <= 2 or min(self.width_um, self.height_um) < 200 or not 1 <= self.pieces <= 3:
            raise ValueError(f"mpp must be 0.1-2 um, sides at least 200 um, pieces 1-3: {self}")
        if len(self.shares) != len(REGIONS) or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares must be {len(REGIONS)} numbers that sum to 1, not {self.shares}")


def recipe(seed: int, diagnosis: str | None = None, **overrides: Any) -> SlideRecipe:
    """The recipe of a seed; any field of SlideRecipe can be given instead. Raises ValueError on an impossible one."""
    rng = stream(seed, "recipe")
    drawn = str(rng.choice(DIAGNOSES))
    chosen = diagnosis or drawn
    if chosen not in DIAGNOSES:
        raise ValueError(f"diagnosis must be one of {DIAGNOSES}, not {chosen!r}")
    plan = SlideRecipe(
        seed=seed,
        diagnosis=chosen,
        width_um=2200.0,
        height_um=1600.0,
        mpp=0.5,
        pieces=int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])),
        pen=str(rng.choice(PEN_COLOURS)) if rng.random() < 0.35 else None,
        shares=_shares(stream(seed, "shares"), chosen),
        stain=_stain(stream(seed, "stain")),
    )
    return replace(plan, **overrides)


def _shares(rng: np.random.Generator, diagnosis: str) -> tuple[float, ...]:
    """Tumours hold 15-60 % of one tumour and no normal glands; benign tissue has glands and no necrosis."""
    shares = np.zeros(len(REGIONS))
    if diagnosis in TUMOUR_OF:
        tumour = rng.uniform(0.18, 0.58)
        rest = rng.uniform([0.9, 0.1, 0.15, 0.1], [1.3, 0.9, 0.4, 0.6])
        shares[[STROMA, LYMPH, ADIPOSE, NECROSIS]] = (1 - tumour) * rest / rest.sum()
        shares[TUMOUR_OF[diagnosis]] = tumour
    else:
        rest = rng.uniform([0.8, 1.0, 0.15, 0.2], [1.1, 1.6, 0.5, 0.5])
        shares[[STROMA, GLAND, LYMPH, ADIPOSE]] = rest / rest.sum()
    return tuple(float(share) for share in shares / shares.sum())


def _stain(rng: np.random.Generator) -> StainRecipe:
    haematoxylin = np.array([0.55, 0.735, 0.40]) + rng.normal(0, [0.03, 0.02, 0.03])
    eosin = np.array([0.19, 0.86, 0.47]) + rng.normal(0, [0.03, 0.02, 0.04])
    return StainRecipe(
        haematoxylin=_unit(haematoxylin),
        eosin=_unit(eosin),
        haematoxylin_strength=float(rng.uniform(0.85, 1.2)),
        eosin_strength=float(rng.uniform(0.8, 1.2)),
        white=tuple(float(v) for v in rng.uniform(240, 246) + rng.normal(0, [1.2, 0.8, 1.2])),  # type: ignore[arg-type]
        blur_um=float(rng.uniform(0.22, 0.34)),
        noise=float(rng.uniform(0.8, 1.8)),
    )


def _unit(vector: np.ndarray) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in vector / np.linalg.norm(vector))
    return r, g, b
