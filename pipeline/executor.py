"""Where slides are worked on: in this process, in local worker processes, or on a Dask cluster. Same bytes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from wsi.errors import SchedulerError

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs one function over many tasks; results come as they are ready, each with its task.

    The function is expected to turn its own failures into results. An exception in place of a result means that the
    executor lost the task: its worker died more often than is tried again.
    """

    def map(
        self, function: Callable[[Task], Result], tasks: list[Task]
    ) -> Iterator[tuple[Task, Result | Exception]]: ...


class SerialExecutor:
    """One after another, here."""

    def map(self, function: Callable[[Task], Result], tasks: list[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        for task in tasks:
            yield task, function(task)


@dataclass(frozen=True, slots=True)
class DaskExecutor:
    """On `workers` local processes, or on the cluster whose scheduler answers at `scheduler`.

    Only tasks and outcomes travel; pixels and features never leave their worker. Each worker has one task at a time:
    Dask blames a worker's death on every task it holds, and a run that has to stop leaves little behind.
    """

    workers: int = 0
    scheduler: str = ""
    connect_s: float = 15.0  # how long a scheduler may take to answer

    def map(self, function: Callable[[Task], Result], tasks: list[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        from distributed import as_completed

        with self._client() as client:
            waiting, running = iter(tasks), as_completed(raise_errors=False)
            task_of: dict[Any, Task] = {}

            def submit(count: int) -> None:
                for _, task in zip(range(count), waiting, strict=False):
                    # pure=False: the slide is to be worked on again even if Dask has seen the same task before
                    future = client.submit(function, task, pure=False)
                    task_of[future.key] = task
                    running.add(future)

            submit(max(1, self.workers or len(client.scheduler_info()["workers"])))
            for future in running:
                if future.cancelled() or future.status == "lost":
                    raise self._lost()
                yield task_of.pop(future.key), future.exception() or future.result()
                submit(1)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        from distributed import Client, LocalCluster

        try:
            with _quiet():
                target: Any = self.scheduler or LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    dashboard_address=None,
                    env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.workers))},
                )
                client = Client(target, timeout=self.connect_s)
        except (OSError, TimeoutError, ValueError) as error:
            raise SchedulerError(
                f"{self.scheduler or 'local cluster'}: no Dask scheduler answers there ({error}).",
                hint="Check the address given to --scheduler, or use --workers N on this machine.",
            ) from None
        try:
            yield client
        finally:
            with _quiet():
                client.close()
                if not self.scheduler:
                    target.close()

    def _lost(self) -> SchedulerError:
        return SchedulerError(
            f"{self.scheduler or 'local cluster'}: the Dask scheduler went away during the run.",
            hint="Finished slides are kept: start it again and repeat the same command.",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log lines about workers coming and going are for its developers, not for a person with slides."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
