"""Files to slides: one way to open, measure and read a whole-slide image. Importing this loads no imaging library."""

from __future__ import annotations

from wsi.geometry import Region, Size
from wsi.opening import open_slide
from wsi.slide import Slide

__all__ = ["Region", "Size", "Slide", "open_slide"]
