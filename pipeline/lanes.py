"""Some slides at a time in this process, so that the encoder never waits for the next one to be opened.

While one slide is encoded, the next is opened, searched for tissue and read; while it is written and drawn, the next
is encoded. The encoder is one: it takes the slide that began first, so that slides end one after another.
"""

from __future__ import annotations

import heapq
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.slidejob import Watcher

Task = TypeVar("Task")
Result = TypeVar("Result")

PATIENCE_S = 5.0  # for lanes to end their batch once the run is over; what still waits for storage then is left


class Stopped(BaseException):
    """Ends a lane at its next batch; no slide's fault, so that nothing catches it."""


@dataclass(frozen=True, slots=True)
class LaneExecutor:
    """`lanes` slides at a time, each in a thread. Results come as they are ready, in the caller's thread."""

    lanes: int = 2
    _over: threading.Event = field(default_factory=threading.Event)

    def watched(self, watcher: Watcher) -> Watcher:
        """The same, for the threads: it ends a slide whose run is over."""
        return _UntilOver(watcher, self._over)

    def map(self, function: Callable[[Task], Result], tasks: list[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        waiting, ended = iter(tasks), queue.SimpleQueue[tuple[Task, Result | BaseException]]()
        taking = threading.Lock()
        self._over.clear()

        def work() -> None:
            while not self._over.is_set():
                with taking:
                    task = next(waiting, None)
                if task is None:
                    return
                try:
                    ended.put((task, function(task)))
                except BaseException as error:  # raised in the caller's thread
                    ended.put((task, error))
                    return

        threads = [threading.Thread(target=work, name=f"lane-{n}", daemon=True) for n in range(self.lanes)]
        for thread in threads:
            thread.start()
        try:
            for _ in tasks:
                task, result = ended.get()
                if isinstance(result, BaseException):
                    raise result
                yield task, result
        finally:
            self._over.set()
            for thread in threads:
                thread.join(PATIENCE_S)


@dataclass(frozen=True, slots=True)
class _UntilOver:
    watcher: Watcher
    over: threading.Event

    def slide_started(self, name: str, tiles: int) -> None:
        self._check()
        self.watcher.slide_started(name, tiles)

    def tiles_done(self, count: int, share: float) -> None:
        self._check()
        self.watcher.tiles_done(count, share)

    def _check(self) -> None:
        if self.over.is_set():
            raise Stopped


class Turns:
    """One at a time, the lowest number first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[int] = []
        self._taken = False

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Waits until nobody has the turn and no lower number waits for it."""
        with self._changed:
            heapq.heappush(self._waiting, number)
            self._changed.wait_for(lambda: not self._taken and self._waiting[0] == number)
            heapq.heappop(self._waiting)
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
