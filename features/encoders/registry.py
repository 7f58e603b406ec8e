"""Encoders by name, all through the entry-point group `features.encoders`: our own and those of other packages."""

from __future__ import annotations

from pathlib import Path

from features.encoders.request import EncoderRequest
from features.plugins import load_plugin, plugins
from features.spec import Encoder

GROUP = "features.encoders"


def load_encoder(
    name: str,
    *,
    weights: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    untrained: bool = False,
) -> Encoder:
    """The encoder called `name`, ready to encode: plip, demo, colour, open_clip:MODEL[:TAG], timm:MODEL, or a plug-in.

    `weights` is a file, a folder or a hub id, where the encoder takes one. `precision` is auto, float32, bfloat16 or
    float16; auto is float32 on a CPU and bfloat16 (float16 where that is not supported) on CUDA. `untrained` says that
    the weights are random; it is kept in the spec, so that no label is ever shown from them.
    Raises UsageError for an unknown name, SetupError for two packages with one name or a plug-in that fails to
    import, WeightsError for weights that are not to be had or do not fit.
    """
    family, _, argument = name.partition(":")
    load = load_plugin(GROUP, family, "encoder")
    encoder: Encoder = load(EncoderRequest(argument, weights, device, precision, untrained))
    return encoder


def available_encoders() -> list[tuple[str, str, str]]:
    """(name, distribution it comes from, one line on it) of every encoder, by name. Imports none of them."""
    return plugins(GROUP)
