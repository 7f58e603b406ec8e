"""All files of a slide together, wherever they are: how many bytes, and what tells them from others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wsi import identity
from wsi.location import Location


def fingerprint(files: Iterable[Location]) -> str:
    """64 hex digits that change when a slide is replaced: see `wsi.identity.fingerprint` and `wsi.remote.fingerprint`.

    Raises OSError where a file cannot be read, SlideError where a remote one cannot.
    """
    files = list(files)
    here = [file for file in files if isinstance(file, Path)]
    if len(here) == len(files):
        return identity.fingerprint(here)
    if len(files) > 1:
        raise ValueError("a slide of several files lies on one machine, or its reader tells one URL")
    from wsi import remote

    return remote.fingerprint(files[0])  # type: ignore[arg-type]


def count_bytes(files: Iterable[Path], enough: int) -> int:
    """Length of all files together, folders with all that is in them; counting ends at `enough`."""
    total = 0
    for file in _below(files):
        total += file.stat().st_size
        if total >= enough:
            break
    return total


def _below(files: Iterable[Path]) -> Iterator[Path]:
    for file in files:
        if file.is_dir():
            yield from _below(file.iterdir())
        else:
            yield file
