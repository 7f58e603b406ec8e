"""Where things are on a slide: the tissue's silhouette and its regions, as smooth shares on a raster of about 1 um."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.geometry import round_px

from .noise import Field, blur, pixel_grid, ramp, smooth
from .recipe import ADENO, ADIPOSE, GLASS, LYMPH, NECROSIS, REGIONS, SQUAMOUS, STROMA, SlideRecipe, stream

MASK_FIELD = 4  # field px per mask px
_FIELD_UM = 1.0
# Half-width of a region's blobs.
_SCALE_UM: Mapping[int, float] = MappingProxyType({STROMA: 110.0, LYMPH: 80.0, ADIPOSE: 85.0, NECROSIS: 80.0})
_TUMOUR_SCALE_UM = 130.0
_LEAST_TISSUE = 0.35  # of the glass


@dataclass(frozen=True, slots=True)
class Frame:
    """Three rasters over one slide that differ by whole factors: pixels, fields (about 1 um), mask (about 4 um)."""

    mpp: float
    width: int  # level-0 px, as asked for
    height: int
    field_px: int  # level-0 px per field px

    @classmethod
    def of(cls, plan: SlideRecipe) -> Frame:
        width, height = round_px(plan.width_um / plan.mpp), round_px(plan.height_um / plan.mpp)
        return cls(plan.mpp, width, height, max(1, round_px(_FIELD_UM / plan.mpp)))

    @property
    def field_um(self) -> float:
        return self.field_px * self.mpp

    @property
    def mask_px(self) -> int:
        return self.field_px * MASK_FIELD

    @property
    def mask_um(self) -> float:
        return self.mask_px * self.mpp

    @property
    def mask_shape(self) -> tuple[int, int]:
        return math.ceil(self.height / self.mask_px), math.ceil(self.width / self.mask_px)

    @property
    def field_shape(self) -> tuple[int, int]:
        h, w = self.mask_shape
        return h * MASK_FIELD, w * MASK_FIELD


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How much of each field pixel belongs to each region."""

    frame: Frame
    share: dict[int, Field]  # by index into REGIONS, those present only; (h, w) each, together 1

    def regions(self) -> NDArray[np.uint8]:
        """The region with the largest share of each mask pixel, (h, w)."""
        h, w = self.frame.mask_shape
        stack = np.zeros((len(REGIONS), h, w), np.float32)
        for region, share in self.share.items():
            stack[region] = cv2.resize(share, (w, h), interpolation=cv2.INTER_AREA)
        return stack.argmax(axis=0).astype(np.uint8)


def lay_out(plan: SlideRecipe) -> Layout:
    """The regions of a slide, before anything is drawn in them; their shares of the tissue are the planned ones."""
    frame = Frame.of(plan)
    tissue = _silhouette(plan, frame)
    labels = _divide(plan, frame, tissue > 0)
    labels[tissue <= 0] = GLASS
    return Layout(frame, _soft_shares(plan, frame, labels))


def _silhouette(plan: SlideRecipe, frame: Frame) -> Field:
    """Positive inside the tissue; (h, w) on the mask's raster."""
    rng = stream(plan.seed, "silhouette")
    shape, um = frame.mask_shape, frame.mask_um
    x, y = pixel_grid(shape)
    u, v = x / shape[1] - 0.5, y / shape[0] - 0.5
    field = np.full(shape, -np.inf, np.float32)
    for cu, cv, ru, rv in _pieces(rng, plan.pieces):
        turn = rng.uniform(-0.5, 0.5)
        c, s = math.cos(turn), math.sin(turn)
        du, dv = (u - cu) * c + (v - cv) * s, (v - cv) * c - (u - cu) * s
        field = np.maximum(field, 1 - np.hypot(du / ru, dv / rv))
    field += 0.20 * smooth(rng, shape, 150 / um) + 0.05 * smooth(rng, shape, 30 / um)
    if rng.random() > 0.25:  # most sections touch no border of the glass
        edge = np.minimum(np.minimum(x, shape[1] - 1 - x), np.minimum(y, shape[0] - 1 - y)) / min(shape)
        field -= 0.8 * (1 - ramp(edge, 0.01, 0.07))
    return field - min(0.0, float(np.quantile(field, 1 - _LEAST_TISSUE)))


