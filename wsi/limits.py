"""What no real slide exceeds. Checked on declared sizes, before a pixel is read or memory asked for it."""

from __future__ import annotations

from collections.abc import Sequence

from wsi.errors import SlideImplausible, UsageError
from wsi.geometry import Size
from wsi.location import Location

MAX_SIDE_PX = 2_000_000  # 100 mm of glass at 0.05 um
MAX_LEVELS = 64  # halving 2,000,000 px down to one takes 21; z-stacks and odd ratios have some more
MAX_SEGMENT_PX = 1 << 27  # of one tile or strip, which decoders take into memory whole: 400 MB of RGB
MAX_PX_PER_BYTE = 20_000  # an empty 256 px tile costs its index at least 8 bytes: 8,192; bombs have millions
MAX_READ_PX = 1 << 28  # of one call: 800 MB of RGB


def check_sizes(path: Location, sizes: Sequence[Size], n_bytes: int) -> None:
    """Raises SlideImplausible for images (pages or levels) that a file of `n_bytes` cannot hold."""
    for size in sizes:
        if not (0 < size.width <= MAX_SIDE_PX and 0 < size.height <= MAX_SIDE_PX):
            raise implausible(path, f"declares an image of {size.width} x {size.height} px")
    if n_bytes < bytes_needed(sizes):
        declared = sum(size.width * size.height for size in sizes)
        raise implausible(path, f"declares {declared:,} pixels in {n_bytes:,} bytes")


def bytes_needed(sizes: Sequence[Size]) -> int:
    """How many bytes a slide of these images has at the least."""
    return -(-sum(size.width * size.height for size in sizes) // MAX_PX_PER_BYTE)


def check_levels(path: Location, sizes: Sequence[Size], n_bytes: int) -> None:
    """Raises SlideImplausible for a pyramid that is none; `sizes` of all levels, the finest first."""
    check_sizes(path, sizes, n_bytes)
    if not 0 < len(sizes) <= MAX_LEVELS:
        raise implausible(path, f"declares {len(sizes)} levels")
    if any(size.width > sizes[0].width or size.height > sizes[0].height for size in sizes):
        raise implausible(path, "declares a level larger than its first")


def check_read(n_px: int) -> None:
    """Raises UsageError for a read that would take more memory than a tool may take in one call."""
    if n_px > MAX_READ_PX:
        hint = f"Read it in parts of at most {MAX_READ_PX:,}, or ask for a smaller size."
        raise UsageError(f"{n_px:,} pixels were asked for at once.", hint=hint)


def check_overview(path: Location, size: Size, mpp: float) -> None:
    """Raises SlideImplausible where a slide of `mpp` um per px has an overview that takes more memory than a tool may.

    A slip in the resolution does that: the fault of this slide, not of a caller who asks the same of every slide.
    """
    if size.width * size.height > MAX_READ_PX:
        what = f"the overview asked for has {size.width:,} x {size.height:,} px, more than {MAX_READ_PX:,}"
        hint = "Give the right resolution in the manifest's column `mpp`; if it is right, ask for a coarser overview."
        raise SlideImplausible(f"{path}: at its {mpp:.4g} um per pixel {what}.", hint=hint, path=str(path), mpp=mpp)


def implausible(path: Location, what: str) -> SlideImplausible:
    """The refusal of a slide that `what`."""
    hint = "It is damaged or was made to do harm: leave it out."
    return SlideImplausible(f"{path} {what}: no real slide does.", hint=hint, path=str(path))
