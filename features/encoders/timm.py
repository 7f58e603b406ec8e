"""Any backbone of timm, images only: timm:resnet50.a1_in1k, timm:hf-hub:OWNER/NAME or timm:local-dir:DIR."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from features.encoders import compute, hub
from features.encoders.images import check_interpolation, square, triple
from features.encoders.request import EncoderRequest
from features.encoders.torch_clip import TorchEncoder, Towers, image_dim
from features.encoders.torchvision_ops import import_torchvision
from features.encoders.weights import building, load_strictly, read_tensors, reading, tensors_sha256
from features.spec import EncoderSpec
from wsi.errors import UsageError, WeightsError

import_torchvision()

import timm  # noqa: E402


@dataclass(frozen=True, slots=True)
class Source:
    """Where a backbone and its weights come from."""

    model: str  # a name timm knows, or local-dir:DIR
    weights: Path | None  # None: drawn at random


def load(request: EncoderRequest) -> TorchEncoder:
    """A timm backbone without its classifier: pooled features, with its own input size, mean, std and interpolation.

    Its evaluation crop (`crop_pct`) is left out: a tile is seen whole. Raises UsageError for a name timm does not
    know, WeightsError for weights that are not to be had or do not fit.
    """
    chosen = compute.resolve(request.device, request.precision)
    source = _source(request)
    model = _create(source.model)
    sha256 = _fill(model, source.weights) if source.weights else tensors_sha256(model.state_dict())
    prepare = timm.data.resolve_model_data_config(model)
    side = square(prepare["input_size"][1:])
    spec = EncoderSpec(
        name=f"timm:{request.argument}",
        dim=image_dim(model.eval(), side),
        input_px=side,
        mean=triple(prepare["mean"]),
        std=triple(prepare["std"]),
        interpolation=check_interpolation(prepare["interpolation"]),
        normalised=False,
        weights_sha256=sha256,
        precision=chosen.precision,
        has_text=False,
        untrained=request.untrained,
    )
    return TorchEncoder(spec, Towers(compute.ready(model, chosen)), chosen)


def _source(request: EncoderRequest) -> Source:
    scheme, _, place = request.argument.partition(":")
    if scheme in ("hf-hub", "local-dir"):
        folder = hub.snapshot(place) if scheme == "hf-hub" else Path(place)
        name, fetched = f"local-dir:{folder}", folder
    else:
        _check_known(request.argument)
        name, fetched = request.argument, None
    if request.weights is not None:
        return Source(name, hub.given_file(Path(request.weights)))
    if request.untrained:
        return Source(name, None)
    return Source(name, hub.weight_file(fetched) if fetched else _from_hub(name))


def _check_known(name: str) -> None:
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "Such as timm:resnet50.a1_in1k."
        raise UsageError(f"timm has no model '{name}'.", hint=hint)
    architecture, _, tag = name.partition(".")
    known = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        raise UsageError(f"timm has no weights '{tag}' for {architecture}.", hint=f"Known are: {', '.join(known)}.")


def _from_hub(name: str) -> Path:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or config.custom_load:
        raise WeightsError(f"timm names no weights on the hub for {name}.", hint="Give a file with --weights.")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else hub.WEIGHT_FILES[-2:]
    return hub.weight_file(hub.snapshot(config.hf_hub_id, names), names)


def _create(name: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]), building(name):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=0)


def _fill(model: torch.nn.Module, path: Path) -> str:
    """Loads a classifier's weights without its last layer, strictly; timm itself would let tensors be missing."""
    sha256 = hub.checked_sha256(path)
    tensors = read_tensors(path)
    for name in _classifiers(model):
        for kind in ("weight", "bias"):
            tensors.pop(f"{name}.{kind}", None)
    # By timm's convention the function that renames a family's older checkpoints sits beside its class.
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    with reading(path):
        renamed = rename(tensors, model) if rename else tensors
    load_strictly(model, renamed, path)
    return sha256


def _classifiers(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
