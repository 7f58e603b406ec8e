"""The chunks of one level of an OME-Zarr: where their borders run, and which of their files are there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi.geometry import Region, Size


@dataclass(frozen=True, slots=True)
class Chunks:
    """Of one array. `level` is a `zarr.Array`; its library has its home elsewhere."""

    level: Any
    folder: Path  # of the array
    axes: tuple[str, ...]

    @property
    def size(self) -> Size:
        """Of the level in pixels."""
        return self._plane(self.level.shape)

    @property
    def chunk(self) -> Size:
        """Of one chunk in pixels."""
        return self._plane(self.level.chunks)

    @property
    def count(self) -> int:
        """In one plane, whatever the channels are in."""
        return math.prod(-(-side // step) for side, step in zip(self.size, self.chunk, strict=True))

    def around(self, box: Region) -> Region:
        """`box` with all of every chunk it touches, as far as the level goes."""
        chunk, size = self.chunk, self.size
        x, y = box.x - box.x % chunk.width, box.y - box.y % chunk.height
        right = min(size.width, -(-box.right // chunk.width) * chunk.width)
        bottom = min(size.height, -(-box.bottom // chunk.height) * chunk.height)
        return Region(x, y, right - x, bottom - y)

    def within(self, box: Region) -> Iterator[Region]:
        """The chunks of a box that is made of whole ones."""
        for y in range(box.y, box.bottom, self.chunk.height):
            for x in range(box.x, box.right, self.chunk.width):
                yield Region(x, y, min(self.chunk.width, box.right - x), min(self.chunk.height, box.bottom - y))

    def is_there(self, chunk: Region, channel: int) -> bool:
        """Whether the file is there that holds this chunk of this channel, or the shard that may."""
        step = self.level.shards or self.level.chunks
        at = {"x": chunk.x, "y": chunk.y, "c": channel}
        index = tuple(at.get(name, 0) // step[i] for i, name in enumerate(self.axes))
        return (self.folder / self.level.metadata.encode_chunk_key(index)).exists()

    def _plane(self, shape: tuple[int, ...]) -> Size:
        return Size(shape[self.axes.index("x")], shape[self.axes.index("y")])
