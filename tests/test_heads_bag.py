"""Bags: what is taken, converted and refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from features.spec import EncoderSpec
from heads import Bag
from heads.bag import StoredBag, tile_text
from tiling.grid import READ_FAILED, READ_OK, READ_PADDED, TileGrid, TileSpec
from tiling.quality import BLUR, FOLD, PEN, SATURATED
from wsi.errors import UsageError
from wsi.identity import digest


def bag(**changes):
    given = {
        "x": np.ones((3, 2), np.float32),
        "cells": np.array([0, 4, 5]),
        "slide_id": "s1",
        "encoder_digest": "e" * 64,
    }
    return Bag(**(given | changes))


@pytest.mark.parametrize("x", [[[1, 2], [3, 4]], np.ones((2, 2), np.float16), np.ones((2, 2)), np.ones((2, 2)).T])
def test_x_becomes_contiguous_float32_and_cells_int64(x):
    made = bag(x=x, cells=[1, 7])
    assert made.x.dtype == np.float32 and made.x.flags.c_contiguous and made.x.shape == (2, 2)
    assert made.cells.dtype == np.int64 and made.cells.tolist() == [1, 7]
    assert len(made) == 2


def test_float32_is_not_copied_but_read_only_memory_is():
    x = np.ones((3, 2), np.float32)
    assert bag(x=x).x is x
    x.flags.writeable = False
    assert bag(x=x).x.flags.writeable


def test_cells_left_out_number_the_rows():
    assert bag(cells=None).cells.tolist() == [0, 1, 2]


def test_a_slide_without_tissue_is_a_bag_of_no_tiles():
    assert len(bag(x=np.empty((0, 512)), cells=[])) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": np.ones(3)}, "x has shape (3,)"),
        ({"x": np.ones((3, 0))}, "x has shape (3, 0)"),
        ({"x": [[1, 2], [np.nan, 1], [1, np.inf]]}, "NaN or inf in 2 of 3 rows (row 1, 2)"),
        ({"x": [[1, 2], [1e300, 1], [1, 1]]}, "NaN or inf in 1 of 3 rows (row 1)"),
        ({"cells": [0, 1]}, "cells has shape (2,), but there are 3 rows"),
        ({"cells": [0, 2, 1]}, "not ascending"),
        ({"cells": [0, 1, 1]}, "not ascending"),
        ({"cells": [-1, 1, 2]}, "at least 0"),
        ({"cells": [0.0, 1.0, 2.0]}, "not whole numbers"),
    ],
)
def test_what_is_wrong_is_named_with_the_slide(changes, said):
    with pytest.raises(UsageError, match="'s1'") as caught:
        bag(**changes)
    assert said in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(UsageError, match=r"NaN or inf.*not ascending"):
        bag(x=np.full((3, 2), np.nan), cells=[3, 2, 1])


def test_a_tile_of_normalised_stains_is_another_tile():
    told = [tile_text(TileSpec(stain=stain)) for stain in ("none", "macenko", "reinhard")]
    assert told[:2] == ["224 px at 0.5 um/px", "224 px at 0.5 um/px, stains normalised (macenko)"]
    assert len(set(told)) == 3


def test_from_grid_leaves_unreadable_tiles_out():
    keep = np.array([[True, False, True], [False, True, True]])
    grid = TileGrid(TileSpec(), (0, 0), 448, 448, keep, np.ones(4, np.float32))
    spec = EncoderSpec("demo", 2, 224, (0.5,) * 3, (0.2,) * 3, "none", False, "ab", "float32", True)
    features = np.array([[1, 2], [np.nan, np.nan], [5, 6], [7, 8]], np.float16)
    status = np.array([READ_OK, READ_FAILED, READ_PADDED, READ_OK], np.uint8)
    fg = SimpleNamespace(features=features, grid=grid, read_status=status, encoder=spec, slide_id="a/b")

    made = Bag.from_grid(fg)

    assert made.x.tolist() == [[1, 2], [5, 6], [7, 8]] and made.x.dtype == np.float32
    assert made.cells.tolist() == [0, 4, 5]
    assert (made.slide_id, made.encoder_digest) == ("a/b", digest(spec))


def test_dropping_leaves_out_what_is_flagged_and_needs_flags():
    keep = np.ones((1, 5), bool)
    grid = TileGrid(TileSpec(quality=True), (0, 0), 448, 448, keep, np.ones(5, np.float32))
    spec = EncoderSpec("demo", 1, 224, (0.5,) * 3, (0.2,) * 3, "none", False, "ab", "float32", True)
    status = np.array([READ_OK, READ_OK, READ_OK, READ_FAILED, READ_OK], np.uint8)
    flags = np.array([0, BLUR, PEN | FOLD, 0, SATURATED], np.uint8)
    features = np.arange(5, dtype=np.float16)[:, None]
    fg = SimpleNamespace(
        features=features, grid=grid, read_status=status, quality=flags, encoder=spec, slide_id="a/b", path="a.zarr"
    )

    def cells(*drop):
        made, stored = Bag.from_grid(fg, drop), StoredBag.of(fg, drop=drop)
        assert stored.load()[:, 0].tolist() == made.x[:, 0].tolist() == made.cells.tolist() and len(stored) == len(made)
        return made.cells.tolist()

    assert cells() == [0, 1, 2, 4]
    assert cells("blur") == [0, 2, 4]
    assert cells("fold") == cells("pen") == [0, 1, 4]
    assert cells("blur", "pen", "fold", "saturated") == [0]
    with pytest.raises(UsageError, match="Did you mean pen"):
        cells("pne")
    fg.quality = None
    assert cells() == [0, 1, 2, 4]
    with pytest.raises(UsageError, match=r"a/b.*no quality flags.*--quality"):
        cells("pen")
