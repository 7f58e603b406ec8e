"""What makes two things the same: digests of settings, fingerprints of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

_SAMPLE_BYTES = 1 << 16
_SAMPLES = 16
_PART_BYTES = 1 << 20
_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata")


def plain(value: Any) -> Any:
    """Dataclasses, paths, tuples and sets as JSON knows them. A dataclass keeps its class name, under `kind`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} has no place in an identity")


def canonical_json(value: Any) -> str:
    """One text per meaning: sorted keys, no spaces, shortest exact floats, NaN refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*specs: Any) -> str:
    """SHA-256 (64 hex digits) over *all* fields of the given specs; a new field changes it without being listed."""
    return hashlib.sha256(canonical_json(specs).encode(errors="surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a whole file, 64 hex digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def streamed_sha256(path: Path, go_on: Callable[[], bool] = lambda: True) -> str:
    """SHA-256 of all bytes of a file, or of a folder: names, lengths and bytes of all that is in it. "" if stopped.

    Reads 1 MiB at a time, and before each asks whether to `go_on`.
    """
    sha = hashlib.sha256()
    for file in _all_below(path):
        if file != path:
            sha.update(os.fsencode(file.relative_to(path)) + f"\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as f:
            while go_on() and (part := f.read(_PART_BYTES)):
                sha.update(part)
    return sha.hexdigest() if go_on() else ""


def _all_below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            yield from _all_below(path / entry.name)


def fingerprint(paths: Iterable[Path]) -> str:
    """Tells a slide from its replacement: name, length and 16 evenly spaced samples (head and tail among them).

    `paths` are all files of the slide, the main one first. Reads at most 1 MiB a file, whatever its length, so that
    a folder of thousands is cheap. Modification times are left out: copies change them, and clocks differ.
    A single flipped byte between the samples goes unseen; the whole-file hash of `file_sha256` sees it.

    A folder in place of a file (an OME-Zarr, of chunks by the thousand) goes by the names and lengths of a sample of
    what is in it, its metadata among them, and by the first 64 KiB of that metadata and of 16 chunks.
    """
    sha = hashlib.sha256()
    for path in paths:
        sha.update(os.fsencode(path.name) + b"\0")  # names of files need not be UTF-8
        if path.is_dir():
            _add_folder(sha, path)
        else:
            _add_file(sha, path, _SAMPLES)
    return sha.hexdigest()


def _add_file(sha: hashlib._Hash, path: Path, samples: int) -> None:
    length = path.stat().st_size
    sha.update(f"{length}\0".encode())
    with open(path, "rb") as f:
        for i in range(samples):
            f.seek(max(0, (length - _SAMPLE_BYTES) * i // max(1, samples - 1)))
            sha.update(f.read(_SAMPLE_BYTES))
            if length <= _SAMPLE_BYTES:
                break


def _add_folder(sha: hashlib._Hash, folder: Path) -> None:
    sampled = list(_sample(folder))
    chunks = [path for path in sampled if not _is_metadata(path.name)]
    read = {chunks[i] for i in _spread(len(chunks))} | set(sampled).difference(chunks)
    for path in sampled:
        sha.update(os.fsencode(path.relative_to(folder)) + f"\0{path.stat().st_size}\0".encode())
        if path in read:
            _add_file(sha, path, 1)


def _sample(folder: Path) -> Iterator[Path]:
    """Files in `folder` and below: all metadata, and 16 evenly spaced of the other entries of every folder visited."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    others = [entry for entry in found if not entry.name.startswith(".") and not _is_metadata(entry.name)]
    chosen = {others[i].name for i in _spread(len(others))}
    for entry in found:
        if not (_is_metadata(entry.name) or entry.name in chosen):
            continue
        if entry.is_dir():
            yield from _sample(folder / entry.name)
        else:
            yield folder / entry.name


def _spread(count: int) -> list[int]:
    """16 indices below `count`, evenly spaced with both ends; all of them where there are no more."""
    return sorted({i * (count - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)}) if count else []


def _is_metadata(name: str) -> bool:
    return name in _ZARR_METADATA
