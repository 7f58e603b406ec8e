"""Plain pictures (PNG, JPEG, BMP) through Pillow: one level, decoded as a whole at the first read.

The camera's orientation tag is followed, as every viewer does: otherwise coordinates measured in one of them
would point elsewhere here. What Pillow holds for a decompression bomb (about 89 million pixels) is refused, for a
picture has no tiles and must fit into memory.
"""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from wsi.errors import SlideImplausible
from wsi.geometry import Region, Size
from wsi.readers import unreadable, unsupported

FORMATS = ("PNG", "JPEG", "BMP")
_COLOURS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # modes of 8 bits a sample or fewer
_JPEG_MODES = ("L", "RGB")  # which libjpeg makes RGB of; CMYK is another matter
_ORIENTATION = 0x0112  # of EXIF
_TURNS = {  # what sets each of its values upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = tuple(_TURNS[value] for value in (5, 6, 7, 8))  # these swap width and height


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
            self._turn = _turn(image)
            self.level_sizes = (Size(*(image.size[::-1] if self._turn in _SIDEWAYS else image.size)),)
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
                whole = _strictly(self._path, image) if image.format == "JPEG" and image.mode in _JPEG_MODES else image
                upright = whole if self._turn is None else whole.transpose(self._turn)
                if Size(*upright.size) != self.level_sizes[0]:
                    raise ValueError(f"it has become one of {upright.width} x {upright.height} px")
                clear = upright.has_transparency_data
                return np.asarray(upright.convert("RGBA" if clear else "RGB"))
        except (SyntaxError, ValueError, OSError) as error:  # SyntaxError is Pillow's word for a broken PNG chunk
            raise unreadable(self._path, "its picture", error) from error


def _strictly(path: Path, image: Image.Image) -> Image.Image:
    """The same JPEG, whole. Pillow turns what is damaged grey and says nothing of it. Raises ValueError."""
    room = np.empty((image.height, image.width, 3), np.uint8)
    return Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes(), "RGB", buffer=room))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets the picture upright; None where its tags do not say so, or are damaged: the pixels may yet be whole."""
    if image.format == "PNG":
        return None  # only JPEG has the tag ahead of the pixels; Pillow would decode the whole picture to look for it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _TURNS.get(image.getexif().get(_ORIENTATION, 0))
    except (SyntaxError, struct.error, LookupError, TypeError, ValueError, OSError):
        return None


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are cut short
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        hint = "Convert it to a pyramidal TIFF: a picture this large has to be read in tiles."
        raise SlideImplausible(f"{path}: {error}", hint=hint, path=str(path)) from error
    except (SyntaxError, ValueError, OSError) as error:
        raise unsupported(path, error) from error
