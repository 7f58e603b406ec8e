"""What happens in a run as JSON lines, for schedulers and other programs that watch it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TextIO

from pipeline.console import RunConsole
from pipeline.ledger import Outcome

PROGRESS_S = 10.0  # at most one line of progress in this time


def write_event(stream: TextIO, event: str, facts: Mapping[str, Any]) -> None:
    """One line: the time, the event and its facts. At once, whole."""
    told = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **facts}
    stream.write(json.dumps(told) + "\n")
    stream.flush()


class EventLog:
    """Watches a run: writes an event a line, and tells the console the same. From any thread.

    `run` with the number of `slides`; `started` with a slide's `name` and `tiles`; once it is over, its status as the
    event (`done`, `reused`, `no tissue`, `refused`, `crashed`, `stopped`) with all that the ledger holds of it;
    `progress` with what `RunConsole.progress` gives; in the end, from the command, `end` with the exit `code`. Slides
    in other processes tell their end only.
    """

    def __init__(self, console: RunConsole, stream: TextIO) -> None:
        self._console, self._stream = console, stream
        self._lock, self._told = threading.Lock(), time.monotonic()
        self._write("run", {"slides": console.slides})

    def slide_started(self, name: str, tiles: int) -> None:
        self._write("started", {"name": name, "tiles": tiles})
        self._console.slide_started(name, tiles)

    def tiles_done(self, count: int, share: float) -> None:
        self._console.tiles_done(count, share)
        if time.monotonic() - self._told > PROGRESS_S:
            self._told = time.monotonic()
            self._write("progress", self._console.progress())

    def slide_ended(self, outcome: Outcome, counted: bool) -> None:
        self._write(outcome.status, asdict(outcome))
        self._console.slide_ended(outcome, counted)

    def others_at_work(self, slides: dict[str, int]) -> None:
        self._console.others_at_work(slides)

    def _write(self, event: str, facts: Mapping[str, Any]) -> None:
        with self._lock:
            write_event(self._stream, event, facts)