def _pieces(rng: np.random.Generator, n: int) -> list[tuple[float, float, float, float]]:
    """Centre and radii of each piece, in shares of the slide."""
    if n == 1:
        return [(rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(0.44, 0.52), rng.uniform(0.44, 0.52))]
    if n == 2:
        left = 0.25 + rng.uniform(-0.03, 0.03)
        halves = ((left - 0.5, left), (left, 0.5 - left))  # centre and radius across, of each half of the glass
        return [(u, rng.uniform(-0.06, 0.06), r, rng.uniform(0.4, 0.5)) for u, r in halves]
    return [(-0.24, rng.uniform(-0.05, 0.05), 0.26, 0.45), (0.25, -0.25, 0.28, 0.24), (0.25, 0.25, 0.28, 0.23)]


def _divide(plan: SlideRecipe, frame: Frame, inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A region for every mask pixel: the largest of smooth fields, levelled until the planned shares hold."""
    kinds = [k for k, share in enumerate(plan.shares) if share > 0]
    target = np.array([plan.shares[k] for k in kinds])
    fields = np.stack([f[inside] for f in _region_fields(plan, frame, kinds)])  # (kinds, inside)
    bias = np.zeros(len(kinds), np.float32)
    for rate in np.geomspace(1.0, 0.05, 60):
        got = np.bincount((fields + bias[:, None]).argmax(axis=0), minlength=len(kinds)) / fields.shape[1]
        bias += float(rate) * np.log((target + 1e-3) / (got + 1e-3)).astype(np.float32)
    labels = np.zeros(inside.shape, np.int64)
    labels[inside] = np.array(kinds)[(fields + bias[:, None]).argmax(axis=0)]
    return labels


def _region_fields(plan: SlideRecipe, frame: Frame, kinds: list[int]) -> list[Field]:
    """One field per region. Necrosis lies where the tumour is, lymphocytes rather near it, fat away from it."""
    rng = stream(plan.seed, "regions")
    shape, um = frame.mask_shape, frame.mask_um
    core = smooth(rng, shape, _TUMOUR_SCALE_UM / um)
    fields = []
    for kind in kinds:
        own = smooth(rng, shape, _SCALE_UM.get(kind, _TUMOUR_SCALE_UM) / um)
        lean = {NECROSIS: 0.6, LYMPH: 0.25, ADIPOSE: -0.4, ADENO: 0.9, SQUAMOUS: 0.9}.get(kind, 0.0)
        fields.append(own * math.sqrt(1 - lean**2) + core * lean)
    return fields


def _soft_shares(plan: SlideRecipe, frame: Frame, labels: NDArray[np.int64]) -> dict[int, Field]:
    """The labels on the finer raster: borders bent by a few um of noise and a little soft."""
    rng = stream(plan.seed, "borders")
    shape, um = frame.field_shape, frame.field_um
    x, y = pixel_grid(shape)
    bend = [smooth(rng, shape, 18 / um) * (6 / um) + smooth(rng, shape, 5 / um) * (1.2 / um) for _ in "xy"]
    map_x = (x + bend[0] - (MASK_FIELD - 1) / 2) / MASK_FIELD
    map_y = (y + bend[1] - (MASK_FIELD - 1) / 2) / MASK_FIELD
    share = {}
    for kind in np.unique(labels):
        flat = blur((labels == kind).astype(np.float32), 1.2)
        soft = cv2.remap(flat, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        share[int(kind)] = ramp(np.asarray(soft, np.float32), 0.2, 0.8)
    total = sum(share.values())
    return {kind: soft / total for kind, soft in share.items()}
