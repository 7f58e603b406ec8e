"""Functions that worker processes run in the executor's tests."""

from __future__ import annotations

import os
import signal
import threading
import time
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


def import_trouble(name: str) -> str:
    """What a worker without the toolkit says."""
    raise ModuleNotFoundError(f"No module named '{name}'")


def here_for(marker: str) -> tuple[str, int]:
    """Waits until two processes are at work, at most 60 s; says which one this is."""
    folder = Path(marker).parent
    (folder / f"{os.getpid()}.pid").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return marker, os.getpid()


def die_always(name: str) -> str:
    if name == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


_AT_WORK: list[int] = []
_CHANGED = threading.Condition()


def company(n: int) -> int:
    """How many tasks were at work in this process at most while this one was; waits up to 2 s for company."""
    with _CHANGED:
        _AT_WORK.append(n)
        _CHANGED.notify_all()
        _CHANGED.wait_for(lambda: len(_AT_WORK) > 1, timeout=2)
        seen = len(_AT_WORK)
    time.sleep(0.05)
    with _CHANGED:
        seen = max(seen, len(_AT_WORK))
        _AT_WORK.remove(n)
    return seen
