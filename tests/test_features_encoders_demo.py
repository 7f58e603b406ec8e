"""The shipped demo encoder: what its card says, and that it sees what lies in a slide it never saw."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.encoders import load_encoder, openclip
from features.encoders.demo import FOLDER, WEIGHTS
from features.encoders.weights import read_tensors
from pipeline.synthetic import REGIONS, draw, recipe

PROMPTS = {
    "glass": "background",
    "stroma": "stroma",
    "adenocarcinoma": "adenocarcinoma",
    "squamous carcinoma": "squamous cell carcinoma",
    "normal gland": "normal glands",
    "lymphocytes": "lymphocytes",
    "adipose": "adipose tissue",
    "necrosis": "necrosis",
    "pen": "a pen mark",
}
TUMOURS = ("adenocarcinoma", "squamous carcinoma")


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "demo_card.json").read_text())
    return content


def test_the_card_is_of_these_weights_and_keeps_its_promise(card: dict[str, Any]) -> None:
    encoder = load_encoder("demo")
    assert card["weights_sha256"] == encoder.spec.weights_sha256
    assert encoder.spec.domain == "synthetic tissue only"
    assert WEIGHTS.stat().st_size < 10_000_000
    held_out = card["held_out"]
    assert held_out["accuracy"] >= 0.95 and held_out["tumour_vs_rest_auc"] >= 0.98
    assert set(held_out["regions"]) == set(REGIONS) and held_out["tiles"] >= 1000


def test_words_never_trained_on_mean_nothing() -> None:
    embedding = read_tensors(WEIGHTS)["token_embedding.weight"]
    known = set(openclip.bpe_tokenizer(32)(["an image of stroma."])[0].tolist())
    strange = set(openclip.bpe_tokenizer(32)(["glioblastoma zebra"])[0].tolist()) - known
    assert embedding[sorted(known)].abs().sum(1).all()
    assert not embedding[sorted(strange)].any()
    assert int(embedding.any(1).sum()) < 200


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("diagnosis", ["benign", "adenocarcinoma", "squamous carcinoma"])
def test_tiles_are_named_on_a_slide_never_seen(diagnosis: str) -> None:
    """One plain prompt a class, tiles cut straight from the drawing: at least nine of ten are named right."""
    drawn = draw(recipe(300_000, diagnosis, width_um=1344.0, height_um=1120.0, mpp=0.5))
    tiles, labels = majority_tiles(drawn.pixels, drawn.regions, drawn.mask_px)
    encoder = load_encoder("demo")
    texts = unit(encoder.encode_texts([f"An H&E image patch of {PROMPTS[region]}." for region in REGIONS]))
    named = (unit(encoder.encode_images(tiles)) @ texts.T).argmax(axis=1)
    assert (named == labels).mean() >= 0.9
    tumour = [REGIONS.index(name) for name in TUMOURS]
    assert np.isin(labels, tumour).any() == (diagnosis != "benign")
    assert (np.isin(named, tumour) == np.isin(labels, tumour)).mean() >= 0.95


def majority_tiles(
    pixels: NDArray[np.uint8], regions: NDArray[np.uint8], mask_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Touching 224 px tiles of which at least 60 % lie in one region, and that region."""
    side, found = 224 // mask_px, []
    for y in range(0, pixels.shape[0] - 223, 224):
        for x in range(0, pixels.shape[1] - 223, 224):
            patch = regions[y // mask_px : y // mask_px + side, x // mask_px : x // mask_px + side]
            counts = np.bincount(patch.ravel(), minlength=len(REGIONS))
            if counts.max() >= 0.6 * patch.size:
                found.append((pixels[y : y + 224, x : x + 224], counts.argmax()))
    return np.stack([tile for tile, _ in found]), np.array([label for _, label in found])
