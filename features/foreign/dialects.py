"""Whose file is it, and what does it tell: the h5 layouts of CLAM, TRIDENT and STAMP.

    CLAM     h5_files/<id>.h5               features (N, D) or (1, N, D), coords (N, 2) level-0 px; no attributes
    TRIDENT  features_<encoder>/<id>.h5     the same; features: encoder, savetodir; coords: patch_size,
                                            patch_size_level0, target_magnification and more
    STAMP    <extractor>[-<hash>]/<id>.h5   feats (N, D) float16, coords (N, 2) um; the file: extractor, unit="um",
                                            tile_size_um (tile_size before 2.1), feat_type="tile"

Level-0 px and um are those of the tile's top-left corner.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from features.foreign.bag import ForeignBag, readable
from features.foreign.h5 import Contents, Stored
from wsi.errors import ArtefactError

_OF_TRIDENT = {"encoder", "savetodir", "patch_size_level0", "target_magnification"}  # of features and coords
_GRID_FOLDER = re.compile(r"[\d.]+x_\d+px_\d+px_overlap")  # TRIDENT's, above features_<encoder>


def dialect_of(contents: Contents) -> str:
    """clam, trident, stamp or packed; "" for a patch file, which holds coordinates (and tiles' pixels) only.

    Raises ArtefactError for anything else, naming its datasets.
    """
    names = set(contents.datasets)
    if {"features", "offsets"} <= names:
        return "packed"
    if "feats" in names:
        return "stamp"
    if "features" in names:
        told = {key for name in ("features", "coords") for key in _stored_attrs(contents, name)}
        return "trident" if told & _OF_TRIDENT else "clam"
    if "coords" in names and names <= {"coords", "imgs"}:
        return ""
    held = ", ".join(sorted(names)[:8]) or "none"
    hint = "Feature files of CLAM and TRIDENT hold 'features', those of STAMP 'feats'; leave other files out."
    raise fault(contents.path, f"no feature file of CLAM, TRIDENT or STAMP; its datasets are: {held}", hint)


def bag_of(contents: Contents, dialect: str, root: Path) -> ForeignBag:
    """The bag in one file of CLAM, TRIDENT or STAMP, found in or below `root`.

    Raises ArtefactError for features of a whole slide, odd shapes, and features and coords of different length.
    """
    n, dim = _tiles(contents, "feats" if dialect == "stamp" else "features")
    tile, unit, span = _stamp_tile(contents) if dialect == "stamp" else _pixel_tile(contents)
    told = "coords" in contents.datasets
    return ForeignBag(
        slide_id=slide_id(contents, dialect, root),
        path=contents.path,
        dialect=dialect,
        n_tiles=n,
        dim=dim,
        encoder=encoder_of(contents, dialect),
        tile=tile,
        coords_unit=unit if told else "",
        span=span if told and unit else None,
    )


def encoder_of(contents: Contents, dialect: str) -> str:
    """The encoder's name as the file tells it, or TRIDENT in its folder; "" where nobody does.

    CLAM's files tell nothing, and their folders are called as people like: to go by these would refuse a second cohort.
    """
    told = _told_encoder(contents, dialect)
    parent = contents.path.parent.resolve()
    if told:
        return told
    if dialect == "trident" and parent.name.startswith("features_"):
        return readable(parent.name.removeprefix("features_"))
    return ""


def slide_id(contents: Contents, dialect: str, root: Path) -> str:
    """The path below `root` without extension, parts joined by "/".

    Folders that the tool itself made are left out, so that an id is the same whichever of them was given.
    """
    *above, name = contents.path.relative_to(root).with_suffix("").parts
    told = _told_encoder(contents, dialect)
    if dialect == "clam" and above[-1:] == ["h5_files"]:
        above.pop()
    elif dialect == "trident" and above and above[-1].startswith("features_"):
        above.pop()
        if above and _GRID_FOLDER.fullmatch(above[-1]):
            above.pop()
    elif dialect == "stamp" and above and told and re.fullmatch(re.escape(told) + r"(-[0-9a-f]{8})?", above[0]):
        above.pop(0)
    return readable("/".join([*above, name]))


def fault(path: Path, what: str, hint: str) -> ArtefactError:
    """The error for a file whose contents are not as they should be; the caller raises it."""
    return ArtefactError(f"{path}: {what}.", hint=hint, path=str(path))


def _stored_attrs(contents: Contents, name: str) -> dict[str, Any]:
    return contents.datasets[name].attrs if name in contents.datasets else {}


def _told_encoder(contents: Contents, dialect: str) -> str:
    attrs = {
        "trident": _stored_attrs(contents, "features").get("encoder"),
        "stamp": contents.attrs.get("extractor"),
        "packed": contents.attrs.get("encoder"),
    }
    told = attrs.get(dialect)
    return readable(told) if isinstance(told, str) and told != "None" else ""  # TRIDENT writes None as text


def _tiles(contents: Contents, name: str) -> tuple[int, int]:
    """(N, D); (0, 0) for the (0,) that TRIDENT writes of a slide without tiles where it does not know D."""
    stored = contents.datasets[name]
    shape = (0, 0) if stored.shape == (0,) else _without_batch(stored)
    _refuse_slide_level(contents, name, shape)
    if len(shape) != 2 or (shape[0] and not shape[1]) or not stored.is_number:
        what = f"{name} is {stored.dtype} of shape {stored.shape}, not numbers of shape (tiles, dimensions)"
        raise fault(contents.path, what, "Extract this slide again, or leave the file out.")
    placed = _placed(contents)
    fits = placed is None or placed == (shape[0], 2) or (not shape[0] and placed[:1] == (0,))
    if not fits or (placed and not contents.datasets["coords"].is_number):
        what = f"{name} has {shape[0]} rows, but coords is {contents.datasets['coords'].dtype} of shape {placed}"
        raise fault(contents.path, what, "Extract this slide again: its writer may have been stopped half-way.")
    return shape[0], shape[1]


def _without_batch(stored: Stored) -> tuple[int, ...]:
    return stored.shape[1:] if len(stored.shape) == 3 and stored.shape[0] == 1 else stored.shape


def _placed(contents: Contents) -> tuple[int, ...] | None:
    """The shape of coords, (N, 2) if all is well; None without coords."""
    return _without_batch(contents.datasets["coords"]) if "coords" in contents.datasets else None


def _refuse_slide_level(contents: Contents, name: str, shape: tuple[int, ...]) -> None:
    """One vector for all tiles: said by STAMP (slide, patient), seen by its shape (D,), or (1, D) without its place."""
    kind = contents.attrs.get("feat_type", "tile")
    lone = shape[:1] == (1,) and (_placed(contents) or ())[:1] != (1,)
    if kind != "tile" or len(shape) == 1 or lone:
        whole = "slide" if kind == "tile" else kind
        what = f"{name} of shape {shape} is one vector for the whole {whole}, not one for each tile"
        hint = "Give the folder of tile features: features_<encoder> of TRIDENT, the folder of the extractor of STAMP."
        raise fault(contents.path, what, hint)


def _pixel_tile(contents: Contents) -> tuple[str, str, float | None]:
    """Tile, unit and span as TRIDENT tells them; of a grid that CLAM made it copies CLAM's attributes."""
    attrs = _stored_attrs(contents, "coords")
    size, level = _number(attrs, "patch_size"), _number(attrs, "patch_level")
    magnification, span = _number(attrs, "target_magnification"), _number(attrs, "patch_size_level0")
    if size and magnification:
        return f"{size:g} px at {magnification:g}x", "px", span
    if size and level is not None:
        return f"{size:g} px at level {level:g}", "px", span
    return f"{span:g} px at level 0" if span else "", "px", span


def _stamp_tile(contents: Contents) -> tuple[str, str, float | None]:
    """Files before STAMP 2 tell no unit: their coordinates are given up rather than guessed."""
    attrs = contents.attrs
    if attrs.get("unit") != "um":
        return "", "", None
    size = _number(attrs, "tile_size_um") or _number(attrs, "tile_size")
    return f"{size:g} um" if size else "", "um", size


def _number(attrs: dict[str, Any], name: str) -> float | None:
    """An attribute, if it is a number; TRIDENT writes None as text."""
    value = attrs.get(name)
    return float(value) if isinstance(value, int | float) else None
