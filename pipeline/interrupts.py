"""Ctrl-C, and SIGTERM as schedulers send it: both end a run, at once or at its next step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_CODE = 130
SAID = "Interrupted. What is finished is kept: the same command continues."


class Interrupts:
    """While it is entered, SIGINT and SIGTERM raise KeyboardInterrupt, and are remembered.

    Python drops an exception that is raised in a destructor, and libraries catch what comes while they are imported:
    an interrupt at the wrong moment would be lost. So whoever works in steps asks `check` at each of them.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raises KeyboardInterrupt if one was asked for and got lost."""
        if self._asked:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        for kind in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(kind) != signal.SIG_IGN:  # as under nohup
                self._before[kind] = signal.signal(kind, self._raise)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.check()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt
