"""Weight files: read without running anything in them, checked against what the network expects."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from features.encoders.request import first_line
from wsi.errors import WeightsError

Tensors = dict[str, torch.Tensor]


def read_tensors(path: Path) -> Tensors:
    """Named tensors of a .safetensors file, or of a PyTorch one read with `weights_only=True`.

    Training checkpoints are unwrapped (`state_dict`, and the prefix `module.` of data-parallel training).
    Raises WeightsError for a file that is missing, damaged, holds code, or holds anything but tensors.
    """
    with reading(path):
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no set of named tensors.", hint="Give a model's weight file.", path=str(path))
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _load_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises on how to load what it then refuses
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turns what torch, safetensors and their users raise over a bad file at `path` into WeightsError."""
    try:
        yield
    except FileNotFoundError as error:
        raise WeightsError(f"There is no weight file {path}.", path=str(path)) from error
    except UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors: {first_line(error)}",
            hint="Nothing in it was run. Ask its source for a .safetensors file.",
            path=str(path),
        ) from error
    except (SafetensorError, RuntimeError, EOFError, LookupError, ValueError, TypeError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights: {first_line(error)}",
            hint="Fetch it again: it may have been cut short.",
            path=str(path),
        ) from error


@contextmanager
def building(name: str) -> Iterator[None]:
    """Turns what open_clip and timm raise while they set up `name` into WeightsError."""
    try:
        yield
    except (RuntimeError, LookupError, ValueError, TypeError, OSError) as error:
        raise WeightsError(
            f"The network {name} cannot be set up: {first_line(error)}",
            hint="If it needs files from the hub, load it once with internet, or point HF_HOME at a cache with them.",
        ) from error


def load_strictly(model: torch.nn.Module, tensors: Tensors, source: Path) -> None:
    """Fills `model` with exactly its tensors, all finite. Raises WeightsError that names what differs."""
    differences = _differences(model.state_dict(), tensors)
    if differences:
        raise WeightsError(
            f"{source} does not fit the network: {'; '.join(differences)}.",
            hint="Give the weights of this very architecture.",
            path=str(source),
        )
    check_finite(tensors, source)
    model.load_state_dict(tensors)


def check_finite(tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Raises WeightsError if any value is NaN or infinite."""
    # A sum is finite only if every term is, and costs a twentieth of looking at each.
    broken = [n for n, t in tensors.items() if t.is_floating_point() and not t.sum(dtype=torch.float32).isfinite()]
    if broken:
        raise WeightsError(
            f"{source} is damaged: NaN or infinite values in {_some(broken)}.", hint="Fetch it again.", path=str(source)
        )


def _differences(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    # Counters of batch norm, of no use after training; old files lack them, and torch fills them in.
    missing = sorted(n for n in expected.keys() - given.keys() if not n.endswith("num_batches_tracked"))
    unexpected = sorted(given.keys() - expected.keys())
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    said = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    return [f"{len(names)} {what} ({_some(names)})" for what, names in said if names]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes: the identity of weights that no file holds."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
