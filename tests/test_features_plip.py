"""PLIP against transformers 5.23: one random checkpoint through its CLIPModel and through our conversion."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from features.encoders import hf_clip, load_encoder, openclip, plip
from features.encoders.images import fit, normalised
from features.encoders.torch_clip import TorchEncoder
from features.encoders.weights import read_tensors
from wsi.errors import UsageError, WeightsError
from wsi.identity import file_sha256

transformers = pytest.importorskip("transformers")

PROMPTS = [
    "An H&E image patch of colorectal adenocarcinoma epithelium.",
    "cancer-associated stroma",
    "",
    "Ki-67 positive, 3+; μ = 0.5 (β-catenin) naïve café",
    "don't   SHOUT\n\tabout 12,5 %",
    "lymphocytes " * 60,
]
PREPROCESSOR = {"size": 224, "crop_size": 224, "resample": 3, "image_mean": plip._MEAN, "image_std": plip._STD}


@dataclass(frozen=True)
class Reference:
    folder: Path  # as save_pretrained leaves it, and preprocessor_config.json
    images: NDArray[np.uint8]  # (3, 224, 224, 3)
    image_vectors: NDArray[np.float32]  # (3, 512), unit
    text_vectors: NDArray[np.float32]  # (len(PROMPTS), 512), unit


def hf_tokenizer(folder: Path) -> Any:
    """transformers' CLIPTokenizer from the merges that open_clip ships, in the order of OpenAI's vocabulary."""
    spec = find_spec("open_clip")
    assert spec and spec.origin
    packed = (Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(openclip.bpe_tokenizer(77).byte_encoder.values())
    words = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def unit(x: Any) -> NDArray[np.float32]:
    x = np.asarray(x)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Biases and norms are random too: at their usual zeros and ones a wrong mapping would go unseen."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = transformers.CLIPModel(transformers.CLIPConfig(projection_dim=512)).eval()  # defaults: ViT-B/32
    torch.manual_seed(7)
    with torch.inference_mode():
        for name, p in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            p.uniform_(centre - 0.06, centre + 0.06)
        model.logit_scale.fill_(4.5)
    folder = tmp_path_factory.mktemp("plip")
    model.save_pretrained(folder, max_shard_size="2GB")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    images = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), np.uint8)
    tokenizer = hf_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    words = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    processor = transformers.CLIPImageProcessorPil(**PREPROCESSOR)
    with torch.inference_mode():
        seen = model.get_image_features(processor(list(images), return_tensors="pt")["pixel_values"])
        read = model.get_text_features(**words)
    return Reference(folder, images, unit(seen.pooler_output), unit(read.pooler_output))


@pytest.fixture(scope="module")
def encoder(reference: Reference) -> TorchEncoder:
    return load_encoder("plip", weights=reference.folder)  # type: ignore[return-value]


def test_embeddings_are_those_of_transformers(encoder: TorchEncoder, reference: Reference) -> None:
    assert np.abs(unit(encoder.encode_images(reference.images)) - reference.image_vectors).max() < 1e-5
    assert np.abs(unit(encoder.encode_texts(PROMPTS)) - reference.text_vectors).max() < 1e-5
    assert encoder.logit_scale == 4.5


def test_spec_says_what_the_features_depend_on(encoder: TorchEncoder, reference: Reference) -> None:
    spec = encoder.spec
    assert (spec.name, spec.dim, spec.input_px, spec.interpolation) == ("plip", 512, 224, "bicubic")
    assert spec.mean == (0.48145466, 0.4578275, 0.40821073)
    assert spec.std == (0.26862954, 0.26130258, 0.27577711)
    assert spec.weights_sha256 == file_sha256(reference.folder / "model.safetensors")
    assert (spec.precision, spec.has_text, spec.normalised, spec.untrained) == ("float32", True, False, False)


@pytest.fixture(scope="module")
def network(reference: Reference) -> Any:
    """The bare network, filled; tests that change it fill it again or change it back."""
    model = openclip.new_clip(plip.ARCHITECTURE).eval()
    plip.fill(model, reference.folder / "model.safetensors")
    return model


@torch.inference_mode()
def test_plain_gelu_would_be_seen(encoder: TorchEncoder, reference: Reference, network: Any) -> None:
    """The first silent mistake: it loads, and the comparison above fails on it."""
    pixels = normalised(reference.images, encoder.spec, torch.device("cpu"))
    assert np.abs(unit(network.encode_image(pixels)) - reference.image_vectors).max() < 1e-5
    blocks = network.visual.transformer.resblocks
    quick = [block.mlp.gelu for block in blocks]
    for block in blocks:
        block.mlp.gelu = torch.nn.GELU()
    assert np.abs(unit(network.encode_image(pixels)) - reference.image_vectors).max() > 1e-4
    for block, gelu in zip(blocks, quick, strict=True):
        block.mlp.gelu = gelu


@torch.inference_mode()
def test_untransposed_text_projection_would_be_seen(reference: Reference, network: Any) -> None:
    """The second silent mistake: the matrix is square, so it loads."""
    tokens = openclip.bpe_tokenizer(77)(PROMPTS)
    assert np.abs(unit(network.encode_text(tokens)) - reference.text_vectors).max() < 1e-5
    right = network.text_projection.clone()
    network.text_projection.copy_(right.T)
    assert np.abs(unit(network.encode_text(tokens)) - reference.text_vectors).max() > 0.1
    network.text_projection.copy_(right)


def test_one_checkpoint_in_every_layout(reference: Reference, network: Any, tmp_path: Path) -> None:
    """pytorch_model.bin with the position_ids of old, and open_clip's naming, fill the network with the same bytes."""
    tensors = read_tensors(reference.folder / "model.safetensors")
    assert len(tensors) == 398
    for tower, length in (("text", 77), ("vision", 50)):
        tensors[f"{tower}_model.embeddings.position_ids"] = torch.arange(length)[None]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    converted = hf_clip.to_open_clip(tensors)
    save_file(converted, tmp_path / "plip.safetensors")
    assert len(tensors) == 400 and len(converted) == 302
    for name in ("pytorch_model.bin", "plip.safetensors"):
        plip.fill(network, tmp_path / name)
        assert all(torch.equal(value, converted[key]) for key, value in network.state_dict().items()), name


