"""Stand-ins for slides: an image in memory, with the calls that tissue, grids and tiles rely on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.errors import SlideUnreadable
from wsi.geometry import Region, Size


class ArraySlide:
    """A slide whose level 0 is an array. Beyond it is white. Regions in `broken` cannot be decoded."""

    def __init__(self, pixels: NDArray[np.uint8], mpp: float, bounds: Region | None = None) -> None:
        self.pixels, self.mpp, self.path = pixels, mpp, Path("array")
        self.size = Size(pixels.shape[1], pixels.shape[0])
        self.bounds = bounds or Region(0, 0, *self.size)
        self.broken: list[Region] = []
        self.calls: list[list[Region]] = []  # the regions of every read_into, in the order they came
        self._lock = threading.Lock()

    def overview(self, mpp: float) -> tuple[NDArray[np.uint8], float]:
        px = max(1.0, mpp / self.mpp)
        b = self.bounds
        size = (int(np.ceil(b.width / px - 1e-6)), int(np.ceil(b.height / px - 1e-6)))
        inside = self.pixels[b.y : b.bottom, b.x : b.right]
        return np.asarray(cv2.resize(inside, size, interpolation=cv2.INTER_AREA)), px

    def read_into(
        self, rooms: Sequence[NDArray[np.uint8]], regions: Sequence[Region], *, exact: bool = True
    ) -> NDArray[np.bool_]:
        with self._lock:
            self.calls.append(list(regions))
        box = _around(regions)
        if any(box.intersection(broken) for broken in self.broken):
            raise SlideUnreadable(f"{self.path}: {box} cannot be decoded.")
        for room, region in zip(rooms, regions, strict=True):
            room[:] = self._tile(region, Size(room.shape[1], room.shape[0]))
        return np.array([not Region(0, 0, *self.size).holds(region) for region in regions])

    def _tile(self, region: Region, size: Size) -> NDArray[np.uint8]:
        tile = np.full((region.height, region.width, 3), 255, np.uint8)
        held = region.intersection(Region(0, 0, *self.size))
        if held is not None:
            rows = slice(held.y - region.y, held.bottom - region.y)
            columns = slice(held.x - region.x, held.right - region.x)
            tile[rows, columns] = self.pixels[held.y : held.bottom, held.x : held.right]
        return np.asarray(cv2.resize(tile, (size.width, size.height), interpolation=cv2.INTER_AREA))


def _around(regions: Sequence[Region]) -> Region:
    x, y = min(r.x for r in regions), min(r.y for r in regions)
    return Region(x, y, max(r.right for r in regions) - x, max(r.bottom for r in regions) - y)
