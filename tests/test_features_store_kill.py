"""Killed, or out of disk, at every step of writing: the next run continues and ends with the same bytes.

Run as a script, this file is the laboratory: it forks a writer for each step at which a fault can strike.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from features_samples import feature_rows, fill, header, lattice, tree, write_sample

from features.grid import FeatureGrid
from features.journal import PIECE_ROWS
from features.writer import GridWriter, staged_beside
from wsi.errors import NoSpace, StorageError, UsageError

TILES = 2 * PIECE_ROWS + 150
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
OUT_OF_SPACE, OVERTAKEN = 28, 29


# -- the laboratory ---------------------------------------------------------------------------------------------------


def is_change(event: str, args: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event is about to change the disk below `folder`."""
    if event == "open":
        path, _, flags = args
        return str(path).startswith(folder) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if event == "os.mkdir" and os.path.isdir(args[0]):  # noqa: PTH112
        return False  # asked for to be sure that it is there
    if event == "os.rmdir" and args[1] != -1:
        return True  # inside rmtree, which goes by folder handles
    return event in CHANGES and str(args[0]).startswith(folder)


def strike(folder: Path, step: int, fault: Callable[[str], None]) -> None:
    """Lets `fault` happen just before change number `step` of this process."""
    left = [step]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if is_change(event, args, f"{folder}{os.sep}"):
            left[0] -= 1
            if left[0] == 0:
                fault(event)

    sys.addaudithook(hook)


