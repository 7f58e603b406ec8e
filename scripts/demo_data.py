"""What the demo encoder learns from: tiles of synthetic slides, sentences about them, and ways to alter a tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic import DIAGNOSES, REGIONS, draw, recipe
from pipeline.synthetic.cohort import GENERATOR, SCANS
from tiling import TileGrid, TileSpec, TissueMask, read_tiles
from wsi import open_slide
from wsi.svs import SvsSpec, write_svs

NAMES: dict[str, tuple[str, ...]] = {
    "glass": ("background", "background glass", "empty glass", "a blank slide", "no tissue"),
    "stroma": ("stroma", "fibrous stroma", "connective tissue", "collagen fibres", "cancer-associated stroma"),
    "normal gland": ("normal glands", "normal colon mucosa", "benign glands", "regular crypts", "normal epithelium"),
    "adenocarcinoma": (
        "adenocarcinoma",
        "gland-forming carcinoma",
        "colorectal adenocarcinoma epithelium",
        "lung adenocarcinoma",
        "irregular malignant glands",
    ),
    "squamous carcinoma": (
        "squamous carcinoma",
        "squamous cell carcinoma",
        "solid tumour nests",
        "lung squamous cell carcinoma",
        "keratinising carcinoma",
    ),
    "lymphocytes": ("lymphocytes", "a lymphoid aggregate", "dense lymphocytes", "lymphocytic infiltrate"),
    "adipose": ("adipose tissue", "fat", "fat cells", "adipocytes"),
    "necrosis": ("necrosis", "debris", "necrotic debris", "dead tissue"),
    "pen": ("a pen mark", "pen marks", "ink on the slide", "marker ink"),
}
BROAD: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (  # words, and the regions they hold for
    (("tumour", "tumor tissue", "cancer", "malignant tissue"), ("adenocarcinoma", "squamous carcinoma")),
    (("benign tissue", "normal tissue", "healthy tissue"), ("stroma", "normal gland", "lymphocytes", "adipose")),
)
BROAD_SHARE = 0.25  # of the captions of tiles that have such words
TEMPLATES = (
    "{}.",
    "an image of {}.",
    "an H&E image of {}.",
    "An H&E image patch of {}.",
    "a photomicrograph showing {}.",
    "a histopathological image of {}.",
    "a tile of {}.",
    "this is {}.",
    "there is {}.",
    "presence of {}.",
    "{} is present.",
)


# Tiles


@dataclass(frozen=True, slots=True)
class Cut:
    """Which tiles of a slide are taken."""

    stride_px: int  # 112: overlapping by half; 224: touching
    per_class: int  # at most
    majority: float  # least share of a tile's area that its region must have


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Tiles at 0.5 um/px and the regions they mostly lie in."""

    pixels: NDArray[np.uint8]  # (N, 224, 224, 3)
    labels: NDArray[np.uint8]  # (N,) index into REGIONS


def collect(work: Path, seeds: range, cut: Cut) -> Tiles:
    """The tiles of all slides; those of each slide are kept in `work`, for the next run."""
    parts = [_slide_tiles(work, seed, cut) for seed in seeds]
    return Tiles(np.concatenate([p.pixels for p in parts]), np.concatenate([p.labels for p in parts]))


def _slide_tiles(work: Path, seed: int, cut: Cut) -> Tiles:
    kept = work / f"tiles-{GENERATOR}-{seed}-{cut.stride_px}-{cut.per_class}-{cut.majority}.npz"
    if not kept.exists():
        tiles = _drawn_tiles(work / f"{seed}.svs", seed, cut)
        with open(kept.with_suffix(".part"), "wb") as f:
            np.savez(f, pixels=tiles.pixels, labels=tiles.labels)
        kept.with_suffix(".part").rename(kept)
    with np.load(kept) as data:
        return Tiles(data["pixels"], data["labels"])


