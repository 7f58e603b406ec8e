"""`wsi doctor`: is this machine fit for a run? One line for each thing that runs have failed on."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import ToolkitError


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok` is None for a plain fact, False for something to mend; `hint` says how."""

    what: str
    found: str
    ok: bool | None = True
    hint: str = ""


def examine(folder: Path, encoder: str = "plip") -> Iterator[Finding]:
    """All findings, quick ones first. `folder` is where output would go."""
    yield from _guarded("python", _python)
    yield from _guarded("packages", _packages)
    yield from _guarded("openslide library", _readers)
    yield from _guarded("device", _device)
    yield from _guarded(f"disk at {folder}", lambda: _disk(folder))
    yield from _guarded("memory for tiles", _shared_memory)
    yield from _guarded(f"weights of {encoder}", lambda: _weights(encoder))


def _guarded(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except ToolkitError as error:
        yield Finding(what, error.message, False, error.hint)
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(
            what, f"{type(error).__name__}: {error}", False, "Install the toolkit anew with its constraints.txt."
        )


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{sys.version.split()[0]}, {os.cpu_count()} cores", sys.version_info >= (3, 11))


def _packages() -> Iterator[Finding]:
    names = ("torch", "torchvision", "open_clip_torch", "zarr", "dask", "openslide-python", "tiffslide", "scikit-image")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    yield Finding("packages", versions, None)


def _readers() -> Iterator[Finding]:
    import openslide

    yield Finding("openslide library", openslide.__library_version__)
    yield Finding("slides", "SVS, NDPI, MRXS, SCN, BIF, DICOM, TIFF, OME-TIFF, OME-Zarr, PNG, JPEG, BMP", None)
    packages = {"https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
    missing = {scheme: name for scheme, name in packages.items() if importlib.util.find_spec(name) is None}
    there = ", ".join(f"{scheme}://" for scheme in packages if scheme not in missing) or "none"
    hint = " ".join(f"For {scheme}:// install {name}." for scheme, name in missing.items())
    yield Finding("slides by URL", there, None, hint)


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield Finding("device", f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} of them")
    else:
        yield Finding("device", f"cpu only, {torch.get_num_threads()} threads", None, "A GPU encodes PLIP far faster.")


def _disk(folder: Path) -> Iterator[Finding]:
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    yield Finding(f"disk at {folder}", f"{free:.1f} GB free", free > 1, "Features take about 1 kB a tile at 512-d.")
    yield Finding(
        f"write to {folder}", "allowed" if os.access(existing, os.W_OK) else "not allowed", os.access(existing, os.W_OK)
    )


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free / 1e6
    yield Finding(
        f"memory for tiles at {folder}", f"{free:.0f} MB free", free > 100, "Give the container more /dev/shm."
    )


def _weights(encoder: str) -> Iterator[Finding]:
    from features import load_encoder

    spec = load_encoder(encoder, device="cpu").spec
    note = f", {spec.domain}" if spec.domain else ""
    yield Finding(
        f"weights of {encoder}", f"found, {spec.dim}-d, sha256 {spec.weights_sha256[:12] or 'none needed'}{note}"
    )
