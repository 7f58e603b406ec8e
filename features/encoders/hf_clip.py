"""CLIP ViT-B/32 as `transformers` saves it, turned into open_clip's `ViT-B-32-quickgelu`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from features.encoders.hub import read_json
from features.encoders.weights import Tensors
from wsi.errors import WeightsError

_WHOLE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # the misspelling is the checkpoint's
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
# nn.Linear keeps (out, in); open_clip multiplies from the left with (in, out). The text one is square: a missed
# transpose would load without a word.
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_RENAMED = (
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("self_attn.out_proj.", "attn.out_proj."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)
_PROJECTION = re.compile(r"(.+\.)self_attn\.[qkv]_proj\.(weight|bias)")
_TEXT = {
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_VISION = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def is_hf(tensors: Tensors) -> bool:
    """True for the names `transformers` uses."""
    return "vision_model.embeddings.patch_embedding.weight" in tensors


def to_open_clip(tensors: Tensors) -> Tensors:
    """The same weights under open_clip's names: 398 tensors (400 with the old position_ids) become 302.

    A name that is not known is passed on as it is, for the strict load to report.
    """
    converted: Tensors = {}
    for name, tensor in tensors.items():
        if name in _TRANSPOSED:
            converted[_TRANSPOSED[name]] = tensor.T.contiguous()
        elif match := _PROJECTION.fullmatch(name):
            converted |= _joined(tensors, *match.groups())
        elif not name.endswith(".position_ids"):
            converted[_WHOLE.get(name) or _in_layer(name)] = tensor
    return converted


def _joined(tensors: Tensors, layer: str, kind: str) -> Tensors:
    """Query, key and value projections in one tensor, in this order; those there are, if one is missing."""
    names = [f"{layer}self_attn.{letter}_proj.{kind}" for letter in "qkv"]
    parts = [tensors[name] for name in names if name in tensors]
    return {f"{_in_layer(layer)}attn.in_proj_{kind}": torch.cat(parts)}


def _in_layer(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name


def check_config(folder: Path) -> None:
    """Raises WeightsError if the folder's config.json describes another network. No config.json: nothing to check.

    Numbers and the activation cannot all be told from the tensors: with plain GELU they load and give other vectors.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    config = read_json(path)
    wrong = [*_deviations(config, "text_config", _TEXT), *_deviations(config, "vision_config", _VISION)]
    if config.get("projection_dim", 512) != 512:
        wrong.append(f"projection_dim is {config['projection_dim']}, not 512")
    if wrong:
        raise WeightsError(
            f"{path} describes another network than CLIP ViT-B/32 with QuickGELU: {'; '.join(wrong)}.",
            hint="Load it as open_clip:MODEL with weights in open_clip's layout.",
            path=str(path),
        )


def _deviations(config: dict[str, Any], section: str, expected: dict[str, Any]) -> list[str]:
    # Absent keys stand for transformers' defaults, which are these values; the `_dict` twin, where old files have
    # one, wins there too.
    given = {**(config.get(section) or {}), **(config.get(f"{section}_dict") or {})}
    return [
        f"{section}.{key} is {given[key]!r}, not {value!r}"
        for key, value in expected.items()
        if given.get(key, value) != value
    ]
