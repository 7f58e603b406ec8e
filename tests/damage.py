"""Planted damage: ways to harm the files of a finished run, and what `wsi verify` finds then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from features.manifest import write_manifest
from pipeline.audit.findings import Finding
from pipeline.audit.folder import Audit
from pipeline.output import OutputFolder
from pipeline.seal import sealed_json

EXCEPT = ("report.html", ".lock")  # made from all else; holds nothing


def found_in(out: Path, *, slides: bool = False) -> list[Finding]:
    """All findings of a folder."""
    folder = OutputFolder(out)
    with folder.unchanging(), Audit.of(folder, slides=slides) as audit:
        return [f for slide_id in audit.ids() for f in audit.slide(slide_id)] + list(audit.folder())


def found_near(out: Path, path: Path) -> list[Finding]:
    """Findings of the slide that a file belongs to, or of the folder itself."""
    folder, parts = OutputFolder(out), path.relative_to(out).parts
    with Audit.of(folder) as audit:
        return audit.slide(parts[1]) if parts[0] == "slides" else list(audit.folder())


def artefacts(out: Path) -> list[Path]:
    """Every file that a run wrote, in one order, but for what is no artefact of record."""
    return sorted(path for path in out.rglob("*") if path.is_file() and path.name not in EXCEPT)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def flip_middle(path: Path) -> None:
    flip(path, path.stat().st_size * 4)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """The file as it was, afterwards."""
    whole = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(whole)


def relist(grid: Path) -> None:
    """The list of a grid's files as it would be if they had been written so."""
    shutil.rmtree(grid / "manifest")
    write_manifest(grid)


def rewrite(grid: Path, array: str, change: Callable[[np.ndarray], None]) -> None:
    """Changes an array of a grid as its writer might have, every digest in order."""
    stored = zarr.open_array(grid / array, mode="r+")
    values = np.array(stored[...])
    change(values)
    stored[...] = values
    relist(grid)


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a sealed JSON file as its writer might have."""
    content = json.loads(path.read_bytes())
    content.pop("seal")
    change(content)
    path.write_text(sealed_json(content, indent=1) + "\n")
