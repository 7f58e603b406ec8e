"""Functions that worker processes run in the executor's tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def square(n: int) -> tuple[int, int]:
    return n * n, os.getpid()


def die_once(marker: str) -> str:
    """Kills its own process the first time it is called for a marker."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def die_always(name: str) -> str:
    if name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return name
