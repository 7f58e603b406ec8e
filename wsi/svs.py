"""Writes pyramidal slides in Aperio's SVS layout: what demos, tests and benchmarks read instead of a scanner's file.

The order of the pages is the format: the full image, the thumbnail, the coarser levels, then label and macro as
stripped pages. Tiles are JPEG (YCbCr, 4:2:0) without tables; the tables are kept once a level, as scanners do.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .errors import NoSpace, StorageError

_SUBSAMPLING = (2, 2)  # chroma at half resolution on both axes
_JPEG = 7
_WHOLE, _TABLES, _TILES = 0, 1, 2  # Pillow's stream types: a whole JPEG, its tables alone, its data without tables
_REDUCED, _MACRO = 1, 9  # Aperio's NewSubfileType of the label and of the macro
_THUMBNAIL_PX = 512
_LABEL_PX = (280, 280)
_MACRO_PX = (840, 280)


@dataclass(frozen=True, slots=True)
class SvsSpec:
    """How an SVS file is laid out."""

    mpp: float = 0.5  # um per level-0 pixel, the same on both axes
    objective_power: float = 20  # the `AppMag` entry
    quality: int = 80  # JPEG, 1-100
    downsamples: tuple[int, ...] = (1, 4, 16)  # of the levels, the first is 1
    tile_px: int = 240  # side of a tile, a multiple of 16 for the halved chroma
    name: str = "slide"  # the `Filename` entry, also printed on the label

    def __post_init__(self) -> None:
        if self.mpp <= 0 or self.objective_power <= 0 or not 1 <= self.quality <= 100:
            raise ValueError(f"mpp and objective power must be positive, quality 1-100: {self}")
        if self.tile_px < 16 or self.tile_px % 16:
            raise ValueError(f"tile_px must be a multiple of 16, not {self.tile_px}")
        if self.downsamples[:1] != (1,) or list(self.downsamples) != sorted(set(self.downsamples)):
            raise ValueError(f"downsamples must rise from 1, not {self.downsamples}")


def write_svs(path: Path, pixels: NDArray[np.uint8], spec: SvsSpec) -> None:
    """Write `pixels` (H, W, 3) RGB as an SVS with its pyramid, thumbnail, label and macro.

    The same pixels and spec give the same bytes. Peak memory is about 1.5 times that of `pixels`.
    Raises NoSpace or StorageError where the file cannot be written, ValueError on an array of another kind.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}")
    full = Image.fromarray(pixels)
    if min(full.size) < max(spec.downsamples):
        raise ValueError(f"{full.width}x{full.height} px are too few for levels {spec.downsamples}")
    try:
        with tifffile.TiffWriter(path, bigtiff=pixels.nbytes > 2**32) as tiff:
            _write_pages(tiff, full, spec)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The toolkit's words for a failed write: NoSpace where the disk is full, StorageError otherwise."""
    kind = NoSpace if error.errno == errno.ENOSPC else StorageError
    return kind(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Choose another folder, or make room in this one.",
        path=str(path),
    )


