"""An interrupt that library code loses still ends the run."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from pipeline.console import RunConsole, open_console
from pipeline.interrupts import Interrupts

KINDS = [signal.SIGINT, signal.SIGTERM]


class Careless:
    def __del__(self) -> None:
        with contextlib.suppress(BaseException):  # as Python itself does, but without a warning
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_raises_at_once_and_handlers_are_put_back(kind: signal.Signals) -> None:
    before = [signal.getsignal(k) for k in KINDS]
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), kind)
    assert [signal.getsignal(k) for k in KINDS] == before


def test_a_lost_interrupt_ends_the_run_at_its_next_tiles() -> None:
    steps: list[int] = []

    def work() -> None:
        with Interrupts() as stop:
            watcher = RunConsole(open_console(), 1, stop.check)
            for step in range(4):
                steps.append(step)
                if step == 1:
                    Careless()
                watcher.tiles_done(1, 0.25)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == [0, 1]


def test_an_interrupt_lost_at_the_very_end_is_told_all_the_same() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        Careless()


def test_what_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
