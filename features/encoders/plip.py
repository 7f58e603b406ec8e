"""PLIP, a CLIP ViT-B/32 trained on 208,414 pathology images and their captions (vinid/plip); 512-d, with text."""

# Huang et al., A visual-language foundation model for pathology image analysis, Nature Medicine 2023,
# doi 10.1038/s41591-023-02504-3. Its weights are licensed for research only.

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from features.encoders import compute, hf_clip, hub, openclip
from features.encoders.images import triple
from features.encoders.request import EncoderRequest, refuse_argument
from features.encoders.torch_clip import TorchEncoder
from features.encoders.weights import load_strictly, read_tensors, tensors_sha256
from features.spec import EncoderSpec
from wsi.errors import WeightsError

REPO = "vinid/plip"
ARCHITECTURE: dict[str, Any] = {  # open_clip's ViT-B-32-quickgelu
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
_INPUT_PX = 224
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3  # PIL's number for it, which preprocessor_config.json uses


def load(request: EncoderRequest) -> TorchEncoder:
    """PLIP from a hub id, a folder in that layout, or one weight file in transformers' or open_clip's naming.

    Raises WeightsError if weights are not to be had, are damaged, or are those of another network. A configuration
    with plain GELU is refused: its tensors would load, and give other vectors.
    """
    refuse_argument("plip", request)
    chosen = compute.resolve(request.device, request.precision)
    model = openclip.new_clip(ARCHITECTURE)
    path = None if request.untrained and request.weights is None else hub.find(request.weights, REPO)
    mean, std = check_preprocessing(path.parent) if path else (_MEAN, _STD)
    spec = EncoderSpec(
        name="plip",
        dim=512,
        input_px=_INPUT_PX,
        mean=mean,
        std=std,
        interpolation="bicubic",
        normalised=False,
        weights_sha256=fill(model, path) if path else tensors_sha256(model.state_dict()),
        precision=chosen.precision,
        has_text=True,
        untrained=request.untrained,
    )
    return openclip.clip_encoder(model, openclip.bpe_tokenizer(77), spec, chosen)


def fill(model: torch.nn.Module, path: Path) -> str:
    """Loads a file in either naming, converted and strictly; gives the file's SHA-256. Raises WeightsError."""
    sha256 = hub.checked_sha256(path)
    tensors = read_tensors(path)
    if hf_clip.is_hf(tensors):
        hf_clip.check_config(path.parent)
        tensors = hf_clip.to_open_clip(tensors)
    else:
        _check_open_clip_config(path.parent)
    load_strictly(model, tensors, path)
    return sha256


def _check_open_clip_config(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    if path.is_file() and not (hub.read_json(path).get("model_cfg") or {}).get("quick_gelu", False):
        raise WeightsError(
            f"{path} describes a network without QuickGELU, which PLIP has.",
            hint="Load it as open_clip:local-dir:DIR.",
            path=str(path),
        )


def check_preprocessing(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of preprocessor_config.json, or PLIP's own. Raises WeightsError for another size or resampling."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return _MEAN, _STD
    config = hub.read_json(path)
    sizes = {_side(config.get(key, _INPUT_PX)) for key in ("size", "crop_size")}
    if sizes != {_INPUT_PX} or config.get("resample", _BICUBIC) != _BICUBIC:
        raise WeightsError(
            f"{path} asks for another preparation of images than bicubic to {_INPUT_PX} px.",
            hint="Give PLIP's own preprocessor_config.json, or none.",
            path=str(path),
        )
    return triple(config.get("image_mean", _MEAN)), triple(config.get("image_std", _STD))


def _side(size: Any) -> Any:
    """Old files have a number, newer ones {"shortest_edge": n} or {"height": n, "width": n}."""
    return max(size.values()) if isinstance(size, dict) and size else size
