"""Slide to tissue to grid to tiles.

mask = detect_tissue(slide)                              # TissueMask; or tissue_from_geojson(slide, path)
grid = TileGrid.over(slide, mask, TileSpec(mpp=0.5))     # TileGrid
for batch in read_tiles(slide, grid): ...                # TileBatch, in grid order
"""

from tiling.drawn import tissue_from_geojson
from tiling.grid import TileBatch, TileGrid, TileSpec, TissueMask
from tiling.normalisation import StainNormaliser
from tiling.tiles import read_tiles
from tiling.tissue import TissueConfig, detect_tissue, segment_tissue

__all__ = [
    "StainNormaliser",
    "TileBatch",
    "TileGrid",
    "TileSpec",
    "TissueConfig",
    "TissueMask",
    "detect_tissue",
    "read_tiles",
    "segment_tissue",
    "tissue_from_geojson",
]
