"""Slides side by side in one process: who goes first, what ends with the run, and the same bytes as one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cli import digests

from pipeline.config import load_config
from pipeline.console import RunConsole, open_console
from pipeline.executor import Executor, SerialExecutor
from pipeline.lanes import LaneExecutor, Stopped, Turns
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.zeroshot import default_prompts
from wsi.svs import SvsSpec, write_svs


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...


def test_tasks_run_side_by_side_and_results_come_as_they_are_ready() -> None:
    second_done = threading.Event()

    def work(task: int) -> int:
        if task == 0:
            assert second_done.wait(20)  # ends only if the next one runs beside it
        else:
            second_done.set()
        return -task

    assert list(LaneExecutor(2).map(work, [0, 1])) == [(1, -1), (0, 0)]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()])
def test_an_exception_ends_the_run_in_the_callers_thread_and_the_other_lane_at_its_next_batch(
    error: BaseException,
) -> None:
    executor, at_work, ends = LaneExecutor(2), threading.Event(), []
    watcher = executor.watched(Quiet())

    def work(task: int) -> None:
        if task == 0:
            assert at_work.wait(20)
            raise error
        at_work.set()
        try:
            while True:
                watcher.tiles_done(1, 0.5)
        except Stopped:
            ends.append(task)
            raise

    with pytest.raises(type(error)):
        list(executor.map(work, [0, 1, 2]))
    assert ends == [1]  # and task 2 never began


def test_results_that_nobody_wants_any_more_end_the_lanes() -> None:
    executor, begun = LaneExecutor(2), []

    def work(task: int) -> int:
        begun.append(task)
        return task

    results = executor.map(work, list(range(100_000)))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) < 100_000
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]


def test_of_those_who_wait_the_first_goes_first() -> None:
    turns, order = Turns(), []
    threads: list[threading.Thread] = []

    def take(number: int) -> None:
        with turns.turn(number):
            order.append(number)

    with turns.turn(0):
        for number in (5, 3, 9, 1):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) < len(threads):
                pass
    for thread in threads:
        thread.join(20)
    assert order == [1, 3, 5, 9]


def test_a_turn_that_fails_is_given_on() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="ours"), turns.turn(1):
        raise ValueError("ours")
    with turns.turn(2):
        pass


def test_a_run_in_lanes_has_the_bytes_of_one_by_one(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for seed in range(60, 65):
        drawn = draw(recipe(seed, "benign", width_um=500.0, height_um=400.0, mpp=0.5, pieces=1, pen=None))
        write_svs(slides / f"{seed}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    (slides / "bad.svs").write_bytes(b"II*\0 cut off")
    config = load_config(settings=["encoder.name=demo"])

    def job(out: Path) -> Run:
        return Run(tuple(entries_from([slides])), OutputFolder(out), config, default_prompts("", "demo"))

    def run(executor: Executor, out: Path) -> dict[str, str]:
        console = RunConsole(open_console(), 6)
        outcomes = job(out).outcomes(executor, console)
        assert console._completed() == 6
        return {o.slide_id: o.status for o in outcomes}

    found: list[tuple[dict[str, str], dict[str, str]]] = []
    makers: list[Callable[[], Executor]] = [SerialExecutor, lambda: LaneExecutor(3)]
    for number, make in enumerate(makers):
        out = tmp_path / str(number)
        ended = run(make(), out)
        files = digests(out) | digests(out, "heatmaps/*.png") | digests(out, "zeroshot.json")
        assert {Path(name).suffix for name in files} >= {".png", ".json"}
        found.append((ended, files))
    assert found[0] == found[1]
    assert sorted(found[0][0].values()) == ["done"] * 5 + ["refused"]
