"""The outline of tissue as polygons, for overlays and for QuPath."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from tiling.grid import TissueMask

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

SIMPLIFY_PX = 0.75  # mask px by which an outline may be moved: takes the steps of the raster away, not the shape
AREA_TOLERANCE = 0.01  # share of the area that simplifying may change


def tissue_outline(mask: TissueMask) -> MultiPolygon:
    """The tissue of a mask as a valid MultiPolygon in level-0 px, holes as inner rings; empty for no tissue.

    One polygon for each piece; pieces that only touch at a corner are two. Its area is the mask's within 2 % (within
    half a mask px for each ring, which matters for pieces of a few px only).
    """
    import shapely
    from shapely import MultiPolygon

    exact = _traced(mask)
    pieces = [_simplified(piece) for piece in shapely.get_parts(exact)]
    # Two outlines that come near each other may cross once simplified; then they stay as they were.
    outline = MultiPolygon(pieces)
    outline = outline if outline.is_valid else exact
    return shapely.transform(outline, lambda xy: xy * mask.px + np.array(mask.origin, float))


def _traced(mask: TissueMask) -> MultiPolygon:
    """Outlines halfway between pixels in and out, in mask px from the mask's corner: marching squares."""
    import shapely
    from shapely import LineString, MultiLineString, MultiPolygon
    from skimage.measure import find_contours

    # Padded, so that what touches the frame closes; then pixel (0, 0) is (1, 1), and its corner (0.5, 0.5).
    padded = np.pad(mask.inside, 1).astype(np.float32)
    rings = [LineString(ring[:, ::-1] - 0.5) for ring in find_contours(padded, 0.5)]
    area = shapely.build_area(MultiLineString(rings))  # nested rings become holes, and pieces inside holes
    return MultiPolygon(list(shapely.get_parts(area)))


def _simplified(piece: Polygon) -> Polygon:
    simple = cast("Polygon", piece.simplify(SIMPLIFY_PX))
    near = abs(simple.area - piece.area) <= AREA_TOLERANCE * piece.area
    return simple if near and simple.is_valid and not simple.is_empty else piece
