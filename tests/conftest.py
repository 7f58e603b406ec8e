"""What all tests share: the real slides, where they are present, and a Ctrl-C that is heard."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Shells start what runs in the background with SIGINT ignored, and so would everything it starts."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Gives the path of a real file by its name below the data folder, or skips the test and says which file."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"real data not present: {relative}")
        return path

    return find
