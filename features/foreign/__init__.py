"""Features that other tools have cached, read as they lie: CLAM, TRIDENT, STAMP, and benchmark sets in one file."""

from features.foreign.bag import ForeignBag
from features.foreign.opening import open_foreign
from features.foreign.packed import packed_columns

__all__ = ["ForeignBag", "open_foreign", "packed_columns"]