def kill(event: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full(event: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write(dest: Path) -> None:
    grid = lattice(TILES, quality=True)
    writer = GridWriter(dest, header(grid), grid)
    with open(dest.parent.with_suffix(".rows_done"), "a") as log:
        log.write(f"{writer.rows_done}\n")
    fill(writer, TILES)
    writer.commit()


def begun(work: Callable[[], object]) -> int:
    """A child that does `work`, by its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except NoSpace:
        os._exit(OUT_OF_SPACE)
    except UsageError:
        os._exit(OVERTAKEN)
    except BaseException:  # the child must not run on as a second parent
        traceback.print_exc()
        os._exit(1)


def in_a_fork(work: Callable[[], object]) -> int:
    """Exit status of a child that does `work`: 0, minus a signal, OUT_OF_SPACE for NoSpace, OVERTAKEN."""
    return os.waitstatus_to_exitcode(os.waitpid(begun(work), 0)[1])


def struck(dest: Path, step: int, fault: Callable[[str], None]) -> int:
    def work() -> None:
        strike(dest.parent, step, fault)
        write(dest)

    return in_a_fork(work)


def laboratory(folder: Path, fault: Callable[[str], None], status: int, stride: int) -> dict[str, Any]:
    """Strikes every `stride`-th step of replacing a grid in turn, then ends in peace as an unbroken run does."""
    assert in_a_fork(lambda: write(folder / "whole" / "g.zarr")) == 0
    assert in_a_fork(lambda: write_sample(folder / "old" / "g.zarr", 60)) == 0
    whole, old = tree(folder / "whole"), tree(folder / "old")
    for step in count(1, stride):
        dest = folder / "trial" / "g.zarr"
        shutil.copytree(folder / "old", dest.parent)
        code = struck(dest, step, fault)
        if code == 0:
            return {"steps": step}
        assert code == status, (step, code)
        seen = {name: sha for name, sha in tree(dest.parent).items() if name.startswith("g.zarr/")}
        assert seen in ({}, old, whole), step
        assert in_a_fork(lambda dest=dest: write(dest)) == 0
        assert tree(dest.parent) == whole, step
        assert [path.name for path in dest.parent.iterdir()] == ["g.zarr"]
        shutil.rmtree(dest.parent)
    raise AssertionError("unreachable")


def many_lives(folder: Path, seed: int) -> dict[str, Any]:
    """One writer after another is killed at a random step until one comes through."""
    assert in_a_fork(lambda: write(folder / "whole" / "g.zarr")) == 0
    dest, random_step = folder / "trial" / "g.zarr", random.Random(seed)
    dest.parent.mkdir()
    for life in count(1):
        if struck(dest, random_step.randint(1, 70), kill) == 0:
            assert tree(dest.parent) == tree(folder / "whole")
            return {"lives": life}
    raise AssertionError("unreachable")


def asleep(event: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def overtaking(folder: Path) -> dict[str, Any]:
    """At every third step a writer is stopped, another one comes and does all of it; then the first wakes up."""
    assert in_a_fork(lambda: write(folder / "whole" / "g.zarr")) == 0
    assert in_a_fork(lambda: write_sample(folder / "old" / "g.zarr", 60)) == 0
    dest = folder / "trial" / "g.zarr"
    ends: dict[int, int] = {}
    for step in count(1, 3):
        shutil.copytree(folder / "old", dest.parent)
        first = begun(lambda step=step: (strike(dest.parent, step, asleep), write(dest)))
        status = os.waitpid(first, os.WUNTRACED)[1]
        if not os.WIFSTOPPED(status):
            return {"steps": step, "overtaken": ends[OVERTAKEN]}
        assert in_a_fork(lambda: write(dest)) == 0
        os.kill(first, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        assert code in (0, OVERTAKEN), (step, code)
        ends[code] = ends.get(code, 0) + 1
        assert tree(dest) == tree(folder / "whole" / "g.zarr"), step
        shutil.rmtree(dest.parent)
    raise AssertionError("unreachable")


def run_laboratory(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, str(folder), *arguments]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


# -- the tests --------------------------------------------------------------------------------------------------------


def test_sigkill_at_every_step_leaves_no_half_grid_and_the_next_run_ends_the_same(tmp_path: Path) -> None:
    assert run_laboratory(tmp_path, "kill", "1")["steps"] > 50
    done = [int(line) for line in (tmp_path / "trial.rows_done").read_text().split()]
    assert set(done) == {0, PIECE_ROWS, 2 * PIECE_ROWS, TILES}  # work before the kill is not done again


def test_a_full_disk_at_any_step_is_no_space_and_the_next_run_ends_the_same(tmp_path: Path) -> None:
    assert run_laboratory(tmp_path, "full", "4")["steps"] > 50


def test_a_writer_that_another_has_overtaken_at_any_step_commits_nothing_more(tmp_path: Path) -> None:
    found = run_laboratory(tmp_path, "overtaken")
    assert found["steps"] > 50 and found["overtaken"] > 10


def test_killed_again_and_again(tmp_path: Path) -> None:
    assert run_laboratory(tmp_path, "lives", "20261124")["lives"] > 3


def staged(folder: Path) -> Path:
    """A grid of which 2,048 rows are on disk and some more are not."""
    grid = lattice(TILES)
    writer = GridWriter(folder / "g.zarr", header(grid), grid)
    writer.append(feature_rows(0, 2100))
    assert writer.rows_done == 2048
    return folder / "g.zarr"


def rows_done(dest: Path, **changes: Any) -> int:
    grid = lattice(TILES)
    return GridWriter(dest, header(grid, **changes), grid).rows_done


def test_a_newer_writer_takes_the_rows_away_from_an_older_one(tmp_path: Path) -> None:
    grid = lattice(TILES)
    older = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    older.append(feature_rows(0, 2048))
    newer = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    assert newer.rows_done == 2048
    with pytest.raises(UsageError, match="another process is writing this grid"):
        older.append(feature_rows(2048, TILES))
    fill(newer, TILES)
    newer.commit()
    with pytest.raises(UsageError, match="another process"):
        older.commit()
    assert tree(tmp_path / "g.zarr") == tree(write_sample(tmp_path / "h.zarr", TILES))


def test_a_writer_for_the_same_grid_continues_at_whole_pieces(tmp_path: Path) -> None:
    dest = staged(tmp_path)
    assert rows_done(dest) == 2048
    grid = lattice(TILES)
    writer = GridWriter(dest, header(grid), grid)
    fill(writer, TILES)
    assert writer.rows_done == TILES
    writer.commit()
    assert tree(dest) == tree(write_sample(tmp_path / "h.zarr", TILES))


@pytest.mark.parametrize(
    "changes", [{"slide_mpp": 0.5}, {"slide_fingerprint": "0" * 64}, {"dtype": "float32"}, {"toolkit_version": "9"}]
)
def test_rows_staged_for_another_header_are_discarded(tmp_path: Path, changes: dict[str, Any]) -> None:
    dest = staged(tmp_path)
    assert rows_done(dest, **changes) == 0
    assert rows_done(dest) == 0


def test_rows_staged_for_other_tiles_of_the_same_slide_are_discarded(tmp_path: Path) -> None:
    dest, grid = staged(tmp_path), lattice(TILES)
    grid.keep[:] = grid.keep[::-1].copy()
    assert GridWriter(dest, header(grid), grid).rows_done == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(("piece", "kept"), [("000000", 0), ("000001", 1024)])
def test_staged_rows_from_the_first_damaged_piece_on_are_dropped(
    tmp_path: Path, damage: Callable[[Path], None], piece: str, kept: int
) -> None:
    dest = staged(tmp_path)
    (left,) = staged_beside(dest)
    damage(left / "rows" / f"{piece}.rows")
    assert rows_done(dest) == kept
    write_sample(dest, TILES)
    assert tree(dest) == tree(write_sample(tmp_path / "h.zarr", TILES))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EACCES, StorageError), (errno.EROFS, StorageError)],
)
def test_a_disk_that_refuses_is_named_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StorageError]
) -> None:
    dest = staged(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/full/of/slides")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match="/full/of/slides") as found:
        write_sample(dest, TILES)
    assert type(found.value) is kind
    assert found.value.hint
    monkeypatch.undo()
    write_sample(dest, TILES)
    assert FeatureGrid.open(dest).verify() == []


def test_everything_is_on_the_disk_before_a_grid_counts_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    dest = write_sample(tmp_path / "g.zarr", 1100)
    assert {path.stat().st_ino for path in (tmp_path, dest, *dest.rglob("*"))} <= synced


if __name__ == "__main__":
    os.fsync = lambda _: None  # a killed process loses nothing that it wrote; waiting for the disk is most of the time
    header(lattice(TILES))  # loads what loads late, once for all forks
    folder, what = Path(sys.argv[1]), sys.argv[2]
    if what == "lives":
        result = many_lives(folder, int(sys.argv[3]))
    elif what == "overtaken":
        result = overtaking(folder)
    else:
        fault, status = {"kill": (kill, -signal.SIGKILL), "full": (disk_full, OUT_OF_SPACE)}[what]
        result = laboratory(folder, fault, status, int(sys.argv[3]))
    print(json.dumps(result))  # noqa: T201
