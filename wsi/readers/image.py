"""Plain pictures (PNG, JPEG, BMP) through Pillow: one level, decoded as a whole at the first read.

The camera's orientation tag is followed, as every viewer does: otherwise coordinates measured in one of them
would point elsewhere here. What Pillow holds for a decompression bomb (about 89 million pixels) is refused, for a
picture has no tiles and must fit into memory.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from wsi.errors import SlideImplausible
from wsi.geometry import Region, Size
from wsi.readers import unreadable, unsupported

FORMATS = ("PNG", "JPEG", "BMP")
_COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # modes of 8 bits a sample or fewer
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: these swap width and height


class ImageReader:
    """A picture opened with Pillow; see `wsi.readers.Reader`."""

    name = "image"
    bounds: Region | None = None
    associated_names: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pixels: NDArray[np.uint8] | None = None
        with _open(path) as image:
            if image.mode not in _COLOURS:
                raise unsupported(path, f"its pixels are of mode {image.mode}, not 8-bit colours or grey")
            # Only JPEG has the tag ahead of the pixels; for PNG Pillow would decode the whole picture to look for it.
            sideways = image.format != "PNG" and image.getexif().get(_ORIENTATION) in _SIDEWAYS
            self.level_sizes = (Size(*(image.size[::-1] if sideways else image.size)),)
            self.vendor = str(image.format).lower()
            dots = image.info.get("dpi", ())
        self.properties: Mapping[str, str] = {f"image.dpi-{axis}": str(d) for axis, d in zip("xy", dots, strict=False)}

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._path,)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[y : y + height, x : x + width]

    def associated(self, name: str) -> NDArray[np.uint8]:
        raise KeyError(name)  # a picture has none

    def close(self) -> None:
        self._pixels = None

    def _decode(self) -> NDArray[np.uint8]:
        try:
            with _open(self._path) as image:
                upright = image if image.format == "PNG" else ImageOps.exif_transpose(image)
                clear = upright.has_transparency_data
                return np.asarray(upright.convert("RGBA" if clear else "RGB"))
        except (SyntaxError, ValueError, OSError) as error:  # SyntaxError is Pillow's word for a broken PNG chunk
            raise unreadable(self._path, "its picture", error) from error


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        hint = "Convert it to a pyramidal TIFF: a picture this large has to be read in tiles."
        raise SlideImplausible(f"{path}: {error}", hint=hint, path=str(path)) from error
    except (SyntaxError, ValueError, OSError) as error:
        raise unsupported(path, " ".join(str(error).split())) from error
