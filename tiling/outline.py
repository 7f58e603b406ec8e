"""The outline of tissue as polygons, for overlays and for QuPath."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from tiling.grid import TissueMask

SIMPLIFY = 0.5  # mask px an outline may move: drops the steps of the raster, not the shape


def tissue_outline(mask: TissueMask) -> MultiPolygon:
    """The tissue of a mask as a valid MultiPolygon in level-0 px, holes as inner rings; empty for no tissue."""
    import cv2

    # Twice the size, so that a border between two pixels lies on a whole number; padded, so that edges close.
    grown = np.pad(mask.inside, 1).repeat(2, 0).repeat(2, 1).astype(np.uint8)
    rings, tree = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not rings:
        return MultiPolygon()
    points = [(ring[:, 0, :] + 0.5) / 2 - 1 for ring in rings]
    pieces = []
    for i, (_, _, child, parent) in enumerate(tree[0]):
        if parent < 0 and len(points[i]) > 2:
            holes, hole = [], child
            while hole >= 0:
                if len(points[hole]) > 2:
                    holes.append(points[hole])
                hole = tree[0][hole][0]
            pieces.append(Polygon(points[i], holes))
    outline = shapely.make_valid(MultiPolygon(pieces)).simplify(SIMPLIFY)
    placed = shapely.transform(outline, lambda xy: xy * mask.px + np.array(mask.origin))
    whole = shapely.make_valid(placed)
    return MultiPolygon([p for p in shapely.get_parts(whole) if isinstance(p, Polygon) and p.area > 0])
