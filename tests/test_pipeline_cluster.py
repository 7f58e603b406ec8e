"""A cluster as it is set up by hand: `dask scheduler` and `dask worker` as processes, which are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli import ENV, digests, wsi

from pipeline import ledger
from pipeline.synthetic import draw, recipe
from wsi.svs import SvsSpec, write_svs

Process = subprocess.Popen[bytes]
HERE = os.environ | ENV
COLOUR = ("--encoder", "colour")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(70, 74):
        drawn = draw(recipe(seed, "benign", width_um=700.0, height_um=600.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / f"{seed}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


@pytest.fixture(scope="module")
def undisturbed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert wsi("run", slides, "-o", out, *COLOUR).returncode == 0
    return digests(out)


def until(met: Callable[[], Any], process: Process | None = None) -> Any:
    """What `met` gives, once it gives something; at most two minutes, and while the process runs."""
    deadline = time.monotonic() + 120
    while not (found := met()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.02)
    return found


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, Process, list[Process]]]:
    """Address of a scheduler, its process, and its workers."""
    file = folder / "scheduler.json"
    told = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": HERE, "cwd": folder}
    asked = ["--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen([*_dask("scheduler"), *asked], **told)  # type: ignore[call-overload]
    running: list[Process] = []
    try:
        address = until(lambda: file.exists() and json.loads(file.read_text() or "{}").get("address"), scheduler)
        alone = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
        for _ in range(workers):
            running.append(subprocess.Popen([*_dask("worker"), address, *alone], **told))  # type: ignore[call-overload]
        yield address, scheduler, running
    finally:
        for process in (*running, scheduler):
            process.kill()
            process.wait()


def _dask(verb: str) -> list[str]:
    return [str(Path(sys.executable).with_name("dask")), verb]


def started(out: Path, slides: Path, address: str) -> Process:
    command = [sys.executable, "-m", "pipeline", "run", str(slides), "-o", str(out), *COLOUR, "--scheduler", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=HERE)


def at_work(out: Path) -> list[Path]:
    """Staging folders of grids that are being written."""
    return list(out.glob("slides/*/features/.*"))


def test_two_of_three_workers_are_killed_and_no_slide_is_lost(
    slides: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    with cluster(tmp_path, 3) as (address, _, workers):
        run = started(tmp_path / "out", slides, address)
        for worker in workers[:2]:
            until(lambda: at_work(tmp_path / "out"), run)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        said, _ = run.communicate(timeout=180)
    assert run.returncode == 0, said.decode()
    assert digests(tmp_path / "out") == undisturbed
    assert {o.status for o in ledger.last_outcomes(tmp_path / "out" / "ledger.jsonl").values()} <= {"done", "reused"}


def test_a_lost_scheduler_ends_the_run_with_a_sentence_and_it_can_be_continued(
    slides: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    with cluster(tmp_path, 1) as (address, scheduler, _):
        run = started(tmp_path / "out", slides, address)
        until(lambda: at_work(tmp_path / "out"), run)
        scheduler.send_signal(signal.SIGKILL)
        said, _ = run.communicate(timeout=180)
    assert run.returncode == 5, said.decode()
    assert "scheduler went away" in " ".join(said.decode().split())
    assert wsi("run", slides, "-o", tmp_path / "out", *COLOUR).returncode == 0
    assert digests(tmp_path / "out") == undisturbed
