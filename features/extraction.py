"""Tiles to features: the loop, and the whole way for one slide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.grid import FeatureGrid
from features.header import GridHeader
from features.spec import ROW_BLOCK, Encoder
from features.writer import FeatureRows, GridWriter, clear_leftovers, grid_path
from tiling import TissueConfig, detect_tissue, read_tiles
from tiling.grid import READ_FAILED, TileBatch, TileGrid, TileSpec, check_detail
from wsi.errors import ArtefactError


class ImageEncoder(Protocol):
    """The part of `features.spec.Encoder` that tiles need."""

    def encode_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def encode_tiles(tiles: Iterable[TileBatch], encoder: ImageEncoder) -> Iterator[FeatureRows]:
    """Encodes batches as they come, one at a time in memory; rows of unreadable tiles are NaN.

    A row depends on its place in blocks of ROW_BLOCK rows, so batches should start at multiples of ROW_BLOCK. For the
    same reason an unreadable tile goes through the encoder with its batch and is blanked after: taken out before, it
    would shift the rows behind it.
    """
    for batch in tiles:
        features = np.array(encoder.encode_images(batch.pixels), np.float32)
        features[batch.status == READ_FAILED] = np.nan
        yield FeatureRows(features, batch.status, batch.flags)


def extract(
    slide: Any,
    encoder: Encoder,
    dest: str | Path,
    *,
    tissue_config: TissueConfig | None = None,
    tile_spec: TileSpec | None = None,
    batch_size: int = 64,
) -> FeatureGrid:
    """Features of one open slide, kept in `dest` and opened.

    A whole grid of the same slide, tiles and encoder that is there already is returned as it is; what a killed call
    left is continued; anything else there is replaced.
    `dest` is the grid's folder if its name ends in .zarr, else a folder to put it in under its `grid_name`.
    `batch_size` is rounded up to a multiple of ROW_BLOCK (32), so that neither it nor a kill changes a byte.
    Raises SlideError kinds for the slide, NoSpace and StorageError for the disk.
    """
    tissue_config, tile_spec = tissue_config or TissueConfig(), tile_spec or TileSpec()
    check_detail(slide, tile_spec)
    grid = TileGrid.over(slide, detect_tissue(slide, tissue_config), tile_spec)
    header = GridHeader.of(slide, grid, encoder.spec, tissue=tissue_config)
    path = grid_path(Path(dest), header)
    if (ready := finished_grid(path, header, grid)) is not None:
        clear_leftovers(path)
        return ready
    writer = GridWriter(path, header, grid)
    tiles = read_tiles(slide, grid, whole_blocks(batch_size), start=writer.rows_done)
    for rows in encode_tiles(tiles, encoder):
        writer.append(rows)
    writer.commit()
    return FeatureGrid.open(path)


def whole_blocks(batch_size: int) -> int:
    """The smallest multiple of ROW_BLOCK that is at least `batch_size` and one block."""
    return max(1, -(-batch_size // ROW_BLOCK)) * ROW_BLOCK


def finished_grid(path: Path, header: GridHeader, grid: TileGrid) -> FeatureGrid | None:
    """The grid at `path` if it is as it was written and of the same making, else None."""
    try:
        found = FeatureGrid.open(path)
    except ArtefactError:
        return None
    same = found.header.matches(header) is None and np.array_equal(found.grid.keep, grid.keep)
    return found if same and not found.verify() else None
