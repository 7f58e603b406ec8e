"""Where the bytes of a slide come from, for readers that decode them themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class ByteSource(Protocol):
    """A file of any place, safe to use from several threads. `wsi.remote.RemoteBytes` is the other one."""

    def pread(self, n_bytes: int, offset: int) -> bytes:
        """The bytes from `offset` on; fewer than `n_bytes` at the end of the file."""
        ...

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Tells what will be read next: first byte, and the one after the last, of each range."""
        ...

    def close(self) -> None:
        """Gives the file back. Calling it twice does no harm."""
        ...


class LocalBytes:
    """A file of this machine, whose kernel reads ahead by itself."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def pread(self, n_bytes: int, offset: int) -> bytes:
        return os.pread(self._file, n_bytes, offset)

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None: ...

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
