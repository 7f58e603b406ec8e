"""One contract over all executors; a real Dask scheduler with workers in processes of their own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import executor_tasks
import pytest

from pipeline.executor import DaskExecutor, Executor, SerialExecutor
from pipeline.lanes import LaneExecutor
from wsi.errors import SchedulerError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:distributed")


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.parametrize(
    "executor", [SerialExecutor(), LaneExecutor(3), DaskExecutor(workers=2)], ids=["serial", "lanes", "dask"]
)
def test_every_task_gives_its_own_result(executor: Executor) -> None:
    results = list(executor.map(executor_tasks.square, list(range(7))))
    assert sorted((task, result[0]) for task, result in results) == [(n, n * n) for n in range(7)]  # type: ignore[index]
    here = {result[1] == os.getpid() for _, result in results}  # type: ignore[index]
    assert here == {not isinstance(executor, DaskExecutor)}


def test_a_worker_killed_once_costs_nothing(tmp_path: Path) -> None:
    markers = [str(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "b").touch()
    results = dict(DaskExecutor(workers=1).map(executor_tasks.die_once, markers))
    assert results == {markers[0]: "a", markers[1]: "b"}


def test_a_task_that_always_kills_its_worker_is_given_up_and_named() -> None:
    results = dict(DaskExecutor(workers=2).map(executor_tasks.die_always, ["one", "poison", "two"]))
    assert results["one"] == "one" and results["two"] == "two"
    assert isinstance(results["poison"], Exception)


def test_innocents_that_share_a_worker_with_poison_survive() -> None:
    from distributed import LocalCluster

    tasks = [f"innocent {n}" for n in range(9)]
    tasks.insert(2, "poison")
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster:
        results = dict(DaskExecutor(scheduler=cluster.scheduler_address).map(executor_tasks.die_always, tasks))
    assert isinstance(results.pop("poison"), Exception)
    assert results == {task: task for task in tasks if task != "poison"}


def test_gpus_are_a_resource_that_two_tasks_share() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address=":0", resources={"GPU": 1}) as cluster:
        executor = DaskExecutor(scheduler=cluster.scheduler_address)
        results = dict(executor.map(executor_tasks.company, list(range(6))))
    assert max(results.values()) == 2  # type: ignore[type-var]


def test_a_worker_that_cannot_work_ends_the_run_with_its_reason() -> None:
    with pytest.raises(SchedulerError, match="No module named 'ours'"):
        list(DaskExecutor(workers=1).map(executor_tasks.import_trouble, ["ours"]))


def test_workers_that_join_later_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first task cannot end before a second worker, started after it, has one too."""
    from distributed import LocalCluster

    monkeypatch.setattr("pipeline.executor.LOOK_AGAIN_S", 0.2)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        executor = DaskExecutor(scheduler=cluster.scheduler_address)
        ended = executor.map(executor_tasks.here_for, [str(tmp_path / name) for name in "ab"])
        joining = threading.Thread(target=_joined, args=(cluster, tmp_path))
        joining.start()
        results = [result for _, result in ended]
        joining.join()
    assert len({pid for _, pid in results}) == 2  # type: ignore[misc]


def _joined(cluster: Any, folder: Path) -> None:
    while not list(folder.glob("*.pid")):
        time.sleep(0.01)
    cluster.scale(2)


def test_no_scheduler_is_a_sentence() -> None:
    with pytest.raises(SchedulerError, match="no Dask scheduler answers"):
        list(DaskExecutor(scheduler="tcp://127.0.0.1:9", connect_s=0.5).map(executor_tasks.square, [1]))
