"""What makes two things the same: digests of settings, fingerprints of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SAMPLE_BYTES = 1 << 16
_SAMPLES = 16


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


def fingerprint(paths: Iterable[Path]) -> str:
    """Tells a slide from its replacement: name, length and 16 evenly spaced samples (head and tail among them).

    `paths` are all files of the slide, the main one first. Reads at most 1 MiB a file, whatever its length, so that
    a folder of thousands is cheap. Modification times are left out: copies change them, and clocks differ.
    A single flipped byte between the samples goes unseen; the whole-file hash of `file_sha256` sees it.
    """
    sha = hashlib.sha256()
    for path in paths:
        length = path.stat().st_size
        sha.update(os.fsencode(path.name) + f"\0{length}\0".encode())  # names of files need not be UTF-8
        with open(path, "rb") as f:
            for i in range(_SAMPLES):
                f.seek(max(0, (length - _SAMPLE_BYTES) * i // (_SAMPLES - 1)))
                sha.update(f.read(_SAMPLE_BYTES))
                if length <= _SAMPLE_BYTES:
                    break
    return sha.hexdigest()
