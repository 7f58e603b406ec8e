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
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import demo_data as data
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from features.encoders import hub, load_encoder, openclip
from features.encoders.demo import CONFIG, FOLDER, WEIGHTS
from features.encoders.images import triple
from pipeline.synthetic import REGIONS
from pipeline.synthetic.cohort import GENERATOR
from wsi.identity import digest, file_sha256

TRAIN_SEED, TEST_SEED = 100_000, 200_000  # of the first slide; cohorts use seeds below 100,000
TUMOURS = (REGIONS.index("adenocarcinoma"), REGIONS.index("squamous carcinoma"))


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
        seen[self.tokenize(data.all_words()).unique()] = 1
        self.model.token_embedding.weight.mul_(seen)

    def step(self, tiles: list[NDArray[np.uint8]], labels: NDArray[np.uint8], captions: list[data.Caption]) -> float:
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
            self.model.logit_scale.clamp_(0, math.log(100))
        self.done += 1
        return float(loss.detach())

    def _set_learning_rate(self) -> None:
        """Linear over 40 steps, then a half cosine to nothing."""
        warm = min(1.0, (self.done + 1) / 40)
        cooled = (1 + math.cos(math.pi * self.done / self.settings.steps)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * warm * cooled

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


def train(work: Path, tiles: data.Tiles, settings: Settings) -> Trainer:
    trainer = Trainer(settings)
    state = work / f"state-{digest(settings, hub.read_json(CONFIG), GENERATOR)[:12]}.pt"
    if state.exists():
        trainer.resume(state)
    trainer.model.train()
    started = time.monotonic()
    for step in range(trainer.done, settings.steps):
        rng = np.random.default_rng([settings.seed, step])
        batch = np.concatenate([_draw(tiles.labels, k, settings.tiles_per_step, rng) for k in range(len(REGIONS))])
        labels = tiles.labels[batch]
        captions = [data.caption(label, rng) for label in labels]
        loss = trainer.step([data.altered(tiles.pixels[i], rng) for i in batch], labels, captions)
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
    WEIGHTS.chmod(0o644)  # safetensors leaves it to its owner alone


# Evaluation


def prompt_vectors(encoder: Any, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Unit mean of unit vectors over names and templates."""
    vectors = unit(encoder.encode_texts([template.format(name) for template in data.TEMPLATES for name in names]))
    return unit(vectors.mean(axis=0, keepdims=True))[0]


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def evaluate(tiles: data.Tiles) -> dict[str, Any]:
    """Zero-shot on tiles, through the written weights: accuracy over the regions, and tumour against the rest."""
    encoder = load_encoder("demo")
    rows = unit(np.concatenate(list(_encoded(encoder, tiles.pixels))))
    cosines = rows @ np.stack([prompt_vectors(encoder, data.NAMES[region]) for region in REGIONS]).T
    p = softmax(math.exp(encoder.logit_scale) * cosines, axis=1)
    broad = rows @ np.stack([prompt_vectors(encoder, words) for words, _ in data.BROAD]).T
    tumour = np.isin(tiles.labels, TUMOURS)
    tissue = np.isin(tiles.labels, [REGIONS.index(region) for _, regions in data.BROAD for region in regions])
    regions = _per_region(tiles.labels, p.argmax(axis=1))
    return {
        "tiles": len(rows),
        "accuracy": _rounded((p.argmax(axis=1) == tiles.labels).mean()),
        "balanced_accuracy": _rounded(np.mean([region["accuracy"] for region in regions.values()])),
        "tumour_vs_rest_auc": _rounded(roc_auc_score(tumour, p[:, TUMOURS].sum(axis=1))),
        "tumour_vs_benign_words_auc": _rounded(roc_auc_score(tumour[tissue], (broad[:, 0] - broad[:, 1])[tissue])),
        "regions": regions,
    }


def _per_region(labels: NDArray[np.uint8], said: NDArray[np.intp]) -> dict[str, dict[str, Any]]:
    """Of each region that occurs: number of tiles, share named right, and what they were named."""
    found = {}
    for k in np.unique(labels):
        names, counts = np.unique(said[labels == k], return_counts=True)
        found[REGIONS[k]] = {
            "tiles": int(counts.sum()),
            "accuracy": _rounded((said[labels == k] == k).mean()),
            "named": {REGIONS[name]: int(count) for name, count in zip(names, counts, strict=True)},
        }
    return found


def _rounded(value: Any) -> float:
    return round(float(value), 4)


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
    """Draws, trains, writes the weights, measures what was written."""
    work, settings = arguments()
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    tiles = data.collect(work, *_choice(TRAIN_SEED, settings.train_slides, 112, settings))
    say(f"{len(tiles.labels)} training tiles: {dict(zip(REGIONS, np.bincount(tiles.labels).tolist(), strict=True))}")
    trainer = train(work, tiles, settings)
    write_weights(trainer.model)
    held_out = evaluate(data.collect(work, *_choice(TEST_SEED, settings.test_slides, 224, settings)))
    say(json.dumps(held_out))
    card = {
        "what": "A CLIP trained from scratch on synthetic H&E slides. It knows synthetic tissue only.",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "script": "scripts/train_demo_encoder.py",
        "weights_sha256": file_sha256(WEIGHTS),
        "generator": GENERATOR,
        "settings": asdict(settings),
        "training_tiles": len(tiles.labels),
        "held_out": {"slides": settings.test_slides, **held_out},
    }
    (FOLDER / "demo_card.json").write_text(json.dumps(card, indent=1) + "\n")


def _choice(first_seed: int, slides: int, stride_px: int, settings: Settings) -> tuple[range, data.Cut]:
    return range(first_seed, first_seed + slides), data.Cut(stride_px, settings.tiles_per_class, settings.majority)


if __name__ == "__main__":
    main()
