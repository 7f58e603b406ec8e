"""What an encoder is: the facts that make two sets of features comparable, and the calls everyone relies on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """All that a feature depends on besides the pixels. Every field is part of the identity of features."""

    name: str  # plip, demo, colour, open_clip:ViT-B-32:laion2b_s34b_b79k, timm:resnet50.a1_in1k
    dim: int  # D of an embedding
    input_px: int  # side of the square the network sees; tiles of another size are resized to it
    mean: tuple[float, float, float]  # per channel, on pixels scaled to 0..1
    std: tuple[float, float, float]
    interpolation: str  # of that resize: bicubic, bilinear or none
    normalised: bool  # True if encode_* give unit vectors; the encoders here do not
    weights_sha256: str  # of the weight file as loaded; "" where there is none to load (colour)
    precision: str  # float32, bfloat16 or float16: what the forward pass computed in
    has_text: bool  # encode_texts works
    untrained: bool = False  # random weights, said by the user: no label is ever shown from them
    domain: str = ""  # what it knows, if not histology at large: "synthetic tissue only"


@runtime_checkable
class Encoder(Protocol):
    """Pixels or words to vectors of one space. One per process and device; calls from several threads take turns."""

    spec: EncoderSpec
    logit_scale: float  # natural log of the temperature's inverse: p = softmax(exp(logit_scale) * cosine)

    def encode_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) RGB -> float32 (B, D), not normalised.

        On a CPU a row depends on its own pixels and on its place in blocks of `ROW_BLOCK` rows only, so callers that
        start batches at multiples of ROW_BLOCK get the same bytes whatever the batch size or number of threads.
        """
        ...

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """T sentences -> float32 (T, D), not normalised. Raises UsageError if `spec.has_text` is False."""
        ...


ROW_BLOCK = 32
