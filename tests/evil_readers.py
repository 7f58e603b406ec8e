"""Readers that do what damaged slides make C libraries do. Named to the reader process as `evil_readers:...`."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.errors import SlideUnreadable
from wsi.geometry import Region, Size
from wsi.readers.openslide import OpenSlideReader


class Calm:
    """A slide of 2,000 x 1,600 px at 0.5 um: pink with white margins, in which every pixel tells its place."""

    name = vendor = "fake"
    level_sizes = (Size(2000, 1600),)
    properties = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}  # noqa: RUF012
    bounds: Region | None = None
    associated_names = ()

    def __init__(self, path: Path) -> None:
        self.files = (Path(path),)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        rows, cols = np.mgrid[y : y + height, x : x + width]
        inside = (cols > 200) & (cols < 1800) & (rows > 200) & (rows < 1400)
        texture = ((cols // 7 + rows // 5) % 2 * 60).astype(np.uint8)
        pixels = np.full((height, width, 3), 245, np.uint8)
        pixels[inside] = np.stack([200 - texture, 110 - texture, 170 - texture], axis=2)[inside]
        return pixels

    def associated(self, name: str) -> NDArray[np.uint8]:
        raise KeyError(name)

    def close(self) -> None:
        return


class Coarse(Calm):
    """Says 2.5 um where 0.25 was meant, and has no pixels worth waiting for."""

    level_sizes = (Size(100_000, 80_000),)
    properties = {"openslide.mpp-x": "2.5", "openslide.mpp-y": "2.5"}  # noqa: RUF012

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        raise AssertionError("no pixel is needed to see it")


class Unplugged(Calm):
    """Opens, and its storage is gone when its files are asked for."""

    @property
    def files(self) -> tuple[Path, ...]:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    @files.setter
    def files(self, _: object) -> None: ...


class Aborts(Calm):
    """Opens well and aborts at the first pixel."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        os.abort()


class AbortsInTiles(Calm):
    """Shows its overview and aborts when tiles are read."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if width < 2000:
            os.abort()
        return super().read_level(level, x, y, width, height)


class Sleeps(Calm):
    """Never answers."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        time.sleep(3600)
        raise AssertionError


class Devours(Calm):
    """Wants all memory there is."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.ones((1 << 40,), np.uint8)


class Starves(Calm):
    """Finds no room, and says so as the library does that its file is named after."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        wanting: dict[str, Callable[[], object]] = {
            "opencv": lambda: cv2.resize(np.zeros((1, 1, 3), np.uint8), (1 << 16, 1 << 17)),
            "mmap": lambda: mmap.mmap(-1, 1 << 40),
            "thread": _start_thread,
            "glib": _abort_like_glib,
        }
        wanting[self.files[0].stem.split("-")[1]]()
        return super().read_level(level, x, y, width, height)


def _start_thread() -> None:
    threading.stack_size(1 << 40)
    threading.Thread(target=int).start()


def _abort_like_glib() -> None:
    os.write(
        2, b"\n(process:7): GLib-ERROR **: 03:00:00.000: ../glib/gmem.c:106: failed to allocate 4294967296 bytes\n"
    )
    os.abort()


class Patchy(Calm):
    """One corner cannot be decoded."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        if width < 2000 and x < 450 < x + width and y < 450 < y + height:
            raise SlideUnreadable(f"{self.files[0]}: bad tile.", reason="bad tile")
        return super().read_level(level, x, y, width, height)


class Buggy(Calm):
    """A mistake of ours."""

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        raise ZeroDivisionError("ours")


def unchecked(path: Path) -> OpenSlideReader:
    """What libopenslide makes of a file, without the checks that come before it."""
    return OpenSlideReader(Path(path))


def chosen_by_name(path: Path) -> Calm:
    """The reader that the file's stem names, so that one batch can hold them all: abort-1.svs, calm-2.svs."""
    evil = {"abort": Aborts, "tile": AbortsInTiles, "sleep": Sleeps, "devour": Devours, "patchy": Patchy}
    kinds: dict[str, type[Calm]] = {**evil, "coarse": Coarse, "unplugged": Unplugged, "starve": Starves, "bug": Buggy}
    return kinds.get(Path(path).stem.split("-")[0], Calm)(path)