def _drawn_tiles(path: Path, seed: int, cut: Cut) -> Tiles:
    """Draws a slide, writes it as SVS and cuts it, as a run would; the file is removed."""
    scan = SCANS[seed % len(SCANS)]
    size = {"mpp": scan.mpp, "width_um": scan.width_um, "height_um": scan.height_um}
    drawn = draw(recipe(seed, DIAGNOSES[seed % len(DIAGNOSES)], **size))
    write_svs(path, drawn.pixels, SvsSpec(mpp=scan.mpp, objective_power=scan.objective_power, name=str(seed)))
    with open_slide(path) as slide:
        whole = TissueMask(np.ones(drawn.regions.shape, np.bool_), drawn.mask_px)
        grid = TileGrid.over(slide, whole, TileSpec(stride_px=cut.stride_px, min_tissue=0.99))
        labels, shares = _majority(grid, drawn.regions, drawn.mask_px)
        chosen = _some_of_each(labels, shares >= cut.majority, cut.per_class, np.random.default_rng(seed))
        keep = np.zeros_like(grid.keep)
        keep.flat[grid.cells[chosen]] = True
        batches = list(read_tiles(slide, replace(grid, keep=keep, tissue_fraction=grid.tissue_fraction[chosen])))
    path.unlink()
    return Tiles(np.concatenate([batch.pixels for batch in batches]), labels[chosen])


def _majority(
    grid: TileGrid, regions: NDArray[np.uint8], mask_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The region that most of each tile lies in, (N,), and its share."""
    squares = np.hstack([grid.coords, np.full((len(grid), 2), grid.span_px)])
    shares = np.stack([TissueMask(regions == k, mask_px).fraction(squares) for k in range(len(REGIONS))])
    return shares.argmax(axis=0).astype(np.uint8), shares.max(axis=0)


def _some_of_each(
    labels: NDArray[np.uint8], fit: NDArray[np.bool_], most: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Ascending indices of at most `most` tiles of each label, among those that fit."""
    groups = [np.flatnonzero(fit & (labels == k)) for k in range(len(REGIONS))]
    return np.sort(np.concatenate([rng.permutation(group)[:most] for group in groups]))


# Sentences


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence and where it holds."""

    text: str
    regions: frozenset[int]  # it is true of tiles of these


def caption(label: int, rng: np.random.Generator) -> Caption:
    """A sentence that is true of a tile: its region's name, or now and then a broader word."""
    region = REGIONS[label]
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    for words, regions in BROAD:
        if region in regions and rng.random() < BROAD_SHARE:
            return Caption(template.format(rng.choice(words)), frozenset(REGIONS.index(r) for r in regions))
    return Caption(template.format(rng.choice(NAMES[region])), frozenset([label]))


def all_words() -> list[str]:
    """Every sentence there can be."""
    names = [name for group in (*NAMES.values(), *(words for words, _ in BROAD)) for name in group]
    return [template.format(name) for template in TEMPLATES for name in names]


# Alterations


def altered(tile: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The tile turned, mirrored, stained, focused and compressed otherwise."""
    tile = np.rot90(tile, int(rng.integers(4)))
    tile = np.ascontiguousarray(tile[:, ::-1] if rng.random() < 0.5 else tile)
    tile = _restained(tile, rng)
    if rng.random() < 0.3:
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), rng.uniform(0.3, 0.9)), np.uint8)
    if rng.random() < 0.3:
        _, packed = cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 95))])
        tile = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return tile


def _restained(tile: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Optical density of each channel scaled by up to a quarter, and the white point moved."""
    density = -np.log10((np.arange(256) + 1) / 256)
    scale = rng.uniform(0.85, 1.15) * rng.uniform(0.92, 1.08, (3, 1))
    table = 10.0 ** -(density * scale) * rng.uniform(235, 255) + rng.uniform(-4, 4, (3, 1))
    return np.asarray(cv2.LUT(tile, table.clip(0, 255).round().astype(np.uint8).T[None]), np.uint8)
