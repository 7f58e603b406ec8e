"""What a caller asks of an encoder's loader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi.errors import UsageError


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """The one argument of every loader behind the entry-point group `features.encoders`."""

    argument: str = ""  # what follows the first colon of the name: "ViT-B-32:laion2b_s34b_b79k"
    weights: Path | str | None = None  # a file, a folder or a hub id; None: the encoder's own source
    device: str = "auto"  # auto: cuda where there is one, else cpu; or a device as torch names it
    precision: str = "auto"  # auto: float32 on a CPU, bfloat16 (or float16) on CUDA
    untrained: bool = False  # the weights are random: those given, or drawn with seed 0 if none are


def refuse_argument(name: str, request: EncoderRequest) -> None:
    """For encoders without variants. Raises UsageError if something follows the colon."""
    if request.argument:
        raise UsageError(
            f"The encoder {name} has no variants, but '{name}:{request.argument}' was asked for.",
            hint=f"Ask for '{name}'.",
        )


def images_only(name: str) -> UsageError:
    """What an encoder without a text tower answers to words."""
    return UsageError(f"The encoder {name} knows images only.", hint="Words need one with a text tower, such as plip.")


def first_line(error: Exception) -> str:
    """What a foreign exception says, as the end of a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") + "." if lines else f"{type(error).__name__}."
