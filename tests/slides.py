"""Small slides made for tests: tiled TIFFs on disk, a slide that exists only as a formula, and rulers to measure on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from wsi.geometry import Region, Size

Pixels = NDArray[np.uint8]
APERIO = "Aperio Image Library v12.0.0\r\n{width}x{height} (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = {mpp}"


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    """Pixels of which no two neighbourhoods are alike: any shift shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def tiled_tiff(
    path: Path,
    pixels: Pixels,
    levels: Sequence[Pixels] = (),
    *,
    description: str | None = None,
    resolution: tuple[float, float] | None = None,
    thumbnail: bool = False,
    **options: Any,
) -> Path:
    """A tiled TIFF of `pixels` with further `levels` behind it; `resolution` in pixels per centimetre.

    `thumbnail` puts a small picture in strips second, where Aperio has it. `options` go to tifffile's writer:
    compression, tile, extrasamples, bigtiff.
    """
    bigtiff = options.pop("bigtiff", False)
    common = {"photometric": "rgb", "metadata": None, "software": False}
    tiles = common | {"tile": (256, 256)} | options
    if resolution is not None:
        tiles |= {"resolution": resolution, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        tiff.write(pixels, description=description, **tiles)
        if thumbnail:
            tiff.write(np.ascontiguousarray(pixels[::8, ::8, :3]), **common)
        for level in levels:
            tiff.write(level, subfiletype=0 if thumbnail else 1, **tiles)  # Aperio marks its label as reduced
    return path


def aperio_svs(path: Path, pixels: Pixels, levels: Sequence[Pixels] = (), *, mpp: float = 0.5, **options: Any) -> Path:
    """A TIFF that readers take for an Aperio slide."""
    description = APERIO.format(width=pixels.shape[1], height=pixels.shape[0], mpp=mpp)
    return tiled_tiff(path, pixels, levels, description=description, thumbnail=True, **options)


def ome_tiff(path: Path, pixels: Pixels, half: Pixels) -> None:
    """Two levels, the second as a page below the first."""
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "jpeg"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options)
        tiff.write(half, subfiletype=1, **options)


def hamamatsu_vms(folder: Path, pixels: Pixels, mpp: float = 0.5) -> Path:
    """A slide of several files: a key file that names three JPEGs, which lie beside it."""
    folder.mkdir()
    height, width = pixels.shape[:2]
    for name, step in (("image", 1), ("map", 4), ("macro", 8)):
        picture = Image.fromarray(pixels[::step, ::step])
        picture.save(folder / f"{name}.jpg", restart_marker_blocks=5, subsampling=0)
    sizes = f"PhysicalWidth={width * mpp * 1000:.0f}\nPhysicalHeight={height * mpp * 1000:.0f}\n"
    counts = "NoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nSourceLens=20\n"
    files = "ImageFile=image.jpg\nMapFile=map.jpg\nMacroImage=macro.jpg\n"
    (folder / "a.vms").write_text("[Virtual Microscope Specimen]\n" + counts + files + sizes)
    return folder / "a.vms"


def ome_zarr(
    folder: Path,
    levels: Sequence[NDArray[Any]],
    *,
    axes: str = "cyx",
    um: float | None = 0.5,
    unit: str = "micrometer",
    zarr_format: Literal[2, 3] = 3,
    channels_apart: bool = False,
    **options: Any,
) -> Path:
    """An OME-Zarr of NGFF 0.4 (Zarr v2) or 0.5 (Zarr v3); `levels` are (h, w, channels), stored in the order `axes`.

    `um` per pixel of the first level, in `unit`; None leaves the scale out. `channels_apart` gives each channel chunks
    of its own. `options` go to zarr: chunks (of y and x),
    shards, compressors.
    """
    root = zarr.create_group(folder, zarr_format=zarr_format)
    chunk = options.pop("chunks", (128, 96))
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in named:
        if axis["type"] == "space":
            axis["unit"] = unit
    datasets = []
    for number, level in enumerate(levels):
        data = np.moveaxis(level, (0, 1, 2), [axes.replace("t", "").replace("z", "").index(name) for name in "yxc"])
        data = data.reshape(
            [data.shape["".join(a for a in axes if a in "cyx").index(a)] if a in "cyx" else 1 for a in axes]
        )
        sizes = {"y": chunk[0], "x": chunk[1], "c": 1 if channels_apart else level.shape[2]}
        array = root.create_array(
            str(number),
            shape=data.shape,
            dtype=data.dtype,
            chunks=tuple(min(sizes.get(axis, 1), n) for axis, n in zip(axes, data.shape, strict=True)),
            fill_value=0,
            chunk_key_encoding={"name": "v2" if zarr_format == 2 else "default", "separator": "/"},
            **options,
        )
        array[...] = data
        ratio = levels[0].shape[1] / level.shape[1]
        scale = [(um or 0) * ratio if axis in "yx" else 1.0 for axis in axes]
        told = {} if um is None else {"coordinateTransformations": [{"type": "scale", "scale": scale}]}
        datasets.append({"path": str(number), **told})
    image = {"axes": named, "datasets": datasets, "name": "slide"}
    if zarr_format == 2:
        root.attrs["multiscales"] = [{**image, "version": "0.4"}]
    else:
        root.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    return folder


