"""Trains the demo encoder: a small CLIP, from scratch, on synthetic slides and captions of what lies in them.

    python scripts/train_demo_encoder.py --work DIR

Slides are drawn, written as SVS and cut by the code that runs use. Writes `features/weights/demo.safetensors`
(float16) and `demo_card.json`, with the zero-shot accuracy on slides of seeds never trained on. The same arguments
give the same weights on the same kind of machine: one thread, and every draw seeded. Drawn tiles and the state of
training are kept in DIR, so that a broken run goes on where it stopped. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from features.encoders import hub, load_encoder, openclip
from features.encoders.demo import CONFIG, FOLDER, WEIGHTS
from features.encoders.images import triple
from numpy.typing import NDArray
from pipeline.synthetic import DIAGNOSES, REGIONS, draw, recipe
from pipeline.synthetic.cohort import GENERATOR, SCANS
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from tiling import TileGrid, TileSpec, TissueMask, read_tiles
import torch.nn.functional as F  # noqa: N812
from wsi import open_slide
from wsi.svs import SvsSpec, write_svs

TRAIN_SEED, TEST_SEED = 100_000, 200_000  # of the first slide; cohorts use seeds below 100,000
TUMOURS = (REGIONS.index("adenocarcinoma"), REGIONS.index("squamous carcinoma"))

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


@dataclass(frozen=True, slots=True)
class Settings:
    """What the weights depend on besides this file and the generator of slides."""

    seed: int = 0
    train_slides: int = 60
    test_slides: int = 21
    tiles_per_class: int = 28  # of a training slide at most
    majority: float = 0.6  # least share of a tile's area that its region must have
    steps: int = 700
    tiles_per_step: int = 7  # of each class
    learning_rate: float = 2e-3
    weight_decay: float = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    pixels: NDArray[np.uint8]  # (N, 224, 224, 3) at 0.5 um/px
    labels: NDArray[np.uint8]  # (N,) index into REGIONS


# Tiles


def slide_tiles(work: Path, seed: int, stride_px: int, per_class: int, majority: float) -> Tiles:
    """The tiles of one slide that mostly lie in one region, at most `per_class` of each, as runs cut them."""
    kept = work / f"tiles-{GENERATOR}-{seed}-{stride_px}-{per_class}-{majority}.npz"
    if not kept.exists():
        scan = SCANS[seed % len(SCANS)]
        size = {"mpp": scan.mpp, "width_um": scan.width_um, "height_um": scan.height_um}
        drawn = draw(recipe(seed, DIAGNOSES[seed % len(DIAGNOSES)], **size))
        path = work / f"{seed}.svs"
        write_svs(path, drawn.pixels, SvsSpec(mpp=scan.mpp, objective_power=scan.objective_power, name=str(seed)))
        tiles = _cut(path, drawn.regions, drawn.mask_px, TileSpec(stride_px=stride_px), (per_class, majority, seed))
        path.unlink()
        with open(kept.with_suffix(".part"), "wb") as f:
            np.savez(f, pixels=tiles.pixels, labels=tiles.labels)
        kept.with_suffix(".part").rename(kept)
    with np.load(kept) as data:
        return Tiles(data["pixels"], data["labels"])


def _cut(path: Path, regions: NDArray[np.uint8], mask_px: int, spec: TileSpec, choice: tuple[int, float, int]) -> Tiles:
    per_class, majority, seed = choice
    with open_slide(path) as slide:
        everywhere = TissueMask(np.ones(regions.shape, np.bool_), mask_px)
        grid = TileGrid.over(slide, everywhere, replace(spec, min_tissue=0.99))
        coords = np.hstack([grid.coords, np.full((len(grid), 2), grid.span_px)])
        shares = np.stack([TissueMask(regions == k, mask_px).fraction(coords) for k in range(len(REGIONS))])
        labels = shares.argmax(axis=0).astype(np.uint8)
        chosen = _some_of_each(labels, shares.max(axis=0) >= majority, per_class, np.random.default_rng(seed))
        keep = np.zeros_like(grid.keep)
        keep.flat[grid.cells[chosen]] = True
        batches = list(read_tiles(slide, replace(grid, keep=keep, tissue_fraction=grid.tissue_fraction[chosen])))
    return Tiles(np.concatenate([batch.pixels for batch in batches]), labels[chosen])


def _some_of_each(
    labels: NDArray[np.uint8], fit: NDArray[np.bool_], most: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Ascending indices of at most `most` tiles of each label, among those that fit."""
    groups = [np.flatnonzero(fit & (labels == k)) for k in range(len(REGIONS))]
    return np.sort(np.concatenate([rng.permutation(group)[:most] for group in groups]))


