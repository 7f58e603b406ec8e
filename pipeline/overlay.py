"""Drawings on a thumbnail: where it lies on the slide, the outline of the tissue, the tiles that were kept."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon

from tiling.grid import TileGrid
from wsi.geometry import Region

# Okabe and Ito's blue (2008) keeps apart from haematoxylin, eosin and white for every kind of colour vision;
# the white halo keeps it apart from dark tissue.
OUTLINE = (0, 90, 181)
HALO = (255, 255, 255)
TILE_LINE_ALPHA = 0.45
_SUBPIXEL_BITS = 4  # cv2 draws at a sixteenth of a pixel


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a thumbnail lies on its slide."""

    origin: tuple[int, int]  # level-0 (x, y) of the thumbnail's top-left corner
    px: tuple[float, float]  # level-0 px per thumbnail px, along x and along y

    @classmethod
    def of(cls, bounds: Region, thumbnail: NDArray[np.uint8]) -> Frame:
        """The frame of a thumbnail (h, w, 3) that covers exactly `bounds`.

        Each axis has its own scale: a thumbnail's sides are rounded to whole pixels one by one, and on a long
        thin slide the two scales part by several per cent.
        """
        h, w = thumbnail.shape[:2]
        return cls((bounds.x, bounds.y), (bounds.width / w, bounds.height / h))

    def locate(self, xy: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
        """Level-0 points (N, 2) on the thumbnail, (N, 2): (0, 0) is the outer corner of its first pixel."""
        return (np.asarray(xy, np.float64) - self.origin) / self.px


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """A lattice of tiles and the thumbnail it is drawn on."""

    grid: TileGrid
    frame: Frame

    def boxes(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, 4) left, top, right, bottom of cells in whole thumbnail pixels, the last two exclusive.

        Each edge is rounded by itself, by the rule of `wsi.geometry.round_px`: never off by more than half a pixel,
        and tiles that touch on the slide touch on the thumbnail. A tile thinner than a pixel still gets one.
        """
        corners = self.grid.coords_of(cells)
        near = np.floor(self.frame.locate(corners) + 0.5).astype(np.int64)
        far = np.floor(self.frame.locate(corners + self.grid.span_px) + 0.5).astype(np.int64)
        return np.concatenate([near, np.maximum(far, near + 1)], axis=1)


def draw_outline(thumbnail: NDArray[np.uint8], outline: MultiPolygon, frame: Frame) -> NDArray[np.uint8]:
    """A copy of the thumbnail, uint8 (h, w, 3), with the outline (level-0 px) drawn on it, holes included."""
    image = np.array(thumbnail, order="C")
    rings = [ring for polygon in outline.geoms for ring in (polygon.exterior, *polygon.interiors)]
    if not rings:
        return image
    # cv2 puts whole numbers at the centres of pixels, we put them at the corners: half a pixel apart.
    points = [frame.locate(np.asarray(ring.coords)[:, :2]) - 0.5 for ring in rings]
    fixed = [np.rint(p * 2**_SUBPIXEL_BITS).astype(np.int32) for p in points]
    width = max(1, round(min(image.shape[:2]) / 400))
    for colour, thickness in ((HALO, 2 * width + 1), (OUTLINE, width)):
        cv2.polylines(image, fixed, True, colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    return image


def draw_tiles(thumbnail: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """A copy of the thumbnail, uint8 (h, w, 3), with the border of every kept tile drawn half transparent."""
    image = np.array(thumbnail, order="C")
    lines = image.copy()
    for left, top, right, bottom in placement.boxes(placement.grid.cells).tolist():
        cv2.rectangle(lines, (left, top), (right, bottom), OUTLINE, 1)  # neighbours share a line
    side = placement.grid.span_px / max(placement.frame.px)
    alpha = TILE_LINE_ALPHA * min(1, side / 16)  # the smaller the tiles, the denser their lines
    return cv2.addWeighted(lines, alpha, image, 1 - alpha, 0).astype(np.uint8)
