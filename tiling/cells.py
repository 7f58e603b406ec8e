"""Reading some cells of a grid, whatever becomes of them: decoded, padded or failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.grid import READ_FAILED, READ_OK, READ_PADDED, TileGrid
from wsi.errors import SlideImplausible, SlideUnreachable, SlideUnreadable, UsageError


def read_cells(
    slide: Any, grid: TileGrid, cells: NDArray[np.int64], rooms: Sequence[NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """The tiles of these cells, at least one, read together, each into its room (size, size, 3); gives status (n,).

    What cannot be decoded together is read again one by one; a tile that fails by itself is black and READ_FAILED.
    Raises SlideImplausible where a single tile is more than the slide reads in one call.
    """
    try:
        padded = slide.read_into(rooms, grid.regions(cells), exact=grid.spec.exact)
    except SlideUnreachable:  # a server or network that fails: the next run may well read those tiles
        raise
    except SlideUnreadable:
        if len(cells) == 1:
            rooms[0][:] = 0
            return np.full(1, READ_FAILED, np.uint8)
        return np.concatenate([read_cells(slide, grid, cells[i : i + 1], rooms[i : i + 1]) for i in range(len(cells))])
    except UsageError as error:  # blocks are far smaller: it is one tile, and other slides may have a level for it
        span = grid.span_px
        raise SlideImplausible(
            f"{slide.path}: a tile covers {span:,} x {span:,} px, and no coarser level spares reading them all.",
            hint="Convert it to a pyramidal TIFF, or ask for finer tiles with --set tile.mpp.",
            path=str(slide.path),
        ) from error
    return np.where(padded, READ_PADDED, READ_OK).astype(np.uint8)
