"""Outlines of masks: area, holes, nesting and frame, against the mask itself and shapes drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from tiling.grid import TissueMask
from tiling.outline import tissue_outline


def blobs(seed: int, shape: tuple[int, int] = (180, 240)) -> np.ndarray:
    """Round pieces with holes, some at the frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for solid in [True] * 6 + [False] * 4:
        cy, cx, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(10, 50) * (1 if solid else 0.4)
        inside[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = solid
    return inside


@pytest.mark.parametrize("seed", range(6))
def test_area_and_membership_are_those_of_the_mask(seed: int):
    mask = TissueMask(blobs(seed), 16.25, (1000, -500))
    outline = tissue_outline(mask)
    assert outline.is_valid
    assert outline.area == pytest.approx(mask.inside.sum() * 16.25**2, rel=0.02)
    y, x = np.mgrid[: mask.inside.shape[0], : mask.inside.shape[1]]
    centres = shapely.points(1000 + (x + 0.5) * 16.25, -500 + (y + 0.5) * 16.25)
    wrong = shapely.contains(outline, centres) != mask.inside
    near = mask.inside != np.roll(mask.inside, 1, 0)
    near |= mask.inside != np.roll(mask.inside, 1, 1)
    assert wrong.sum() <= 0.25 * near.sum()  # only along the edges, where simplifying moves less than a pixel


def test_a_square_with_a_hole_and_a_piece_in_the_hole():
    inside = np.zeros((60, 60), bool)
    inside[5:55, 5:55] = True
    inside[15:45, 15:45] = False
    inside[25:35, 25:35] = True
    outline = tissue_outline(TissueMask(inside, 1.0))
    assert sorted(len(piece.interiors) for piece in outline.geoms) == [0, 1]
    assert outline.area == pytest.approx(50**2 - 30**2 + 10**2, rel=0.005)
    assert outline.bounds == (5, 5, 55, 55)


def test_tissue_that_fills_the_frame_ends_at_the_frame():
    outline = tissue_outline(TissueMask(np.ones((20, 30), bool), 10.0, (7, 9)))
    assert outline.bounds == (7, 9, 307, 209)


def test_no_tissue_has_an_empty_outline():
    assert tissue_outline(TissueMask(np.zeros((4, 4), bool), 1.0)).is_empty


def test_the_steps_of_the_raster_are_gone():
    y, x = np.mgrid[:200, :200]
    outline = tissue_outline(TissueMask(x + y < 200, 1.0))  # a triangle: 200 steps along its long side
    assert len(outline.geoms[0].exterior.coords) < 12


def test_noise_stays_valid():
    inside = np.random.default_rng(1).random((60, 60)) > 0.5
    assert tissue_outline(TissueMask(inside, 3.0)).is_valid
