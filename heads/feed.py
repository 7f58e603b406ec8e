"""Bags on their way into training: read once where they fit in memory, read ahead where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heads.bag import Bag, BagLike
from wsi.errors import UsageError

PART = 16_384  # tiles
KEEP_BYTES = 4 << 30  # of loaded bags kept in memory; what is beyond is read anew in every epoch

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of a bag's tiles, from which any set of bags has its mean and deviation."""

    n: int
    total: NDArray[np.float64]  # (D,)
    squares: NDArray[np.float64]  # (D,)


class Feed:
    """Loads bags by number. Used by one thread and its read-ahead; bags in memory are looked at, not copied."""

    def __init__(self, bags: Sequence[BagLike], keep_bytes: int = KEEP_BYTES) -> None:
        self.bags = bags
        self._room = keep_bytes
        self._kept: dict[int, NDArray[np.floating]] = {}
        self._moments: dict[int, Moments] = {}

    def array(self, i: int) -> NDArray[np.floating]:
        """(N, D) of bag `i`. Raises UsageError naming a bag that holds NaN or inf."""
        if i in self._kept:
            return self._kept[i]
        bag = self.bags[i]
        x = bag.load()
        if not isinstance(bag, Bag) and not np.isfinite(x).all():
            raise UsageError(f"The bag of {bag.slide_id!r} holds NaN or inf.", hint="Extract its features again.")
        if not isinstance(bag, Bag) and x.nbytes <= self._room:
            self._room -= x.nbytes
            self._kept[i] = x
        return x

    def scale(self, rows: Iterable[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation (D,) of every dimension over all tiles of the bags `rows`."""
        found = [self._moment(int(i)) for i in rows]
        n = sum(m.n for m in found)
        mean = np.sum([m.total for m in found], axis=0) / n
        variance = np.sum([m.squares for m in found], axis=0) / n - mean**2
        std = np.sqrt(np.maximum(variance, 0))
        # A dimension that does not vary beyond float32's own rounding carries nothing: it is centred, not blown up.
        return mean, np.where(std > 1e-6 * np.abs(mean), std, 1.0)

    def _moment(self, i: int) -> Moments:
        if i not in self._moments:
            x = self.array(i)
            total, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
            for start in range(0, len(x), PART):  # in float64, a part at a time: a bag may be of 200,000 tiles
                part = x[start : start + PART].astype(np.float64)
                total += part.sum(axis=0)
                squares += np.square(part).sum(axis=0)
            self._moments[i] = Moments(len(x), total, squares)
        return self._moments[i]


def tensors(arrays: Sequence[NDArray[np.floating]]) -> Tensor:
    """Bags one after another as one float32 tensor (sum of lengths, D)."""
    parts = [torch.from_numpy(np.require(a, requirements=["C", "W"])).float() for a in arrays]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def ahead(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """`map`, with the next result made in another thread while this one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        waiting: Future[Result] | None = None
        for job in jobs:
            following = pool.submit(function, job)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
