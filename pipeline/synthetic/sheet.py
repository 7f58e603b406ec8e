"""The section while it is drawn: stain maps on the field's raster, the run of the fibres, nuclei to be pressed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .layout import Frame, Layout
from .noise import Field, at, per_label, pixel_grid, ramp, scatter, smooth, tessellate
from .nuclei import Nuclei
from .recipe import GLASS, SlideRecipe, stream


@dataclass(slots=True, eq=False)
class Sheet:
    """Everything the painters of tissue write to. Rasters are (h, w) of the field, about 1 um a pixel."""

    plan: SlideRecipe
    frame: Frame
    share: dict[int, Field]
    haematoxylin: Field
    eosin: Field
    fibre: Field  # strength of the collagen texture, 0-1
    across: Field  # um across the fibres
    along: Field  # um along the fibres
    seam: Field  # 0 where bundles of fibres meet, 1 within them
    nuclei: list[Nuclei] = field(default_factory=list)

    @classmethod
    def blank(cls, plan: SlideRecipe, layout: Layout) -> Sheet:
        frame = layout.frame
        haematoxylin, eosin, fibre = (np.zeros(frame.field_shape, np.float32) for _ in range(3))
        across, along, seam = _run_of_fibres(plan, frame)
        return cls(plan, frame, layout.share, haematoxylin, eosin, fibre, across, along, seam)

    @property
    def um(self) -> float:
        """Side of a field pixel."""
        return self.frame.field_um

    @property
    def shape(self) -> tuple[int, int]:
        return self.frame.field_shape

    @property
    def tissue(self) -> Field:
        return 1 - self.share.get(GLASS, np.zeros(self.shape, np.float32))

    def rng(self, purpose: str) -> np.random.Generator:
        return stream(self.plan.seed, purpose)

    def smooth(self, rng: np.random.Generator, scale_um: float) -> Field:
        return smooth(rng, self.shape, scale_um / self.um)

    def bend(self, rng: np.random.Generator, scale_um: float, amount_um: float) -> tuple[Field, Field]:
        """A displacement (dx, dy) in field px that makes straight borders wavy."""
        amount = amount_um / self.um
        return self.smooth(rng, scale_um) * amount, self.smooth(rng, scale_um) * amount

    def lay(self, cover: Field, haematoxylin: Field | float, eosin: Field | float) -> None:
        """Replace what is there by the given amounts, where `cover` is 1. Fibres are covered too."""
        self.haematoxylin += cover * (haematoxylin - self.haematoxylin)
        self.eosin += cover * (eosin - self.eosin)
        self.fibre *= 1 - cover

    def scatter(self, rng: np.random.Generator, spacing_um: float, chance: Field) -> NDArray[np.float32]:
        """(N, 2) field points about `spacing_um` apart, kept with the chance (0-1) at their place."""
        points = scatter(rng, self.shape, spacing_um / self.um, 0.38)
        return points[rng.random(len(points)) < at(chance, points)]

    def add(self, kind: str, points: NDArray[np.float32], angle: NDArray) -> None:
        """Nuclei at field points (N, 2), long axes at `angle` radians."""
        xy = ((points + 0.5) * self.frame.field_px).astype(np.float32)
        self.nuclei.append(Nuclei(kind, xy, np.asarray(angle, np.float32)))

    def fibre_angle(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Direction of the fibres at field points, radians."""
        return direction(self.across, points) + np.pi / 2


def direction(surface: Field, points: NDArray[np.float32], reach: int = 2) -> NDArray[np.float32]:
    """Angle of the steepest rise of a field at (N, 2) points."""
    x, y = points[:, 0].astype(int), points[:, 1].astype(int)
    h, w = surface.shape
    dx = surface[y, np.minimum(x + reach, w - 1)] - surface[y, np.maximum(x - reach, 0)]
    dy = surface[np.minimum(y + reach, h - 1), x] - surface[np.maximum(y - reach, 0), x]
    return np.arctan2(dy, dx).astype(np.float32)


def any_angle(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.uniform(0, np.pi, n).astype(np.float32)


def _run_of_fibres(plan: SlideRecipe, frame: Frame) -> tuple[Field, Field, Field]:
    """Curved coordinates in um, across and along the fibres: bundles, each turned its own way; and their seams."""
    rng = stream(plan.seed, "fibres")
    shape, um = frame.field_shape, frame.field_um
    x, y = pixel_grid(shape)
    bend = smooth(rng, shape, 60 / um) * (40 / um), smooth(rng, shape, 60 / um) * (40 / um)
    label, border = tessellate(scatter(rng, shape, 120 / um, 0.45), shape, bend)
    turn = rng.uniform(0, np.pi) + 0.35 * (per_label(rng, label, -1, 1) + per_label(rng, label, -1, 1))
    cos, sin = np.cos(turn), np.sin(turn)
    sway = smooth(rng, shape, 220 / um) * 120 + smooth(rng, shape, 40 / um) * 13
    crimp = smooth(rng, shape, 11 / um) * 2.4
    across = (cos * y - sin * x) * um + sway + crimp + per_label(rng, label, 0, 500)
    along = (cos * x + sin * y) * um + per_label(rng, label, 0, 500)
    return across, along, ramp(border * um, 0.8, 2.6)
