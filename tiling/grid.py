"""The lattice: which tiles a slide is cut into, and where each lies. Numbers only; no pixels are read here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.errors import MppTooCoarse
from wsi.geometry import Region, pixels_along, round_px

STAINS = "none", "macenko", "reinhard"  # ways to normalise stains

READ_OK, READ_PADDED, READ_FAILED = 0, 1, 2  # read_status: as asked; white beyond the slide's edge; not decodable


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How tiles are cut. Lengths are pixels of the tile as the encoder sees it, at `mpp`."""

    size_px: int = 224  # PLIP's input: tiles of this size are never resampled a second time
    mpp: float = 0.5  # um per tile pixel; 224 px then cover 112 um on every slide
    stride_px: int | None = None  # None: tiles touch; smaller than size_px: they overlap
    min_tissue: float = 0.5  # a tile is kept if at least this share of its area is tissue; 0 keeps every tile
    exact: bool = False  # True: pixels are always means of all the slide's; False: readers may scale in decoding
    quality: bool = False  # True: tiles are looked over for blur, pen, folds and clipping, see `tiling.quality`
    max_upsample: float = 1.05  # a slide coarser than mpp x this is refused: pixels are not invented in silence
    stain: str = "none"  # macenko, reinhard: colours of every slide are brought to those of one reference

    def __post_init__(self) -> None:
        if not math.isfinite(self.mpp):
            raise ValueError("mpp must be finite")
        for name in ("size_px", "mpp", "stride_px"):
            if (length := getattr(self, name)) is not None and length <= 0:
                raise ValueError(f"{name} must be positive, not {length}")
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue is a share between 0 and 1, not {self.min_tissue}")
        if not 1 <= self.max_upsample < math.inf:  # NaN is neither
            raise ValueError(f"max_upsample is a factor of at least 1, not {self.max_upsample}")
        if self.stain not in STAINS:
            raise ValueError(f"stain is {', '.join(STAINS[:-1])} or {STAINS[-1]}, not {self.stain!r}")