def _write_pages(tiff: tifffile.TiffWriter, full: Image.Image, spec: SvsSpec) -> None:
    thumbnail = full.copy()
    thumbnail.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
    _write_level(tiff, full, _description(full.size, full.size, spec), spec)
    _write_strip(tiff, thumbnail, _description(full.size, thumbnail.size, spec), 0)
    for downsample in spec.downsamples[1:]:
        level = full.resize((full.width // downsample, full.height // downsample), Image.Resampling.BOX)
        _write_level(tiff, level, _description(full.size, level.size, spec), spec)
    label, macro = _label(spec.name), _macro(thumbnail, spec.name)
    _write_strip(tiff, label, f"Aperio Image Library v11.2.1 \nlabel {label.width}x{label.height}", _REDUCED)
    _write_strip(tiff, macro, f"Aperio Image Library v11.2.1 \nmacro {macro.width}x{macro.height}", _MACRO)


def _write_level(tiff: tifffile.TiffWriter, image: Image.Image, description: str, spec: SvsSpec) -> None:
    tables = _jpeg(Image.new("RGB", (16, 16)), spec.quality, _TABLES)
    tile = {"tile": (spec.tile_px, spec.tile_px), "jpegtables": tables}
    _write_page(tiff, _tiles(np.asarray(image), spec), image.size, description, **tile)


def _write_strip(tiff: tifffile.TiffWriter, image: Image.Image, description: str, subfiletype: int) -> None:
    data = iter([_jpeg(image, 80, _WHOLE)])
    _write_page(tiff, data, image.size, description, rowsperstrip=image.height, subfiletype=subfiletype)


def _write_page(
    tiff: tifffile.TiffWriter, data: Iterator[bytes], size: tuple[int, int], description: str, **layout: Any
) -> None:
    tiff.write(
        data,
        shape=(size[1], size[0], 3),
        dtype=np.uint8,
        photometric="rgb",  # what the reader gets; the JPEG stream and its tag are YCbCr
        compression=_JPEG,
        subsampling=_SUBSAMPLING,
        description=description,
        metadata=None,
        software=False,
        **layout,
    )


def _tiles(pixels: NDArray[np.uint8], spec: SvsSpec) -> Iterator[bytes]:
    """The JPEG data of all tiles, row by row; the last row and column repeat the image's edge."""
    px = spec.tile_px
    for y in range(0, pixels.shape[0], px):
        for x in range(0, pixels.shape[1], px):
            tile = pixels[y : y + px, x : x + px]
            pad = [(0, px - tile.shape[0]), (0, px - tile.shape[1]), (0, 0)]
            yield _jpeg(Image.fromarray(np.pad(tile, pad, mode="edge")), spec.quality, _TILES)


def _jpeg(image: Image.Image, quality: int, streamtype: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", streamtype=streamtype)
    return buffer.getvalue()


def _description(full: tuple[int, int], size: tuple[int, int], spec: SvsSpec) -> str:
    """Aperio's free text: a line of sizes, then `|key = value` pairs. The date is fixed so that bytes repeat."""
    area = f"{full[0]}x{full[1]} [0,0 {full[0]}x{full[1]}] ({spec.tile_px}x{spec.tile_px})"
    reduced = "" if size == full else f" -> {size[0]}x{size[1]}"
    entries = {
        "AppMag": f"{spec.objective_power:g}",
        "StripeWidth": "2040",
        "ScanScope ID": "SYNTHETIC",
        "Filename": spec.name,
        "Date": "01/02/24",
        "Time": "12:00:00",
        "MPP": _mpp_text(spec.mpp),
        "Left": "25.000000",
        "Top": "20.000000",
        "OriginalWidth": f"{full[0]}",
        "OriginalHeight": f"{full[1]}",
    }
    pairs = "".join(f"|{key} = {value}" for key, value in entries.items())
    return f"Aperio Image Library v11.2.1 \r\n{area}{reduced} JPEG/RGB Q={spec.quality}{pairs}"


def _mpp_text(mpp: float) -> str:
    """Four decimals, as scanners write it, and more only where four would change the value."""
    short = f"{mpp:.4f}"
    return short if float(short) == mpp else repr(mpp)


def _label(name: str) -> Image.Image:
    """A paper label with the slide's name."""
    label = Image.new("RGB", _LABEL_PX, (244, 243, 238))
    draw = ImageDraw.Draw(label)
    draw.rectangle((12, 12, _LABEL_PX[0] - 13, _LABEL_PX[1] - 13), outline=(60, 60, 60), width=2)
    draw.text((30, 60), name, fill=(20, 20, 20), font_size=42)
    draw.text((30, 150), "synthetic\nH&E", fill=(80, 80, 80), font_size=32)
    return label


def _macro(thumbnail: Image.Image, name: str) -> Image.Image:
    """The whole glass: label at the left, the scanned area at the right."""
    macro = Image.new("RGB", _MACRO_PX, (226, 226, 224))
    macro.paste(_label(name), (0, 0))
    scan = thumbnail.copy()
    scan.thumbnail((480, 240), Image.Resampling.BOX)
    macro.paste(scan, (310 + (500 - scan.width) // 2, (_MACRO_PX[1] - scan.height) // 2))
    return macro
