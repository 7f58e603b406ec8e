"""The encoder every PyTorch network becomes: an image tower, and a text tower where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from features.encoders.compute import Compute, map_blocks
from features.encoders.images import check_pixels, fit, normalised
from features.encoders.request import images_only
from features.spec import EncoderSpec
from wsi.errors import SetupError

Tower = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class TextTower:
    """Words to vectors."""

    tokenize: Callable[[list[str]], torch.Tensor]  # T sentences -> int64 (T, context)
    embed: Tower  # int64 (T, context) -> (T, D)
    logit_scale: float  # see `features.spec.Encoder`


@dataclass(frozen=True, slots=True)
class Towers:
    """A network in evaluation mode, on its device and in its precision, as the calls that matter here."""

    image: Tower  # (B, 3, S, S) -> (B, D)
    text: TextTower | None = None


class TorchEncoder:
    """See `features.spec.Encoder`. On a CPU a row depends on its own pixels or words only."""

    def __init__(self, spec: EncoderSpec, towers: Towers, compute: Compute) -> None:
        self.spec = spec
        self.logit_scale = towers.text.logit_scale if towers.text else 0.0
        self._towers = towers
        self._compute = compute
        self._busy = Lock()  # torch's number of threads is one for the process: calls take turns

    def encode_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) RGB -> float32 (B, D), not normalised."""
        check_pixels(pixels)
        return self._run(self._embed_images, pixels)

    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """T sentences -> float32 (T, D), not normalised. Raises UsageError if there is no text tower."""
        text = self._text_tower()
        return self._run(self._embed_tokens, text.tokenize(texts).numpy() if texts else np.zeros((0, 1), np.int64))

    def _run(self, embed: Callable[[NDArray[Any]], NDArray[np.float32]], rows: NDArray[Any]) -> NDArray[np.float32]:
        if len(rows) == 0:
            return np.zeros((0, self.spec.dim), np.float32)
        device = self._compute.device
        with self._busy:
            if device.type == "cpu":
                return map_blocks(embed, rows)
            with _device_errors(device, len(rows)):
                return embed(rows)

    @torch.inference_mode()
    def _embed_images(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = normalised(fit(pixels, self.spec), self.spec, self._compute.device)
        return self._towers.image(x.to(self._compute.dtype)).float().cpu().numpy()

    @torch.inference_mode()
    def _embed_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        embed = self._text_tower().embed
        return embed(torch.from_numpy(tokens).to(self._compute.device)).float().cpu().numpy()

    def _text_tower(self) -> TextTower:
        if self._towers.text is None:
            raise images_only(self.spec.name)
        return self._towers.text


@contextmanager
def _device_errors(device: torch.device, rows: int) -> Iterator[None]:
    """What the accelerator refuses is the machine's fault, not the slide's: every later slide would meet it too."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SetupError(
            f"{device}: its memory does not hold {rows} rows at a time beside what else is there.",
            hint="Lower encoder.batch_size, free the device, or choose another with --device.",
        ) from error
    except torch.AcceleratorError as error:
        raise SetupError(
            f"{device}: the device failed ({str(error).strip().splitlines()[0]}).",
            hint="Start again with the same command: finished slides are kept. If it fails again, use --device cpu.",
        ) from error


@torch.inference_mode()
def image_dim(image: Tower, input_px: int) -> int:
    """D, by one pass of a float32 network on the CPU over a blank image: no two libraries keep it in one place."""
    return int(image(torch.zeros(1, 3, input_px, input_px)).shape[-1])
