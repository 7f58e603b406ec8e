"""Memory that tiles are laid in, used again once no array looks at it.

Memory that is new to a process is cleared by the kernel, page by page as it is written to. That costs as much as
copying tiles does, and on virtual machines, where the host has its part in it, up to as much as decoding them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES = 32 * 2**20
SPARE = 3  # pieces that wait to be used again: as many as one reading holds


class _Lent:
    """A piece of memory, for as long as an array looks at it: NumPy keeps this object beside every view."""

    def __init__(self, piece: NDArray[np.uint8]) -> None:
        self._piece = piece

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._piece.__array_interface__

    def __del__(self) -> None:
        _spare.append(self._piece)


_spare: deque[NDArray[np.uint8]] = deque(maxlen=SPARE)


def room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 of this shape, with whatever was in it; new memory where that is more than a piece, or less than half."""
    n_bytes = math.prod(shape)
    if not PIECE_BYTES // 2 <= n_bytes <= PIECE_BYTES:
        return np.empty(shape, np.uint8)
    try:
        piece = _spare.pop()
    except IndexError:
        piece = np.empty(PIECE_BYTES, np.uint8)
    return np.asarray(_Lent(piece))[:n_bytes].reshape(shape)
