"""One contract over both executors; a real Dask scheduler with workers in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import executor_tasks
import pytest

from pipeline.executor import DaskExecutor, Executor, SerialExecutor
from wsi.errors import SchedulerError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:distributed")


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.parametrize("executor", [SerialExecutor(), DaskExecutor(workers=2)], ids=["serial", "dask"])
def test_every_task_gives_its_own_result(executor: Executor) -> None:
    results = list(executor.map(executor_tasks.square, list(range(7))))
    assert sorted((task, result[0]) for task, result in results) == [(n, n * n) for n in range(7)]  # type: ignore[index]
    here = {result[1] == os.getpid() for _, result in results}  # type: ignore[index]
    assert here == {isinstance(executor, SerialExecutor)}


def test_a_worker_killed_once_costs_nothing(tmp_path: Path) -> None:
    markers = [str(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "b").touch()
    results = dict(DaskExecutor(workers=1).map(executor_tasks.die_once, markers))
    assert results == {markers[0]: "a", markers[1]: "b"}


def test_a_task_that_always_kills_its_worker_is_given_up_and_named() -> None:
    results = dict(DaskExecutor(workers=2).map(executor_tasks.die_always, ["one", "poison", "two"]))
    assert results["one"] == "one" and results["two"] == "two"
    assert isinstance(results["poison"], Exception)


def test_no_scheduler_is_a_sentence() -> None:
    with pytest.raises(SchedulerError, match="no Dask scheduler answers"):
        list(DaskExecutor(scheduler="tcp://127.0.0.1:9", connect_s=0.5).map(executor_tasks.square, [1]))
