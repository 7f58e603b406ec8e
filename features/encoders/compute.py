"""Where and in which precision a network runs, and how rows come out the same whatever the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi.errors import SetupError, UsageError

BLOCK = 8
"""Rows of one forward pass on a CPU; divides `features.spec.ROW_BLOCK`. As fast as larger ones (ViT-B/32, 8.7-9.0
images per CPU-second at 4 to 32 rows), and a single query image costs eight, not thirty-two."""

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and the type that weights and activations have on it."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")


def resolve(device: str, precision: str) -> Compute:
    """`auto` made definite. Raises UsageError for unknown words, SetupError for a device this machine lacks."""
    chosen = _device(device)
    return Compute(chosen, _dtype(chosen, precision))


def ready(model: Any, compute: Compute) -> Any:
    """A filled network, to be used only: on its device, in its precision. Channels last is as tiles lie in memory,
    and what convolutions like (the demo encoder gains a half on a CPU, ResNet-50 a tenth, a ViT nothing)."""
    return model.eval().requires_grad_(False).to(compute.device, compute.dtype, memory_format=torch.channels_last)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"'{name}' is not a device.", hint="Use auto, cpu, cuda, cuda:1 or mps.") from error
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= present.get(device.type, 0):
        raise SetupError(f"This machine has no device '{name}' that PyTorch can use.", hint="Use --device cpu.")
    return device


def _dtype(device: torch.device, precision: str) -> torch.dtype:
    if precision != "auto":
        if precision not in _PRECISIONS:
            known = ", ".join(_PRECISIONS)
            raise UsageError(f"'{precision}' is not a precision.", hint=f"Use auto, {known}.")
        return _PRECISIONS[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def map_blocks(embed: Callable[[NDArray[Any]], NDArray[np.float32]], rows: NDArray[Any]) -> NDArray[np.float32]:
    """`embed` over blocks of `BLOCK` rows on the CPU, as many at a time as torch has threads; at least one row.

    Sums in a matrix product are ordered by its shape and by its number of threads. Here every forward pass has BLOCK
    rows (the last block is filled up with zeros) and one thread, so a row's bytes depend on its pixels alone, not on
    the batch size, the machine's load or the number of workers.
    """
    blocks = [_filled(rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)]
    with _one_thread_per_operation() as threads, ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(embed, blocks)))[: len(rows)]


def _filled(rows: NDArray[Any]) -> NDArray[Any]:
    if len(rows) == BLOCK:
        return rows
    full = np.zeros((BLOCK, *rows.shape[1:]), rows.dtype)
    full[: len(rows)] = rows
    return full


@contextmanager
def _one_thread_per_operation() -> Iterator[int]:
    """Gives the number of threads torch had, and has it back at the end; new Python threads start with one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
