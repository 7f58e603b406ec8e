"""Tiles to features: encoders, extraction, the Zarr store, search.

Names load on first use, so that `features.spec` and `features.header` cost neither torch nor zarr.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from features.spec import ROW_BLOCK, Encoder, EncoderSpec

if TYPE_CHECKING:
    from features.encoders import available_encoders, load_encoder
    from features.extraction import encode_tiles, extract
    from features.foreign import ForeignBag, open_foreign, packed_columns
    from features.grid import FeatureGrid
    from features.header import GridHeader, grid_name
    from features.search import FeatureIndex, Hit
    from features.writer import FeatureRows, GridWriter, write_feature_grid

__all__ = [
    "ROW_BLOCK",
    "Encoder",
    "EncoderSpec",
    "FeatureGrid",
    "FeatureIndex",
    "FeatureRows",
    "ForeignBag",
    "GridHeader",
    "GridWriter",
    "Hit",
    "available_encoders",
    "encode_tiles",
    "extract",
    "grid_name",
    "load_encoder",
    "open_foreign",
    "packed_columns",
    "write_feature_grid",
]


def __getattr__(name: str) -> Any:
    homes = {
        "load_encoder": "features.encoders",
        "available_encoders": "features.encoders",
        "encode_tiles": "features.extraction",
        "extract": "features.extraction",
        "FeatureGrid": "features.grid",
        "ForeignBag": "features.foreign",
        "open_foreign": "features.foreign",
        "packed_columns": "features.foreign",
        "GridHeader": "features.header",
        "grid_name": "features.header",
        "FeatureIndex": "features.search",
        "Hit": "features.search",
        "FeatureRows": "features.writer",
        "GridWriter": "features.writer",
        "write_feature_grid": "features.writer",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
