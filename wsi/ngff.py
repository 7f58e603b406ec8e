"""What the metadata of an OME-Zarr say, by the standard library: which folder is an image, its axes, levels and scale.

NGFF 0.4 lies on Zarr v2 (`.zattrs`), 0.5 on Zarr v3 (`ome` in the attributes of `zarr.json`); both have the same
`multiscales`. https://ngff.openmicroscopy.org/0.5
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES = (".zattrs", ".zarray", "zarr.json")  # one of them is in every array, and every group with attributes
_MULTISCALES, _LAYOUT = "multiscales", "bioformats2raw.layout"
_UM = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_UM |= {"inch": 25_400.0, "picometer": 1e-6, "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "mm": 1e3, "micron": 1.0}
_FIVE = ("t", "c", "z", "y", "x")  # what versions before 0.3 say by saying nothing
_FEATURES = "feature-grid"  # the format that feature grids name
_MAX_BYTES = 16 * 2**20  # of one file of metadata
_RGB = ("FF0000", "00FF00", "0000FF")


class DamagedMetadata(ValueError):
    """Metadata that are not what any writer writes."""


@dataclass(frozen=True, slots=True)
class Multiscale:
    """One image of the format."""

    axes: tuple[str, ...]  # names, in the order of the arrays' dimensions
    paths: tuple[str, ...]  # of the levels' arrays below the image, the finest first
    um_per_px: tuple[float, float] | None  # x and y at level 0; None where the scale has no unit of length
    other_colours: tuple[str, ...]  # names of its channels, where their colours are not red, green and blue


def attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a Zarr group of either version, those of NGFF at the top; {} where there are none.

    Raises OSError where they cannot be read, ValueError where they are no JSON.
    """
    for name, inside in ((".zattrs", ()), ("zarr.json", ("attributes",))):
        if (folder / name).is_file():
            found = _inside(_parsed(folder / name), *inside)
            return _inside(found, "ome") or found
    return {}


def is_array(folder: Path) -> bool:
    """Whether a folder is an array of Zarr: chunks and nothing else."""
    if (folder / ".zarray").is_file():
        return True
    try:
        return _inside(_parsed(folder / "zarr.json")).get("node_type") == "array"
    except (OSError, ValueError):
        return False


def is_image(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr, one slide. Where its attributes cannot be understood, its name tells."""
    try:
        found = attributes(folder)
    except (OSError, ValueError):
        return folder.suffix.lower() == ".zarr"
    return bool(found.get(_MULTISCALES)) or _LAYOUT in found


def is_features(folder: Path) -> bool:
    """Whether a folder is a feature grid of this toolkit, which may lie among slides."""
    try:
        return attributes(folder).get("format") == _FEATURES
    except (OSError, ValueError):
        return False


def why_no_image(folder: Path) -> str:
    """What a folder lacks that `is_image` does not take."""
    if is_array(folder):
        return "it is a single array of Zarr, not an OME-Zarr: give the folder above it"
    if not any((folder / name).is_file() for name in FILES):
        empty = next(folder.iterdir(), None) is None
        return (
            "it is empty" if empty else "it is no OME-Zarr: the metadata of Zarr (zarr.json or .zattrs) are not there"
        )
    return "it is Zarr, but no OME-Zarr: there are no `multiscales` in its metadata"


def image_folder(folder: Path) -> Path:
    """The folder that has the `multiscales`: itself, or the first image of what bioformats2raw wrote."""
    return folder / "0" if _LAYOUT in attributes(folder) else folder


def read_multiscale(folder: Path) -> Multiscale:
    """The first image of a folder with `multiscales`. Raises OSError, or ValueError for what they do not say."""
    found = attributes(folder)
    images = found.get(_MULTISCALES)
    if not isinstance(images, list) or not images:
        raise ValueError(f"{folder.name} has no `multiscales` in its attributes")
    try:
        image = images[0]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", _FIVE)]
        names = tuple(str(axis["name"]) for axis in axes)
        paths = tuple(str(level["path"]) for level in image["datasets"])
        if any(Path(path).is_absolute() or ".." in Path(path).parts for path in paths):
            raise ValueError("its `multiscales` lead out of its folder")
        return Multiscale(names, paths, _um_per_px(image, axes), _other_colours(found))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its `multiscales` lack {error}") from error


def _parsed(file: Path) -> Any:
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{file.name} is longer than any metadata")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedMetadata(f"{file.name} is no JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{file.name} is nested deeper than any metadata") from None


def _inside(found: Any, *names: str) -> dict[str, Any]:
    """What lies at `names` in nested objects, {} where that is no object."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _um_per_px(image: dict[str, Any], axes: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Of level 0 and then of the whole image: their scales multiply."""
    units = {axis["name"]: _UM.get(str(axis.get("unit", "")).lower()) for axis in axes}
    size = {name: units.get(name) or math.nan for name in ("x", "y")}
    for transforms in (image["datasets"][0].get("coordinateTransformations"), image.get("coordinateTransformations")):
        for transform in transforms or ():
            if transform.get("type") == "scale" and len(transform.get("scale", ())) == len(axes):
                for name in size:
                    size[name] *= float(transform["scale"][[axis["name"] for axis in axes].index(name)])
    scaled = image["datasets"][0].get("coordinateTransformations")
    return (size["x"], size["y"]) if scaled and not math.isnan(size["x"] + size["y"]) else None


def _other_colours(found: dict[str, Any]) -> tuple[str, ...]:
    """The channels' names, where viewers are told to draw them in other colours than red, green and blue."""
    channels = (found.get("omero") or {}).get("channels") or []
    colours = tuple(str(channel.get("color", "")).upper() for channel in channels)
    if not all(colours) or colours == _RGB[: len(colours)]:
        return ()
    return tuple(str(channel.get("label") or channel["color"]) for channel in channels)
