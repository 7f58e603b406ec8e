"""Memory of tiles: used again when nobody looks at it, and never before."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from numpy.typing import NDArray

from tiling import rooms

FULL = (rooms.PIECE_BYTES // 48, 4, 4, 3)


@pytest.fixture(autouse=True)
def _no_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_spare", type(rooms._spare)(maxlen=rooms.SPARE))


def address(pixels: NDArray[np.uint8]) -> int:
    return pixels.__array_interface__["data"][0]


def test_memory_is_used_again_once_the_last_view_of_it_is_gone() -> None:
    first = rooms.room(FULL)
    at = address(first)
    held = memoryview(first[7:9][:, 1:])  # a view of a view, in another library's hands
    del first
    gc.collect()
    assert not np.shares_memory(np.asarray(held), rooms.room(FULL))
    del held
    gc.collect()
    assert address(rooms.room((FULL[0] - 1, 4, 4, 3))) == at


def test_no_more_is_kept_than_one_reading_holds() -> None:
    many = [rooms.room(FULL) for _ in range(rooms.SPARE + 2)]
    assert len({address(pixels) for pixels in many}) == len(many) and not rooms._spare
    del many
    gc.collect()
    assert len(rooms._spare) == rooms.SPARE


@pytest.mark.parametrize("n_bytes", [1, rooms.PIECE_BYTES // 2 - 1, rooms.PIECE_BYTES + 1])
def test_what_is_no_fit_for_a_piece_takes_none(n_bytes: int) -> None:
    pixels = rooms.room((n_bytes,))
    assert pixels.shape == (n_bytes,) and pixels.dtype == np.uint8 and pixels.flags.owndata
    del pixels
    gc.collect()
    assert not rooms._spare
