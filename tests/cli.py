"""Running `wsi` in a process of its own, as users do."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ENV = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent), "HF_HUB_OFFLINE": "1"}


def wsi(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`wsi words...`, without a network."""
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ENV, cwd=cwd)


def digests(out: Path, pattern: str = "features/*.zarr/**/*") -> dict[str, str]:
    """SHA-256 of every file of every feature grid, or of other files in the folders of slides."""
    files = sorted(p for p in out.glob(f"slides/*/{pattern}") if p.is_file())
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