def damaged(kind: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    changes: dict[str, Callable[[], Any]] = {
        "activation": lambda: config["vision_config"].update(hidden_act="gelu"),
        "activation in the old twin": lambda: config.update(text_config_dict={"hidden_act": "gelu"}),
        "patch": lambda: config["vision_config"].update(patch_size=16),
        "layers": lambda: config["text_config"].update(num_hidden_layers=6),
        "projection": lambda: config.update(projection_dim=256),
    }
    changes[kind]()
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", ["activation", "activation in the old twin", "patch", "layers", "projection"])
def test_a_config_of_another_network_is_refused(kind: str, reference: Reference, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((reference.folder / "config.json").read_text())
    hf_clip.check_config(tmp_path)
    damaged(kind, tmp_path)
    with pytest.raises(WeightsError, match="another network"):
        hf_clip.check_config(tmp_path)


def test_preparation_is_read_and_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    newer = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "image_mean": [0.5, 0.5, 0.5]}
    assert plip.check_preprocessing(tmp_path) == (plip._MEAN, plip._STD)
    path.write_text(json.dumps(newer))
    assert plip.check_preprocessing(tmp_path) == ((0.5, 0.5, 0.5), plip._STD)
    for change in ({"size": 336}, {"crop_size": {"height": 256, "width": 256}}, {"resample": 2}):
        path.write_text(json.dumps(newer | change))
        with pytest.raises(WeightsError, match="another preparation"):
            plip.check_preprocessing(tmp_path)


def test_an_open_clip_config_with_plain_gelu_is_refused(tmp_path: Path) -> None:
    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 512}}))
    with pytest.raises(WeightsError, match="without QuickGELU"):
        load_encoder("plip", weights=tmp_path)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 256), (512, 512), (300, 400), (200, 180), (227, 224)])
def test_preparation_equals_the_two_references(height: int, width: int, encoder: TorchEncoder) -> None:
    """open_clip bit for bit; transformers too but for its scale, 1/255 rounded before it is applied."""
    noise = np.random.default_rng(height).integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    ours = normalised(fit(np.asarray(image)[None], encoder.spec), encoder.spec, torch.device("cpu"))[0]
    import open_clip

    assert torch.equal(ours, open_clip.image_transform(224, is_train=False)(image))
    theirs = transformers.CLIPImageProcessorPil(**PREPROCESSOR)(image, return_tensors="pt")["pixel_values"][0]
    if (height, width) != (227, 224):  # of three rows too many two are cut at the top here, one there
        assert (ours - theirs).abs().max() <= 5e-7


def test_tokens_equal_those_of_transformers(tmp_path: Path) -> None:
    theirs = hf_tokenizer(tmp_path)
    ours = openclip.bpe_tokenizer(77)(PROMPTS)
    wanted = theirs(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="np")
    lengths = wanted["attention_mask"].sum(axis=1)
    for mine, other, length in zip(ours.numpy(), wanted["input_ids"], lengths, strict=True):
        assert mine[:length].tolist() == other[:length].tolist()  # beyond it: 0 here, end of text there; unseen
    assert openclip.bpe_tokenizer(77)(["H&amp;E ‘x’"]).tolist() == openclip.bpe_tokenizer(77)(["h&e 'x'"]).tolist()


def test_a_variant_of_plip_is_refused() -> None:
    with pytest.raises(UsageError, match="no variants"):
        load_encoder("plip:large")
