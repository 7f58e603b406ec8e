"""Encoders by name, and one contract that all of them keep."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from features import plugins as plugin_module
from features.encoders import available_encoders, load_encoder, registry
from features.encoders.compute import BLOCK
from features.spec import ROW_BLOCK, Encoder
from wsi.errors import SetupError, ToolkitError, UsageError, WeightsError
from wsi.identity import digest

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP in a folder that open_clip itself can load, with a preparation of its own."""
    from features.encoders import openclip

    folder = tmp_path_factory.mktemp("tiny")
    prepare = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": prepare}))
    torch.manual_seed(3)
    drawn = openclip.new_clip(TINY).state_dict()
    tensors = {name: torch.randn_like(t) * 0.1 + (t.ndim == 1 and name.endswith("weight")) for name, t in drawn.items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module", params=["colour", "demo", "timm:test_resnet", "open_clip:local-dir"])
def encoder(request: pytest.FixtureRequest, tiny: Path) -> Encoder:
    name = request.param
    if name == "open_clip:local-dir":
        return load_encoder(f"{name}:{tiny}")
    return load_encoder(name, untrained=name.startswith("timm"))


def tiles(count: int, side: int = 64) -> NDArray[np.uint8]:
    rng = np.random.default_rng(count * 1000 + side)
    return rng.integers(0, 256, (count, side, side, 3), np.uint8)


# The contract


def test_images_become_rows(encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    rows = encoder.encode_images(tiles(3))
    assert rows.dtype == np.float32 and rows.shape == (3, encoder.spec.dim)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() < 60_000  # float16 keeps them
    assert len(np.unique(rows, axis=0)) == 3
    assert encoder.encode_images(tiles(0)).shape == (0, encoder.spec.dim)


def test_blank_tiles_give_finite_rows(encoder: Encoder) -> None:
    blank = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)])
    assert np.isfinite(encoder.encode_images(blank)).all()


def test_a_row_depends_on_its_pixels_only(encoder: Encoder) -> None:
    """Not on the batch it comes in, nor on the number of threads."""
    pixels = tiles(100)
    whole = encoder.encode_images(pixels)
    before = torch.get_num_threads()
    try:
        for threads, size in ((1, 32), (2, 64), (2, 96)):
            torch.set_num_threads(threads)
            parts = [encoder.encode_images(pixels[i : i + size]) for i in range(0, 100, size)]
            assert np.array_equal(np.concatenate(parts), whole), (threads, size)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(encoder.encode_images(pixels[41:42]), whole[41:42])
    assert ROW_BLOCK % BLOCK == 0


def test_any_memory_layout_will_do(encoder: Encoder) -> None:
    """Strided, or not to be written to: a memory map's tiles are taken as they are."""
    pixels = tiles(BLOCK, encoder.spec.input_px)
    backwards, frozen = np.ascontiguousarray(pixels[::-1])[::-1], pixels.copy()
    frozen.flags.writeable = False
    for same in (backwards, frozen):
        assert np.array_equal(encoder.encode_images(same), encoder.encode_images(pixels))


def test_words_become_rows_or_are_refused(encoder: Encoder) -> None:
    if not encoder.spec.has_text:
        with pytest.raises(UsageError, match="images only"):
            encoder.encode_texts(["stroma"])
        return
    rows = encoder.encode_texts(["stroma", "tumour", "word " * 500, ""])
    assert rows.dtype == np.float32 and rows.shape == (4, encoder.spec.dim) and np.isfinite(rows).all()
    assert np.array_equal(encoder.encode_texts(["tumour"]), rows[1:2])
    assert encoder.encode_texts([]).shape == (0, encoder.spec.dim)


def test_the_spec_is_an_identity(encoder: Encoder) -> None:
    assert len(digest(encoder.spec)) == 64
    assert encoder.spec.precision == "float32" and not encoder.spec.normalised
    assert encoder.spec.name == "colour" or len(encoder.spec.weights_sha256) == 64


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 8, 8, 4), np.uint8)]
)
def test_what_is_no_batch_of_tiles_is_refused(encoder: Encoder, wrong: NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="uint8"):
        encoder.encode_images(wrong)


# Names


