"""Reading some cells of a grid, whatever becomes of them: decoded, padded or failed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.grid import READ_FAILED, READ_OK, READ_PADDED, TileGrid
from wsi.errors import SlideImplausible, SlideUnreadable, UsageError
from wsi.geometry import Size


def read_cells(slide: Any, grid: TileGrid, cells: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The tiles of these cells, at least one, read together: pixels uint8 (n, size, size, 3) and status uint8 (n,).

    What cannot be decoded together is read again one by one; a tile that fails by itself is black and READ_FAILED.
    Raises SlideImplausible where a single tile is more than the slide reads in one call.
    """
    size = Size(grid.spec.size_px, grid.spec.size_px)
    try:
        pixels, padded = slide.read_many([grid.region(int(c)) for c in cells], size, exact=grid.spec.exact)
    except SlideUnreadable:
        if len(cells) == 1:
            return np.zeros((1, *size, 3), np.uint8), np.full(1, READ_FAILED, np.uint8)
        parts = [read_cells(slide, grid, cells[i : i + 1]) for i in range(len(cells))]
        return np.concatenate([p for p, _ in parts]), np.concatenate([s for _, s in parts])
    except UsageError as error:  # blocks are far smaller: it is one tile, and other slides may have a level for it
        span = grid.span_px
        raise SlideImplausible(
            f"{slide.path}: a tile covers {span:,} x {span:,} px, and no coarser level spares reading them all.",
            hint="Convert it to a pyramidal TIFF, or ask for finer tiles with --set tile.mpp.",
            path=str(slide.path),
        ) from error
    return pixels, np.where(padded, READ_PADDED, READ_OK).astype(np.uint8)
