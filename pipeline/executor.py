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
    from distributed import Client, Future

    from pipeline.slidejob import Watcher

Task = TypeVar("Task")
Result = TypeVar("Result")

LOOK_AGAIN_S = 5.0  # how often a run looks whether workers have joined
PER_ENCODER = 2  # slides at a time
DEATHS = 2  # of local workers until the tasks they had are suspected; a scheduler elsewhere has its own number


class Executor(Protocol):
    """Runs one function over many tasks; results come as they are ready, each with its task.

    A function that works in this process is given the watcher that `watched` makes of the run's.

    The function is expected to turn its own failures into results. An exception in place of a result means that the
    executor lost the task: its worker died more often than is tried again.
    """

    def watched(self, watcher: Watcher) -> Watcher | None:
        """What tells of progress inside a slide; None where slides are done in other processes."""
        ...

    def map(
        self, function: Callable[[Task], Result], tasks: list[Task]
    ) -> Iterator[tuple[Task, Result | Exception]]: ...


class SerialExecutor:
    """One after another, here."""

    def watched(self, watcher: Watcher) -> Watcher:
        return watcher

    def map(self, function: Callable[[Task], Result], tasks: list[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        for task in tasks:
            yield task, function(task)


@dataclass(frozen=True, slots=True)
class DaskExecutor:
    """On `workers` local processes, or on the cluster whose scheduler answers at `scheduler`.

    Only tasks and outcomes travel; pixels and features never leave their worker. A worker has as many tasks as it has
    threads, at most two: its encoder is one, see `pipeline.lanes`. Where workers declare a resource GPU, two tasks go
    to each GPU and none to workers without. Dask blames a worker's death on every task it held: those it gives up for
    that are tried once more, each alone.
    """

    workers: int = 0
    scheduler: str = ""
    connect_s: float = 15.0  # how long a scheduler may take to answer

    def watched(self, watcher: Watcher) -> None:
        return None

    def map(self, function: Callable[[Task], Result], tasks: list[Task]) -> Iterator[tuple[Task, Result | Exception]]:
        with self._client() as client:
            suspects: list[Task] = []
            for task, result in self._worked(client, function, tasks, alone=False):
                if isinstance(result, Exception):
                    suspects.append(task)
                else:
                    yield task, result
            yield from self._worked(client, function, suspects, alone=True)

    def _worked(
        self, client: Client, function: Callable[[Task], Result], tasks: list[Task], *, alone: bool
    ) -> Iterator[tuple[Task, Result | Exception]]:
        waiting = iter(tasks)
        running: dict[Future, Task] = {}
        while True:
            # Workers may join a cluster while it is at work: their room is counted anew each time round.
            room, needs = _room(client)
            for _, task in zip(range((1 if alone else room) - len(running)), waiting, strict=False):
                # pure=False: the slide is to be worked on again even if Dask has seen the same task before
                running[client.submit(function, task, pure=False, resources=needs)] = task
            if not running:
                return
            for future in self._ended(list(running)):
                yield running.pop(future), self._result(future)

    def _ended(self, running: list[Future]) -> list[Future]:
        """Those that have ended, after a while at most; none may have."""
        from distributed import CancelledError, wait

        try:
            ended = list(wait(running, timeout=LOOK_AGAIN_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []
        except CancelledError:
            raise self._lost() from None
        if any(future.cancelled() or future.status == "lost" for future in ended):
            raise self._lost()
        return ended

    def _result(self, future: Future) -> Any:
        """What the function gave; KilledWorker where its workers died under it."""
        from distributed import KilledWorker

        error = future.exception()
        if error is None or isinstance(error, KilledWorker):
            return error or future.result()
        raise SchedulerError(
            f"{self.scheduler or 'local cluster'}: a worker cannot do the work ({type(error).__name__}: {error}).",
            hint="Every worker needs this version of the toolkit and the same paths: mend that, then run again.",
        )

    @contextmanager
    def _client(self) -> Iterator[Client]:
        import dask
        from distributed import Client, LocalCluster

        try:
            with _quiet(), dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1}):
                target: Any = self.scheduler or LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
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


def _room(client: Client) -> tuple[int, dict[str, float] | None]:
    """How many tasks all workers take together, at least one, and what of a worker's resources each of them needs."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    gpus = sum(int(worker["resources"].get("GPU", 0) * PER_ENCODER) for worker in workers)
    if gpus:
        return gpus, {"GPU": 1 / PER_ENCODER}
    return max(1, sum(min(worker["nthreads"], PER_ENCODER) for worker in workers)), None


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
