"""Tiles as image files: how they are encoded, what they are called, and the zip or folder they go into."""

from __future__ import annotations

import contextlib
import os
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from features.files import aside_of, asides_of, fsync_tree, remove_tree, storage_errors, swap_folder
from tiling.quality import unknown_flag
from wsi.geometry import Region

KINDS = ("jpg", "png", "webp")
PLACES = ("zip", "folder")
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, in zip files: same tiles, same bytes


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How tiles are saved."""

    save: str = ""  # jpg, png or webp; empty: coordinates only
    place: str = "zip"  # zip: one file a slide, stored; folder: one file a tile
    quality: int = 90  # of jpg and webp, both lossy, 1 to 100; png keeps every pixel as it was read
    drop: tuple[str, ...] = ()  # tiles with one of these quality flags get no image: blur, pen, fold, saturated

    def __post_init__(self) -> None:
        if self.save not in ("", *KINDS):
            raise ValueError(f"tiles are saved as {', '.join(KINDS)}, not {self.save!r}")
        if self.place not in PLACES:
            raise ValueError(f"tiles go into a {' or a '.join(PLACES)}, not {self.place!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"the quality of images is 1 to 100, not {self.quality}")
        if told := unknown_flag(self.drop):
            raise ValueError(told)

    def encoded(self, pixels: NDArray[np.uint8]) -> bytes:
        """uint8 (h, w, 3) RGB as the bytes of an image file. JPEG keeps colour at full resolution (4:4:4)."""
        options = {
            "jpg": [
                *(cv2.IMWRITE_JPEG_QUALITY, self.quality),
                *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
            ],
            "webp": [cv2.IMWRITE_WEBP_QUALITY, self.quality],
            "png": [],
        }
        _, data = cv2.imencode(f".{self.save}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options[self.save])
        return data.tobytes()

    def home(self, slide_id: str) -> str:
        """What holds a slide's images: `<slide id>.zip`, or the folder `<slide id>`."""
        return f"{slide_id}.zip" if self.place == "zip" else slide_id

    def name(self, slide_id: str, region: Region) -> str:
        """`<slide id>_x<X>_y<Y>.jpg`, of the level-0 px of the tile's corner."""
        return f"{slide_id}_x{region.x}_y{region.y}.{self.save}"


class ImageSink(ABC):
    """Where the images of a slide gather. Nothing is at `path` before `finish`; what is there then is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = aside_of(path)
        with storage_errors(path):
            for left in asides_of(path):  # of a killed run; one that only slept finds nothing more to rename
                remove_tree(left) if left.is_dir() else left.unlink(missing_ok=True)

    @abstractmethod
    def add(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def finish(self) -> None: ...

    @abstractmethod
    def give_up(self) -> None:
        """Removes what was gathered."""


class ZipSink(ImageSink):
    """One zip, stored: images do not shrink."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with storage_errors(path):
            self._zip = zipfile.ZipFile(self.aside, "w", zipfile.ZIP_STORED)

    def add(self, name: str, data: bytes) -> None:
        entry = zipfile.ZipInfo(name, _BEGINNING)
        entry.external_attr = 0o644 << 16
        with storage_errors(self.path):
            self._zip.writestr(entry, data)

    def finish(self) -> None:
        with storage_errors(self.path):
            self._zip.close()
            with open(self.aside, "rb") as whole:
                os.fsync(whole.fileno())
            self.aside.replace(self.path)

    def give_up(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closing writes an index, on a disk that may be full
            self._zip.close()
        self.aside.unlink(missing_ok=True)


class FolderSink(ImageSink):
    """One folder with a file for each tile."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with storage_errors(path):
            self.aside.mkdir()

    def add(self, name: str, data: bytes) -> None:
        with storage_errors(self.path):
            (self.aside / name).write_bytes(data)

    def finish(self) -> None:
        with storage_errors(self.path):
            fsync_tree(self.aside)
            swap_folder(self.aside, self.path)

    def give_up(self) -> None:
        remove_tree(self.aside)


def image_sink(folder: Path, slide_id: str, config: ImageConfig) -> ImageSink:
    """The sink of a slide's images. Raises NoSpace or StorageError where the disk refuses."""
    return (ZipSink if config.place == "zip" else FolderSink)(folder / config.home(slide_id))