def entry(name: str, value: str, dist: str) -> EntryPoint:
    made = EntryPoint(name, value, registry.GROUP)
    vars(made)["dist"] = SimpleNamespace(name=dist)
    return made


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder on the path, whose modules `good` and `broken` are registered beside our own encoders."""
    (tmp_path / "good.py").write_text('"""Counts things.\n\nMore."""\nseen = []\ndef load(r):\n    return r\n')
    (tmp_path / "broken.py").write_text('"""Breaks."""\nimport no_such_package_at_all\n')
    monkeypatch.syspath_prepend(tmp_path)
    own = list(plugin_module.entry_points(group=registry.GROUP))
    extra = [
        entry("good", "good:load", "lab-a"),
        entry("broken", "broken:load", "lab-b"),
        entry("absent", "no_such_module_here:load", "lab-b"),
        entry("empty", "good:nothing", "lab-b"),
        entry("plip", "good:load", "lab-c"),
    ]
    monkeypatch.setattr(plugin_module, "entry_points", lambda group: [*own, *extra])
    yield tmp_path
    for name in ("good", "broken"):
        sys.modules.pop(name, None)


def test_a_plugin_gets_the_whole_request(plugins: Path) -> None:
    request: Any = load_encoder("good:a:b", weights="w", device="d", precision="p", untrained=True)
    assert (request.argument, request.weights, request.device) == ("a:b", "w", "d")
    assert (request.precision, request.untrained) == ("p", True)


@pytest.mark.parametrize(("name", "cause"), [("broken", "no_such_package_at_all"), ("empty", "nothing")])
def test_a_plugin_that_fails_to_import_is_named(plugins: Path, name: str, cause: str) -> None:
    with pytest.raises(SetupError, match=cause) as caught:
        load_encoder(name)
    assert "lab-b" in str(caught.value)


def test_a_name_of_two_packages_is_refused(plugins: Path) -> None:
    with pytest.raises(SetupError, match="lab-c") as caught:
        load_encoder("plip")
    assert "wsi-toolkit" in str(caught.value)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'plip'") as caught:
        load_encoder("plib")
    assert "colour, demo, open_clip, plip, timm" in str(caught.value)


def test_listing_describes_all_and_runs_none(plugins: Path) -> None:
    listed = {(name, origin): line for name, origin, line in available_encoders()}
    assert listed["good", "lab-a"] == "Counts things."
    assert listed["broken", "lab-b"] == "Breaks."
    assert "cannot be imported" in listed["absent", "lab-b"]
    assert "vinid/plip" in listed["plip", "wsi-toolkit"]
    assert "synthetic tissue only" in listed["demo", "wsi-toolkit"]
    assert "good" not in sys.modules and "broken" not in sys.modules


def test_listing_loads_no_torch() -> None:
    code = (
        "import sys; from features.encoders import available_encoders; assert len(available_encoders()) >= 5;"
        "print([m for m in ('torch', 'open_clip', 'timm', 'skimage', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Each family


def test_open_clip_is_what_open_clip_gives(tiny: Path) -> None:
    """Its own loader, transform and tokenizer as the reference, on tiles that must be resized."""
    from PIL import Image

    from features.encoders import openclip

    ours = load_encoder(f"open_clip:local-dir:{tiny}")
    with openclip._own_logging():
        model, prepare = openclip.open_clip.create_model_from_pretrained(f"local-dir:{tiny}")
        words = openclip.open_clip.get_tokenizer(f"local-dir:{tiny}")(["lymphocytes", "a b"])
    model.eval()
    pixels = tiles(5, 50)
    with torch.inference_mode():
        images = model.encode_image(torch.stack([prepare(Image.fromarray(p)) for p in pixels])).numpy()
        texts = model.encode_text(words).numpy()
    assert np.allclose(ours.encode_images(pixels), images, rtol=1e-5, atol=1e-6)
    assert np.allclose(ours.encode_texts(["lymphocytes", "a b"]), texts, rtol=1e-5, atol=1e-6)
    assert (ours.spec.input_px, ours.spec.interpolation, ours.spec.mean) == (32, "bilinear", (0.5, 0.4, 0.3))


def test_timm_is_what_timm_gives_without_its_classifier(tmp_path: Path) -> None:
    from features.encoders import timm as family

    torch.manual_seed(5)
    model: Any = family.timm.create_model("resnet10t", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    ours = load_encoder("timm:resnet10t", weights=tmp_path)
    pixels = tiles(3, ours.spec.input_px)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (ours.spec.mean, ours.spec.std))
    with torch.inference_mode():
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        wanted = model.forward_head(model.forward_features(x), pre_logits=True).numpy()
    assert np.allclose(ours.encode_images(pixels), wanted, rtol=1e-4, atol=1e-5)
    tensors = {k: v for k, v in model.state_dict().items() if k != "conv1.0.weight"}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing \(conv1.0.weight\)"):
        load_encoder("timm:resnet10t", weights=tmp_path)


def test_random_weights_are_drawn_alike_and_said(tiny: Path) -> None:
    torch.manual_seed(11)
    first = load_encoder(f"open_clip:local-dir:{tiny}", untrained=True)
    torch.manual_seed(12)
    again = load_encoder(f"open_clip:local-dir:{tiny}", untrained=True)
    given = load_encoder(f"open_clip:local-dir:{tiny}", untrained=True, weights=tiny)
    assert first.spec == again.spec and first.spec.untrained and given.spec.untrained
    assert first.spec.weights_sha256 != given.spec.weights_sha256


def test_auto_is_resolved_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from features.encoders import compute

    assert compute.resolve("cpu", "auto") == compute.Compute(torch.device("cpu"), torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert compute.resolve("auto", "auto") == compute.Compute(torch.device("cuda"), dtype)
    assert compute.resolve("cuda:1", "float32") == compute.Compute(torch.device("cuda:1"), torch.float32)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_kept_in_the_spec(tiny: Path, precision: str) -> None:
    full = load_encoder(f"open_clip:local-dir:{tiny}").encode_images(tiles(4))
    lower = load_encoder(f"open_clip:local-dir:{tiny}", precision=precision)
    assert lower.spec.precision == precision
    rows = lower.encode_images(tiles(4))
    assert rows.dtype == np.float32 and not np.array_equal(rows, full)
    assert (np.sum(rows * full, 1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(full, axis=1) > 0.999).all()


@pytest.mark.parametrize(
    ("name", "settings", "kind", "said"),
    [
        ("timm:resnet10t", {"precision": "float8"}, UsageError, "not a precision"),
        ("timm:resnet10t", {"device": "gpu"}, UsageError, "not a device"),
        ("timm:resnet10t", {"device": "cuda:63"}, SetupError, "has no device"),
        ("timm:resnet10x", {}, UsageError, "resnet10t"),
        ("timm:resnet50.nobody", {}, UsageError, "a1_in1k"),
        ("timm:resnet10t", {"weights": "no/such/file"}, WeightsError, "no weight file"),
        ("open_clip:", {}, UsageError, "needs a model"),
        ("open_clip:ViT-B-33", {}, UsageError, "ViT-B-32"),
        ("open_clip:ViT-B-32", {}, WeightsError, "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32:openai", {}, UsageError, "ViT-B-32-quickgelu:openai"),
        ("open_clip:ViT-B-32:laion3b", {}, UsageError, "laion2b"),
        ("open_clip:RN50:openai", {"weights": "w.bin"}, UsageError, "Leave one out"),
        ("open_clip:local-dir:/no/such/folder", {}, WeightsError, "open_clip_config.json"),
        ("open_clip:hf-hub:a/b/c", {}, WeightsError, "a/b/c"),
        ("colour:pale", {}, UsageError, "no variants"),
        ("colour", {"weights": "w.bin"}, UsageError, "no weights"),
        ("colour", {"precision": "bfloat16"}, UsageError, "float32"),
        ("demo", {"weights": "w.bin"}, UsageError, "ships with"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(
    name: str, settings: dict[str, str], kind: type[ToolkitError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        load_encoder(name, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "encoder.batch_size"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore"), "illegal memory access"),
    ],
)
def test_what_the_device_refuses_is_not_the_slides_fault(tiny: Path, refusal: Exception, told: str) -> None:
    """On the device "meta", which takes the way of a GPU and can be had everywhere."""
    from features.encoders.compute import Compute
    from features.encoders.torch_clip import TorchEncoder, Towers

    def image(_: torch.Tensor) -> torch.Tensor:
        raise refusal

    spec = load_encoder(f"open_clip:local-dir:{tiny}").spec
    failing = TorchEncoder(spec, Towers(image), Compute(torch.device("meta"), torch.float32))
    with pytest.raises(SetupError, match=told):
        failing.encode_images(tiles(2, spec.input_px))