def check_detail(slide: Any, spec: TileSpec) -> None:
    """Raises MppTooCoarse where the finest pixels of `slide` (anything with `.mpp` and `.path`) are coarser than tiles.

    Needs no pixels, so ask it before an overview is read.
    """
    if slide.mpp > spec.mpp * spec.max_upsample:
        raise MppTooCoarse(
            f"{slide.path}: its finest pixels are {slide.mpp:.4g} um, coarser than the {spec.mpp:.4g} asked for.",
            hint=f"Leave it out of this run, or run all slides at its scale: --set tile.mpp={slide.mpp:.4g}.",
            path=str(slide.path),
            mpp=slide.mpp,
        )


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Where tissue is, on a coarse raster of `px` level-0 pixels a side that starts at `origin`."""

    inside: NDArray[np.bool_]  # (h, w)
    px: float  # level-0 px per mask px
    origin: tuple[int, int] = (0, 0)  # level-0 (x, y) of the mask's top-left corner: the slide's bounds

    @classmethod
    def within(cls, inside: NDArray[np.bool_], px: float, bounds: Region) -> TissueMask:
        """From the pixels that lie within `bounds`: the last row and column, which reach beyond, are given what lies
        beside them."""
        margin = [
            (0, pixels_along(side, px)[1] - n)
            for side, n in zip((bounds.height, bounds.width), inside.shape, strict=True)
        ]
        return cls(np.pad(inside, margin, mode="edge"), px, (bounds.x, bounds.y))

    def fraction(self, regions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Share of each region that is tissue, (N,) in 0..1, exact for any overlap with the mask's raster.

        `regions` is (N, 4): x, y, width, height in level-0 px. What lies outside the mask counts as no tissue.
        """
        h, w = self.inside.shape
        area = np.zeros((h + 1, w + 1))
        area[1:, 1:] = self.inside.cumsum(0).cumsum(1)

        def below(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
            """Tissue area above and left of (x, y): the summed-area table, bilinear between its nodes."""
            x, y = x.clip(0, w), y.clip(0, h)
            j, i = np.minimum(x.astype(int), w - 1), np.minimum(y.astype(int), h - 1)
            u, v = x - j, y - i
            top = area[i, j] * (1 - u) + area[i, j + 1] * u
            bottom = area[i + 1, j] * (1 - u) + area[i + 1, j + 1] * u
            return top * (1 - v) + bottom * v

        x0 = (regions[:, 0] - self.origin[0]) / self.px
        y0 = (regions[:, 1] - self.origin[1]) / self.px
        x1, y1 = x0 + regions[:, 2] / self.px, y0 + regions[:, 3] / self.px
        tissue = below(x1, y1) - below(x0, y1) - below(x1, y0) + below(x0, y0)
        return np.clip(tissue / ((x1 - x0) * (y1 - y0)), 0, 1).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class TileGrid:
    """A lattice of equal squares over a slide, of which some cells are kept.

    A cell is a flat row-major index into the lattice: `row * cols + col`. Where a tile lies is `region(cell)`,
    computed from whole pixels, never stored: neighbours share an edge exactly when the stride is the span.
    """

    spec: TileSpec
    origin: tuple[int, int]  # level-0 (x, y) of cell 0
    span_px: int  # side of a tile in level-0 px
    stride_px: int  # distance between neighbours in level-0 px
    keep: NDArray[np.bool_]  # (rows, cols)
    tissue_fraction: NDArray[np.float32] = field(repr=False)  # (N,), of the kept cells in row-major order

    @classmethod
    def over(cls, slide: Any, mask: TissueMask, spec: TileSpec) -> TileGrid:
        """The grid over `slide` (anything with `.mpp`, `.bounds` and `.path`): cells with enough tissue are kept.

        Raises MppTooCoarse where the slide's finest pixels are coarser than the tiles'.
        """
        check_detail(slide, spec)
        span = max(1, round_px(spec.size_px * spec.mpp / slide.mpp))
        stride = span if spec.stride_px is None else max(1, round_px(spec.stride_px * spec.mpp / slide.mpp))
        bounds: Region = slide.bounds
        rows, cols = math.ceil(bounds.height / stride), math.ceil(bounds.width / stride)
        y, x = np.divmod(np.arange(rows * cols, dtype=np.int64), cols)
        regions = np.stack([bounds.x + x * stride, bounds.y + y * stride, 0 * x + span, 0 * x + span], axis=1)
        fraction = mask.fraction(regions)
        keep = fraction >= spec.min_tissue
        return cls(spec, (bounds.x, bounds.y), span, stride, keep.reshape(rows, cols), fraction[keep])

    def __len__(self) -> int:
        """Number of kept tiles, N."""
        return int(self.keep.sum())

    @property
    def cells(self) -> NDArray[np.int64]:
        """(N,) kept cells, ascending: the order of every per-tile array."""
        return np.flatnonzero(self.keep)

    @property
    def coords(self) -> NDArray[np.int64]:
        """(N, 2) level-0 (x, y) of the top-left corner of every kept tile."""
        return self.coords_of(self.cells)

    def coords_of(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """(len(cells), 2) level-0 (x, y) of the top-left corners of any cells, kept or not."""
        row, col = np.divmod(np.asarray(cells, dtype=np.int64), self.keep.shape[1])
        return np.stack([self.origin[0] + col * self.stride_px, self.origin[1] + row * self.stride_px], axis=1)

    def region(self, cell: int) -> Region:
        """The square a cell covers, in level-0 pixels; at the slide's edge it may reach beyond it."""
        return self.regions(np.array([cell]))[0]

    def regions(self, cells: NDArray[np.int64]) -> list[Region]:
        """As `region`, of every cell."""
        return [Region(x, y, self.span_px, self.span_px) for x, y in self.coords_of(cells).tolist()]

    def paint(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Per-tile values (N,) laid out as (rows, cols) float32; cells that were not kept are NaN."""
        image = np.full(self.keep.shape, np.nan, np.float32)
        image[self.keep] = values
        return image


@dataclass(frozen=True, slots=True, eq=False)
class TileBatch:
    """Some tiles in grid order. A tile with status READ_FAILED has no meaning in its pixels: they are not tissue."""

    pixels: NDArray[np.uint8]  # (B, size, size, 3) RGB
    cells: NDArray[np.int64]  # (B,)
    status: NDArray[np.uint8]  # (B,) READ_OK, READ_PADDED or READ_FAILED
    flags: NDArray[np.uint8]  # (B,) see `tiling.quality`; 0 where not asked for, or not read

    def __len__(self) -> int:
        return len(self.cells)
