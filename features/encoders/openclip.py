"""Any model of open_clip: open_clip:MODEL:TAG, open_clip:hf-hub:OWNER/NAME or open_clip:local-dir:DIR; with text."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from features.encoders import compute, hub
from features.encoders.images import check_interpolation, square, triple
from features.encoders.request import EncoderRequest
from features.encoders.torch_clip import TextTower, TorchEncoder, Towers, image_dim
from features.encoders.torchvision_ops import import_torchvision
from features.encoders.weights import building, check_finite, reading, tensors_sha256
from features.spec import EncoderSpec
from wsi.errors import SetupError, UsageError, WeightsError

import_torchvision()

import open_clip  # noqa: E402

# open_clip is not typed.
Network = Any  # torch.nn.Module with encode_image, encode_text, logit_scale, context_length
Tokenizer = Any  # list[str] -> int64 (T, context)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model and its weights come from."""

    model: str  # a built-in name, or local-dir:DIR
    weights: Path | None  # None: drawn at random
    settings: dict[str, Any]  # what open_clip records of a tag: mean, std, interpolation, quick_gelu


def load(request: EncoderRequest) -> TorchEncoder:
    """An open_clip model with its own input size, mean, std, tokenizer and weights, a tag's or `request.weights`.

    Raises UsageError for a model or tag that open_clip does not know, and for a tag trained with another activation
    than the model's; WeightsError for weights that are not to be had or do not fit.
    """
    chosen = compute.resolve(request.device, request.precision)
    source = _source(request)
    model = _create(source)
    prepare = {**open_clip.get_model_preprocess_cfg(model), **source.settings}
    sha256 = _fill(model, source.weights) if source.weights else tensors_sha256(model.state_dict())
    side = square(prepare["size"])
    spec = EncoderSpec(
        name=f"open_clip:{request.argument}",
        dim=image_dim(model.eval().encode_image, side),
        input_px=side,
        mean=triple(prepare["mean"]),
        std=triple(prepare["std"]),
        interpolation=check_interpolation(prepare["interpolation"]),
        normalised=False,
        weights_sha256=sha256,
        precision=chosen.precision,
        has_text=True,
        untrained=request.untrained,
    )
    return clip_encoder(model, _tokenizer(source.model), spec, chosen)


def _source(request: EncoderRequest) -> Source:
    if not request.argument:
        raise UsageError("open_clip needs a model.", hint="Such as open_clip:ViT-B-32:laion2b_s34b_b79k.")
    scheme, _, place = request.argument.partition(":")
    if scheme == "hf-hub":
        return _from_folder(hub.snapshot(place), request)
    if scheme == "local-dir":
        return _from_folder(Path(place), request)
    return _from_name(scheme, place, request)


def _from_folder(folder: Path, request: EncoderRequest) -> Source:
    if not (folder / "open_clip_config.json").is_file():
        raise WeightsError(
            f"{folder} has no open_clip_config.json.",
            hint="A CLIP in transformers' layout loads as plip.",
            path=str(folder),
        )
    if request.weights is None and request.untrained:
        return Source(f"local-dir:{folder}", None, {})
    return Source(f"local-dir:{folder}", hub.given_file(Path(request.weights or folder)), {})


def _from_name(name: str, tag: str, request: EncoderRequest) -> Source:
    config = open_clip.get_model_config(name)
    if config is None:
        raise _unknown("model", name, open_clip.list_models())
    if not tag:
        return Source(name, _given_or_random(name, request), {})
    if request.weights:
        raise UsageError(f"Both the tag {tag} and --weights {request.weights} were given.", hint="Leave one out.")
    settings = open_clip.get_pretrained_cfg(name, tag)
    if not settings:
        raise _unknown(f"tag of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    if bool(settings.get("quick_gelu")) != bool(config.get("quick_gelu")):
        raise UsageError(
            f"The weights {tag} were trained with another activation than {name} has.",
            hint=f"Use {name.removesuffix('-quickgelu') if config.get('quick_gelu') else name + '-quickgelu'}:{tag}.",
        )
    repo, _, file = settings["hf_hub"].rpartition("/")
    names = (Path(file).with_suffix(".safetensors").name, file) if file else hub.WEIGHT_FILES
    return Source(name, hub.weight_file(hub.snapshot(repo, names), names), _preparation(settings))


def _preparation(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("mean", "std", "interpolation") if settings.get(key)}


def _given_or_random(name: str, request: EncoderRequest) -> Path | None:
    if request.weights is not None:
        return hub.given_file(Path(request.weights))
    if not request.untrained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise WeightsError(
            f"open_clip:{name} names no weights.",
            hint=f"Add a tag after a second colon (known: {tags}), or give a file with --weights.",
        )
    return None


def _unknown(what: str, name: str, known: list[str]) -> UsageError:
    close = get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Known are: {', '.join(known)}."
    return UsageError(f"open_clip has no {what} '{name}'.", hint=hint)


def _create(source: Source) -> Network:
    """The network with weights drawn with seed 0; nothing is downloaded for it but a text tower's description."""
    with torch.random.fork_rng(devices=[]), _own_logging(), building(source.model):
        torch.manual_seed(0)
        return open_clip.create_model(source.model, load_weights=False, pretrained_text=False)


def _fill(model: Network, path: Path) -> str:
    sha256 = hub.checked_sha256(path)
    with _own_logging(), reading(path):
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    check_finite(model.state_dict(), path)
    return sha256


def _tokenizer(model: str) -> Tokenizer:
    try:
        with _own_logging(), building(model):
            return open_clip.get_tokenizer(model)
    except ImportError as error:
        raise SetupError(f"The tokenizer of {model} needs a package: {error}.", hint="Install transformers.") from error


@contextmanager
def _own_logging() -> Iterator[None]:
    """open_clip logs through the root logger, which would set itself up to write to stderr if it has no handler."""
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(silence)


def new_clip(config: dict[str, Any]) -> Network:
    """A CLIP of open_clip's by its configuration, with weights drawn with seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(**config)


def bpe_tokenizer(context: int) -> Tokenizer:
    """CLIP's byte-pair tokenizer; sentences beyond `context` tokens are cut. Cleans text as open_clip does."""
    return open_clip.SimpleTokenizer(context_length=context)


def clip_encoder(model: Network, tokenizer: Tokenizer, spec: EncoderSpec, chosen: compute.Compute) -> TorchEncoder:
    """A filled network, moved to its device and precision, as an encoder."""
    logit_scale = float(model.logit_scale.detach())
    network = compute.ready(model, chosen)
    text = TextTower(tokenizer, network.encode_text, logit_scale)
    return TorchEncoder(spec, Towers(network.encode_image, text), chosen)
