"""The pictures of a slide in its folder: overview, tissue outline, heatmaps; and the same for QuPath."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.files import storage_errors, write_atomic
from pipeline.geojson import TileLayer, tile_features, write_geojson
from pipeline.heatmap import HeatLabels, HeatStyle, encoder_caution, heatmap_figure
from pipeline.output import SlideFolder
from pipeline.overlay import Frame, Placement, draw_outline, draw_tiles
from pipeline.record import SlideRecord
from pipeline.seal import sealed_jpeg, sealed_json
from tiling.grid import TileGrid
from tiling.outline import tissue_outline
from wsi.errors import GridDamaged

if TYPE_CHECKING:
    from tiling.supervised import PreparedSlide

HEAD = "head "  # a map's source begins with it where a head made it; the head's name follows


@dataclass(frozen=True, slots=True, eq=False)
class TileScores:
    """One number a tile, and how it is to be shown."""

    name: str  # file name of the heatmap: tumour, attention-..., letters, digits and dashes
    title: str  # as printed on it: p(tumour)
    values: NDArray[np.float32]  # (N,) of the grid's kept tiles; NaN where a tile has none
    style: HeatStyle
    source: str  # what made it: "prompts demo", "head subtype"
    made_by: str  # its digest: of words and settings (`Scorer.words`), or of the head


@dataclass(frozen=True, slots=True, eq=False)
class DrawnMap:
    """A heatmap of the output folder that belongs to the slide's current features."""

    title: str
    picture: Path  # `read_values` of it gives the values (N,)
    source: str  # see TileScores
    made_by: str
    style: HeatStyle


def write_overview(folder: SlideFolder, prepared: PreparedSlide) -> None:
    """thumbnail.jpg and overlay.png, with the tissue's outline and the kept tiles."""
    thumbnail = prepared.thumbnail
    frame = Frame.of(prepared.facts.bounds, thumbnail)
    outline = tissue_outline(prepared.mask)
    drawn = draw_outline(draw_tiles(thumbnail, Placement(prepared.grid, frame)), outline, frame)
    write_image(folder.thumbnail, thumbnail)
    write_image(folder.overlay, drawn)


def write_heatmap(folder: SlideFolder, record: SlideRecord, grid: TileGrid, scores: TileScores) -> Path:
    """`heatmaps/<name>.png` on the slide's thumbnail; beside it the raw values, `<name>.npy`, and what they are of.

    Needs files of the output folder alone. Returns the picture's path.
    """
    thumbnail = read_image(folder.thumbnail)
    placement = Placement(grid, Frame.of(record.facts.bounds, thumbnail))
    labels = HeatLabels(
        score=scores.title,
        slide_id=record.name,
        encoder=record.grid.encoder,
        mpp=record.facts.mpp,
        caution=encoder_caution(untrained=record.grid.untrained, domain=record.grid.domain),
        style=scores.style,
    )
    path = folder.heatmaps / f"{scores.name}.png"
    picture = heatmap_figure(grid.paint(scores.values), thumbnail, placement, labels)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = _npy(scores.values)
        write_atomic(path.with_suffix(".npy"), values, durable=False)
        told = {"title": scores.title, "source": scores.source, "made_by": scores.made_by}
        digests = {"png": hashlib.sha256(picture).hexdigest(), "npy": hashlib.sha256(values).hexdigest()}
        label = {**told, "style": asdict(scores.style), "sha256": digests, **_made_from(record)}
        write_atomic(path.with_suffix(".json"), sealed_json(label).encode(errors="backslashreplace"), durable=False)
        write_atomic(path, picture, durable=False)
    return path


def drawn_maps(folder: SlideFolder, record: SlideRecord) -> Iterator[DrawnMap]:
    """The heatmaps that were made from the slide's current features, by name; others are out of date.

    They may be of other words or heads than those in force: see `pipeline.inforce`.
    """
    for path in sorted(folder.heatmaps.glob("*.json")):
        label = json.loads(path.read_text(encoding="utf-8"))
        if "style" in label and {k: label.get(k) for k in _made_from(record)} == _made_from(record):
            style = label["style"] | {"limits": label["style"]["limits"] and tuple(label["style"]["limits"])}
            shown = HeatStyle(**style)
            yield DrawnMap(label["title"], path.with_suffix(".png"), label["source"], label["made_by"], shown)


def _made_from(record: SlideRecord) -> dict[str, str]:
    return {"grid": record.current, "fingerprint": record.facts.fingerprint}


def read_values(picture: Path) -> NDArray[np.float32]:
    """The raw values (N,) behind a heatmap."""
    return np.load(picture.with_suffix(".npy"), allow_pickle=False)


def write_tile_geojson(folder: SlideFolder, record: SlideRecord, layer: TileLayer, *, top: int, by: str) -> Path:
    """`heatmaps/<layer>.geojson` for QuPath: the tiles with their measurements, at most the `top` highest."""
    path = folder.heatmaps / f"{layer.name}.geojson"
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_geojson(path, tile_features(layer, record.facts.bounds, top=top, by=by))
    return path


def _npy(values: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values, np.float32), allow_pickle=False)
    return stream.getvalue()


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image of the output folder, uint8 (h, w, 3). Raises GridDamaged if it is gone or not an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise GridDamaged(
            f"{path}: cannot be read ({error}).", hint="Delete slide.json beside it and run again."
        ) from None


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """uint8 (h, w, 3) as PNG or JPEG, by the name's ending, in one step. Of PNG every part has a checksum anyway."""
    data = encoded(pixels, "PNG") if path.suffix == ".png" else sealed_jpeg(encoded(pixels))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, durable=False)


def encoded(pixels: NDArray[np.uint8], kind: str = "JPEG", quality: int = 88) -> bytes:
    """uint8 (h, w, 3) as the bytes of a JPEG or PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    options = {"quality": quality, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