def tile_bytes(path: Path, tile: int, page: int = 0) -> tuple[int, int]:
    """Where in a TIFF the data of a tile begins, and its length."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile]


def damage_tile(path: Path, tile: int, page: int = 0) -> None:
    """Zeroes the data of one tile in place."""
    offset, length = tile_bytes(path, tile, page)
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(bytes(length))


def forget_tile(path: Path, tile: int) -> None:
    """Makes one tile of the first page a missing one, as scanners leave them out: no offset, no bytes."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tiff.pages[0].tags[name]
            values = list(tag.value)
            values[tile] = 0
            tag.overwrite(values)


def ruler(size: Size, box: Region, period: tuple[float, float]) -> Pixels:
    """(box.height, box.width, 3): waves along x (red) and y (green) of `period` px of the whole, of `size` px.

    `box` is a rectangle in it. Red is 127.5 + 110 sin(2 pi x / period) at the centre of each pixel; blue rises from 0
    to 255 down the whole.
    """
    x = box.x + np.arange(box.width) + 0.5
    y = box.y + np.arange(box.height) + 0.5
    image = np.empty((box.height, box.width, 3), np.uint8)
    image[..., 0] = np.round(127.5 + 110 * np.sin(2 * np.pi * x / period[0])).astype(np.uint8)
    image[..., 1] = np.round(127.5 + 110 * np.sin(2 * np.pi * y / period[1])).astype(np.uint8)[:, None]
    image[..., 2] = np.round(255 * y / size.height).astype(np.uint8)[:, None]
    return image


def ruler_pyramid(sizes: Sequence[Size], period: float) -> Callable[[int, Region], Pixels]:
    """A slide of any size as a formula for `FormulaReader`: a ruler of `period` level-0 px at every level."""

    def paint(level: int, box: Region) -> Pixels:
        size = sizes[level]
        periods = (period * size.width / sizes[0].width, period * size.height / sizes[0].height)
        return ruler(size, box, periods)

    return paint


def measure(line: NDArray[np.float64], near: float) -> tuple[float, float]:
    """Period and position of a wave in `line`, in its pixels: the least-squares fit with a period within 3 % of `near`.

    The position is where the sine begins, in pixels from the left edge of the line, within half a period of 0.
    """
    periods = near * np.linspace(0.97, 1.03, 601)
    phase = 2 * np.pi * (np.arange(len(line)) + 0.5) / periods[:, None]
    basis = np.stack([np.sin(phase), np.cos(phase), np.ones_like(phase)], axis=2)  # (periods, n, 3)
    factors = np.linalg.solve(basis.transpose(0, 2, 1) @ basis, basis.transpose(0, 2, 1) @ line[:, None])
    best = int(np.argmin(((basis @ factors)[..., 0] - line).std(axis=1)))
    sine, cosine, _ = factors[best, :, 0]
    return periods[best], -np.arctan2(cosine, sine) / (2 * np.pi) * periods[best]


@dataclass
class FormulaReader:
    """A `wsi.readers.Reader` whose pixels are computed: slides of any size, and a record of what was asked."""

    level_sizes: tuple[Size, ...]
    paint: Callable[[int, Region], Pixels]
    properties: Mapping[str, str] = field(default_factory=dict)
    bounds: Region | None = None
    name: str = "formula"
    vendor: str = "tests"
    associated_names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    asked: list[tuple[int, Region]] = field(default_factory=list)
    closed: int = 0

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        box = Region(x, y, width, height)
        size = self.level_sizes[level]
        if box.intersection(Region(0, 0, size.width, size.height)) != box:
            raise IndexError(f"{box} is not inside level {level}, {size}")
        self.asked.append((level, box))
        return self.paint(level, box)

    def associated(self, name: str) -> Pixels:
        raise KeyError(name)

    def close(self) -> None:
        self.closed += 1
