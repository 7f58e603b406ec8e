"""Shapes of masks: against scikit-image, which computes them another way, and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.morphology import dilation, disk, erosion, remove_small_holes, remove_small_objects

from tiling.morphology import closed, grown, holes, opened, pieces, shrunk, strips, trimmed

Mask = NDArray[np.bool_]


def blobs(seed: int = 0, shape: tuple[int, int] = (90, 120)) -> Mask:
    noise = np.random.default_rng(seed).normal(0, 1, shape)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3) > 0.03)


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_growing_and_shrinking_by_discs(radius: int):
    np.testing.assert_array_equal(grown(blobs(), radius), dilation(blobs(), disk(radius)))
    np.testing.assert_array_equal(shrunk(blobs(), radius), erosion(blobs(), disk(radius)))


@pytest.mark.parametrize("radius", [0, 0.4, 0.99])
def test_less_than_a_pixel_changes_nothing(radius: float):
    for change in (grown, shrunk, closed, opened):
        np.testing.assert_array_equal(change(blobs(), radius), blobs())


def test_closing_and_opening_away_from_the_frame():
    middle = np.s_[20:-20, 20:-20]
    np.testing.assert_array_equal(closed(blobs(), 4)[middle], erosion(dilation(blobs(), disk(4)), disk(4))[middle])
    np.testing.assert_array_equal(opened(blobs(), 3)[middle], dilation(erosion(blobs(), disk(3)), disk(3))[middle])


def test_a_slit_that_runs_out_of_the_frame_is_closed_up_to_it():
    mask = np.ones((40, 40), bool)
    mask[:15, 18:22] = False
    assert closed(mask, 5).all()


def test_a_corner_beside_the_frame_is_not_filled():
    mask = np.zeros((40, 40), bool)
    mask[20:, :] = True
    np.testing.assert_array_equal(closed(mask, 8), mask)


def test_closing_never_takes_away_and_opening_never_adds():
    assert (closed(blobs(), 6) >= blobs()).all()
    assert (opened(blobs(), 3) <= blobs()).all()


def test_holes_and_pieces_by_area():
    framed = np.pad(blobs(), 1, constant_values=True)  # so that every hole is one
    found = holes(framed)
    filled = framed | found.chosen(found.area <= 60)
    np.testing.assert_array_equal(filled, remove_small_holes(framed, max_size=60, connectivity=1))
    found = pieces(blobs())
    kept = found.chosen(found.area >= 60)
    np.testing.assert_array_equal(kept, remove_small_objects(blobs(), max_size=59, connectivity=2))


def test_what_is_open_to_the_frame_is_no_hole():
    mask = np.ones((9, 9), bool)
    mask[0:2, 4] = mask[5, 5] = False
    found = holes(mask)
    assert np.argwhere(found.chosen(found.area < 10)).tolist() == [[5, 5]]


def test_shares_by_hand():
    mask = np.zeros((10, 30), bool)
    mask[1:9, 1:9] = mask[1:9, 11:19] = True
    mask[3:5, 3:5] = mask[3:5, 13:15] = False
    witness = np.zeros_like(mask)
    witness[3, 3] = witness[1, 11:17] = True  # 1 of 4 px of the first hole, 6 of 60 px of the second piece
    assert sorted(holes(mask).share(witness)[-2:].tolist()) == [0.0, 0.25]
    assert pieces(mask).share(witness).tolist() == [0.0, 0.0, 0.1]


def test_nothing_else_is_ever_chosen():
    found = pieces(blobs())
    np.testing.assert_array_equal(found.chosen(np.ones(len(found.area), bool)), blobs())


def test_a_smeared_edge_is_cut_back_to_where_half_of_it_is_left():
    step = np.zeros((40, 60), np.float32)
    step[:, 30:] = 0.5
    smeared = np.asarray(cv2.GaussianBlur(step, (0, 0), 2.0))
    assert (smeared > 0.02).any(axis=0).argmax() == 27
    assert trimmed(smeared > 0.02, smeared, 6, 7).any(axis=0).argmax() in (29, 30)


def test_the_core_is_never_cut():
    weight = np.ones((50, 50), np.float32)
    weight[20:30, 20:30] = 0
    assert trimmed(np.ones((50, 50), bool), weight, 3, 7).all()  # beyond the frame there is no edge


@pytest.mark.parametrize("height", [1, 511, 512, 513, 1500])
def test_strips_cover_every_row_once_with_a_margin(height: int):
    rows = np.arange(height)
    kept = [rows[seen][inner] for seen, inner in strips(height, 40)]
    np.testing.assert_array_equal(np.concatenate(kept), rows)
    for (seen, _), part in zip(strips(height, 40), kept, strict=True):
        assert rows[seen][0] == max(0, part[0] - 40)
        assert rows[seen][-1] == min(height - 1, part[-1] + 40)