def collect(work: Path, seeds: range, stride_px: int, per_class: int, majority: float) -> Tiles:
    parts = [slide_tiles(work, seed, stride_px, per_class, majority) for seed in seeds]
    return Tiles(np.concatenate([p.pixels for p in parts]), np.concatenate([p.labels for p in parts]))


# Captions


@dataclass(frozen=True, slots=True)
class Caption:
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
    names = [name for group in (*NAMES.values(), *(words for words, _ in BROAD)) for name in group]
    return [template.format(name) for template in TEMPLATES for name in names]


# Augmentation


def altered(tile: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The tile turned, mirrored, stained, focused and compressed otherwise."""
    tile = np.rot90(tile, rng.integers(4))
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


# Training


class Trainer:
    """A network, its optimiser and the step they are at."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        config = hub.read_json(CONFIG)
        self.settings = settings
        self.model = openclip.open_clip.CLIP(**config["model_cfg"]).to(memory_format=torch.channels_last)
        self.tokenize = openclip.bpe_tokenizer(self.model.context_length)
        self.mean, self.std = (torch.tensor(triple(config["preprocess_cfg"][k])).view(3, 1, 1) for k in ("mean", "std"))
        self.optimiser = torch.optim.AdamW(_parameter_groups(self.model, settings.weight_decay), settings.learning_rate)
        self.done = 0
        self._forget_unseen_words()

    @torch.no_grad()
    def _forget_unseen_words(self) -> None:
        """Tokens that no caption has mean nothing: zeros, which never get a gradient."""
        seen = torch.zeros(self.model.vocab_size, 1)
        seen[self.tokenize(all_words()).unique()] = 1
        self.model.token_embedding.weight.mul_(seen)

    def step(self, tiles: list[NDArray[np.uint8]], labels: NDArray[np.uint8], captions: list[Caption]) -> float:
        """One batch; gives the loss."""
        self._set_learning_rate()
        x = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)
        x = ((x / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            images = self.model.encode_image(x)
        texts = self.model.encode_text(self.tokenize([c.text for c in captions]))
        true = torch.tensor([[int(label) in c.regions for c in captions] for label in labels]).float()
        loss = contrastive_loss(images.float(), texts, self.model.logit_scale, true)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, np.log(100))
        self.done += 1
        return float(loss.detach())

    def _set_learning_rate(self) -> None:
        """Linear over 40 steps, then a half cosine to nothing."""
        warm = min(1.0, (self.done + 1) / 40)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm * (1 + np.cos(np.pi * self.done / self.settings.steps)) / 2

    def save(self, path: Path) -> None:
        state = {"done": self.done, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


def _parameter_groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, true: torch.Tensor
) -> torch.Tensor:
    """CLIP's symmetric cross-entropy, where every caption that is true of a tile is a right answer, in equal parts.

    images (B, D), texts (B, D), true (B, B) of tiles x captions in {0, 1}.
    """
    logits = logit_scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    by_tile = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
    by_caption = F.cross_entropy(logits.T, true.T / true.T.sum(1, keepdim=True))
    return (by_tile + by_caption) / 2


def train(work: Path, tiles: Tiles, settings: Settings) -> Trainer:
    trainer = Trainer(settings)
    state = work / "state.pt"
    if state.exists():
        trainer.resume(state)
    trainer.model.train()
    started = time.monotonic()
    for step in range(trainer.done, settings.steps):
        rng = np.random.default_rng([settings.seed, step])
        batch = np.concatenate([_draw(tiles.labels, k, settings.tiles_per_step, rng) for k in range(len(REGIONS))])
        labels = tiles.labels[batch]
        captions = [caption(label, rng) for label in labels]
        loss = trainer.step([altered(tiles.pixels[i], rng) for i in batch], labels, captions)
        if trainer.done % 50 == 0:
            say(f"step {trainer.done}: loss {loss:.3f}, {time.monotonic() - started:.0f} s")
            trainer.save(state)
    return trainer


def _draw(labels: NDArray[np.uint8], label: int, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return rng.choice(np.flatnonzero(labels == label), count)


def write_weights(model: torch.nn.Module) -> None:
    """In float16; running counts of batch norm are whole numbers and stay."""
    tensors = {k: t.half() if t.is_floating_point() else t for k, t in model.state_dict().items()}
    save_file({k: t.contiguous() for k, t in tensors.items()}, WEIGHTS)


# Evaluation


def prompt_vectors(encoder: Any, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Unit mean of unit vectors over names and templates."""
    vectors = unit(encoder.encode_texts([template.format(name) for template in TEMPLATES for name in names]))
    return unit(vectors.mean(axis=0, keepdims=True))[0]


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def evaluate(tiles: Tiles) -> dict[str, Any]:
    """Zero-shot on tiles, through the written weights: accuracy over the nine regions, and tumour against the rest."""
    encoder = load_encoder("demo")
    rows = unit(np.concatenate(list(_encoded(encoder, tiles.pixels))))
    cosines = rows @ np.stack([prompt_vectors(encoder, NAMES[region]) for region in REGIONS]).T
    scores = np.exp(np.exp(encoder.logit_scale) * (cosines - cosines.max(axis=1, keepdims=True)))
    p = scores / scores.sum(axis=1, keepdims=True)
    right = p.argmax(axis=1) == tiles.labels
    tumour = np.isin(tiles.labels, TUMOURS)
    broad = rows @ np.stack([prompt_vectors(encoder, words) for words, _ in BROAD]).T
    tissue = ~np.isin(tiles.labels, [REGIONS.index(r) for r in ("glass", "pen", "necrosis")])
    per_class = {r: tiles.labels == k for k, r in enumerate(REGIONS)}
    return {
        "tiles": len(right),
        "accuracy": round(float(right.mean()), 4),
        "balanced_accuracy": round(float(np.mean([right[of].mean() for of in per_class.values() if of.any()])), 4),
        "tumour_vs_rest_auc": round(float(roc_auc_score(tumour, p[:, TUMOURS].sum(axis=1))), 4),
        "tumour_vs_benign_words_auc": round(
            float(roc_auc_score(tumour[tissue], (broad[:, 0] - broad[:, 1])[tissue])), 4
        ),
        "per_class": {
            r: {"tiles": int(of.sum()), "accuracy": round(float(right[of].mean()), 4)}
            for r, of in per_class.items()
            if of.any()
        },
        "confusion": {
            r: {REGIONS[j]: int(n) for j, n in enumerate(np.bincount(p[of].argmax(axis=1), minlength=9)) if n}
            for r, of in per_class.items()
        },
    }


def _encoded(encoder: Any, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    for i in range(0, len(pixels), 256):
        yield encoder.encode_images(pixels[i : i + 256])


def say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)  # noqa: T201


def arguments() -> tuple[Path, Settings]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for drawn tiles and the state of training")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    return given.pop("work"), Settings(**given)


def main() -> None:
    work, settings = arguments()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    seeds = range(TRAIN_SEED, TRAIN_SEED + settings.train_slides)
    tiles = collect(work, seeds, 112, settings.tiles_per_class, settings.majority)
    say(f"{len(tiles.labels)} training tiles: {dict(zip(REGIONS, np.bincount(tiles.labels).tolist(), strict=True))}")
    started = time.process_time()
    trainer = train(work, tiles, settings)
    seconds = time.process_time() - started
    write_weights(trainer.model)
    held_out = collect(
        work, range(TEST_SEED, TEST_SEED + settings.test_slides), 224, settings.tiles_per_class, settings.majority
    )
    card = {
        "what": "A CLIP trained from scratch on synthetic H&E slides. It knows synthetic tissue only.",
        "trained_on": f"{datetime.now(UTC):%Y-%m-%d}",
        "settings": asdict(settings),
        "generator": GENERATOR,
        "training": {"slides": settings.train_slides, "tiles": len(tiles.labels), "cpu_seconds": round(seconds)},
        "held_out": {"slides": settings.test_slides, **evaluate(held_out)},
    }
    (FOLDER / "demo_card.json").write_text(json.dumps(card, indent=1) + "\n")
    say(json.dumps(card["held_out"]))


if __name__ == "__main__":
    main()
