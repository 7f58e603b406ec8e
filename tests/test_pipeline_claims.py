"""Several processes on one output folder: every slide is done by exactly one of them, and by somebody."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import claim_steps
import pytest
from claim_steps import STILL, dead, holds
from claim_tasks import FakeJob, FakeTask, Silent, fake_slide

from features.files import aside_of, write_atomic
from pipeline import claims, ledger, lock
from pipeline.batch import Batch, settled
from pipeline.claims import CLAIM, Claim, Owner, Pace, SlideTaken, look, take_away
from pipeline.console import RunConsole, open_console
from pipeline.executor import SerialExecutor
from pipeline.ledger import BUSY, DONE, REUSED, Outcome
from pipeline.output import OutputFolder
from pipeline.vigil import Vigil
from wsi.errors import NoSpace, StorageError, UsageError

HERE = Path(__file__).parent


def started(script: str, *words: object) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    command = [sys.executable, str(HERE / script), *map(str, words)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def elsewhere(folder: Path, beat: int = 0) -> Owner:
    """Puts the claim of a process on another machine there."""
    owner = Owner("node7", "another kernel", 12, "345", "ab" * 8, beat)
    (folder / CLAIM).mkdir(parents=True, exist_ok=True)
    (folder / CLAIM / "owner.json").write_bytes(owner.content())
    return owner


# -- one claim --------------------------------------------------------------------------------------------------------


def test_a_claim_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "slides" / "s"
    with Claim.of(folder) as claim:
        claim.check()
        with pytest.raises(SlideTaken, match=f"process {os.getpid()} on "):
            Claim.of(folder)
        claim.commit(folder / "slide.json", b"1")
        assert sorted(p.name for p in folder.iterdir()) == [CLAIM, "slide.json"]
    assert [p.name for p in folder.iterdir()] == ["slide.json"]
    with pytest.raises(SlideTaken):
        claim.check()
    with Claim.of(folder):
        pass


def test_nothing_is_left_of_a_slide_that_came_to_nothing(tmp_path: Path) -> None:
    with Claim.of(tmp_path / "out" / "slides" / "s"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_gives_the_claim_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Claim.of(tmp_path / "s"):
        raise KeyboardInterrupt
    assert look(tmp_path / "s") is None


def test_a_beat_is_a_change_that_others_see_and_the_owner_goes_on(tmp_path: Path) -> None:
    with Claim.of(tmp_path, STILL) as claim:
        before = look(tmp_path)
        claim.beat()
        after = look(tmp_path)
        assert before != after and Owner.of(after or b"") == replace(Owner.of(before or b""), beat=1)  # type: ignore[type-var]
        claim.check()


def test_what_was_lost_once_is_not_worked_on_again(tmp_path: Path) -> None:
    """Its owner may have been told, and have gone on to the next slide."""
    with Claim.of(tmp_path, STILL) as claim:
        claim.path.rename(tmp_path / "away")
        with pytest.raises(SlideTaken):
            claim.check()
        (tmp_path / "away").rename(claim.path)
        with pytest.raises(SlideTaken):
            claim.check()


def test_a_claim_put_back_in_time_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody took it for that of another, and has seen the mistake."""
    replace_ = Path.replace
    with Claim.of(tmp_path, STILL) as claim:

        def replace_late(aside: Path, path: Path) -> Path:
            monkeypatch.setattr(Path, "replace", replace_)
            claim.path.rename(tmp_path / "away")
            try:
                return aside.replace(path)
            finally:
                (tmp_path / "away").rename(claim.path)

        monkeypatch.setattr(Path, "replace", replace_late)
        claim.commit(tmp_path / "slide.json", b"1")
        assert (tmp_path / "slide.json").read_bytes() == b"1"


def test_it_beats_by_itself(tmp_path: Path) -> None:
    beaten = threading.Event()

    class Heard(Claim):
        def beat(self) -> None:
            super().beat()
            beaten.set()

    with Heard.of(tmp_path, Pace(beat_s=0.001)):
        assert beaten.wait(60)


def test_a_process_that_is_gone_from_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    dead(tmp_path)
    with Claim.of(tmp_path) as claim:
        claim.check()


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    me = Owner.me()
    assert not me.is_gone and replace(me, started="1").is_gone


def test_a_killed_process_that_nobody_has_buried_yet_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.me(), pid=child.pid, started=claims._started(child.pid))
    assert not owner.is_gone
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_gone
    child.communicate()


@pytest.mark.parametrize("place", ["", "another kernel"])
def test_numbers_of_processes_elsewhere_mean_nothing_here(place: str) -> None:
    """Another machine, another container of this one, or a system that does not tell."""
    assert not replace(Owner.me(), place=place, pid=2**22 + 1).is_gone


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "node7"}', None])
def test_a_claim_that_says_nothing_still_is_one(tmp_path: Path, content: bytes | None) -> None:
    """As a power cut may leave it."""
    elsewhere(tmp_path)
    (tmp_path / CLAIM / "owner.json").unlink() if content is None else None
    if content is not None:
        (tmp_path / CLAIM / "owner.json").write_bytes(content)
    assert look(tmp_path) == (content or b"")
    with pytest.raises(SlideTaken, match="another process"):
        Claim.of(tmp_path)
    vigil, clock = watched()
    assert not vigil.is_free(tmp_path)
    assert freed_after(vigil, clock, tmp_path) == 60


@pytest.mark.parametrize("kind", [NoSpace, StorageError])
def test_a_disk_that_refuses_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[StorageError]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError({NoSpace: errno.ENOSPC, StorageError: errno.EACCES}[kind], "no")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(kind):
        Claim.of(tmp_path / "s")


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"")
    with pytest.raises(StorageError):
        Claim.of(tmp_path / "s")


# -- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", claim_steps.SCENARIOS, ids=lambda s: s.__name__)
def test_at_every_single_step_another_may_come(tmp_path: Path, scenario: Callable[..., Any]) -> None:
    process = started("claim_steps.py", tmp_path, scenario.__name__)
    said, faults = process.communicate()
    assert process.returncode == 0, faults
    assert json.loads(said) >= 4


def test_many_threads_and_one_dead_owner(tmp_path: Path) -> None:
    dead(tmp_path)
    barrier, got = threading.Barrier(16), []

    def claim() -> None:
        barrier.wait()
        try:
            got.append(Claim.of(tmp_path, STILL))
        except SlideTaken:
            got.append(None)

    threads = [threading.Thread(target=claim) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [c is not None and holds(c) for c in got].count(True) == 1 and len(got) == 16


# -- who is missed ----------------------------------------------------------------------------------------------------


def watched() -> tuple[Vigil, list[float]]:
    """A vigil whose clock is a number, and whose sleep moves it on."""
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    return Vigil(clock=lambda: clock[0], sleep=sleep), clock


def freed_after(vigil: Vigil, clock: list[float], folder: Path) -> float:
    began = clock[0]
    while not vigil.is_free(folder):
        clock[0] += 5
    return clock[0] - began


def test_an_owner_elsewhere_is_missed_after_a_minute_without_a_sign(tmp_path: Path) -> None:
    vigil, clock = watched()
    elsewhere(tmp_path)
    assert not vigil.is_free(tmp_path) and vigil.owners() == ["process 12 on node7"]
    clock[0] += 14
    elsewhere(tmp_path, beat=1)
    assert freed_after(vigil, clock, tmp_path) == 60  # from its last sign, not from the first look
    assert look(tmp_path) is None and vigil.owners() == []


def test_clocks_of_files_are_not_asked(tmp_path: Path) -> None:
    vigil, clock = watched()
    elsewhere(tmp_path)
    for told in (0, 4e9):
        os.utime(tmp_path / CLAIM / "owner.json", (told, told))
        os.utime(tmp_path / CLAIM, (told, told))
        assert not vigil.is_free(tmp_path)
        clock[0] += 1


def test_a_watcher_that_was_asleep_itself_judges_nobody_at_first_sight(tmp_path: Path) -> None:
    vigil, clock = watched()
    elsewhere(tmp_path)
    assert not vigil.is_free(tmp_path)
    clock[0] += 5000
    assert not vigil.is_free(tmp_path)
    elsewhere(tmp_path, beat=1)
    clock[0] += 5000
    assert not vigil.is_free(tmp_path)


def test_a_disk_that_does_not_answer_condemns_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vigil, clock = watched()
    elsewhere(tmp_path)
    with monkeypatch.context() as patched:

        def refuse(*_: object) -> bytes:
            raise OSError(errno.EIO, "no answer")

        patched.setattr(Path, "read_bytes", refuse)
        for _ in range(100):
            clock[0] += 5
            assert not vigil.is_free(tmp_path)
    assert freed_after(vigil, clock, tmp_path) == 60


def test_looks_become_rarer_until_something_was_free(tmp_path: Path) -> None:
    slept: list[float] = []
    vigil = Vigil(sleep=slept.append)
    for _ in range(6):
        vigil.pause()
    vigil.pause(shortest=True)
    vigil.pause()
    assert slept == [1, 2, 4, 8, 15, 15, 1, 2]


# -- a slide ----------------------------------------------------------------------------------------------------------


def test_a_slide_that_somebody_has_is_busy_and_untouched(tmp_path: Path) -> None:
    task = FakeTask(tmp_path, 0, "me")
    elsewhere(task.folder.path)
    outcome = fake_slide(task)
    assert (outcome.status, outcome.detail, outcome.good) == (BUSY, "process 12 on node7", False)
    assert [p.name for p in task.folder.path.iterdir()] == [CLAIM]


@pytest.mark.parametrize("where", ["batch", "commit"])
def test_a_stopped_owner_that_wakes_up_commits_nothing(tmp_path: Path, where: str) -> None:
    task = FakeTask(tmp_path, 0, "other", work=0)
    sleeper = started("claim_tasks.py", "stop", tmp_path, where)
    _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), sleeper.communicate()
    vigil, clock = watched()
    assert fake_slide(task).status == BUSY
    assert 60 <= freed_after(vigil, clock, task.folder.path) <= 65
    assert fake_slide(task).status == DONE
    sleeper.send_signal(signal.SIGCONT)
    said, faults = sleeper.communicate()
    assert (said, faults) == (BUSY, "")
    assert (task.folder.record() or {})["by"] == "other"
    assert (tmp_path / "commits").read_text() == "s000 other\n"
    assert [p.name for p in task.folder.path.iterdir()] == ["slide.json"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError("gone"), NoSpace("full"), UsageError("taken up"), SlideTaken(None)]
)
def test_whatever_goes_wrong_once_the_slide_is_anothers_is_no_fault_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def run(job: FakeJob) -> Outcome:
        seen = look(job.folder.path)
        assert seen is not None
        take_away(job.folder.path, seen)
        elsewhere(job.folder.path)
        raise error

    monkeypatch.setattr(FakeJob, "run", run)
    outcome = fake_slide(FakeTask(tmp_path, 0, "me"))
    assert (outcome.status, outcome.detail) == (BUSY, "process 12 on node7")
    assert look(tmp_path / "slides/s000") is not None


# -- a batch ----------------------------------------------------------------------------------------------------------


class Told(Silent):
    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []
        self.others: list[dict[str, int]] = []

    def slide_ended(self, outcome: Outcome, counted: bool) -> None:
        self.ended.append((outcome.slide_id, outcome.status))

    def others_at_work(self, slides: dict[str, int]) -> None:
        self.others.append(dict(slides))


def batch(tmp_path: Path, vigil: Vigil, work: Callable[..., Outcome] = fake_slide) -> tuple[Told, list[Outcome]]:
    told = Told()
    tasks = [FakeTask(tmp_path, n, "me", work=0) for n in range(4)]
    job = Batch(OutputFolder(tmp_path), tasks, work, lambda _: None, vigil)
    return told, job.outcomes(SerialExecutor(), told)


def test_slides_of_others_come_last_and_stand_once_they_are_done_there(tmp_path: Path) -> None:
    folders = [OutputFolder(tmp_path).slide(f"s{n:03d}") for n in range(4)]
    for n in (0, 2):
        elsewhere(folders[n].path)
    vigil, clock = watched()
    beats = iter(range(1, 1000))

    def others(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 1030 and look(folders[0].path):
            folders[0].write_record({"by": "other"})
            take_away(folders[0].path, look(folders[0].path) or b"")
        if clock[0] < 1200:
            elsewhere(folders[2].path, next(beats))  # and then never again

    vigil.sleep = others
    told, outcomes = batch(tmp_path, vigil)
    assert told.ended == [("s001", DONE), ("s003", DONE), ("s000", REUSED), ("s002", DONE)]
    assert [o.slide_id for o in outcomes] == [slide for slide, _ in told.ended]
    assert told.others[0] == {"process 12 on node7": 2} and told.others[-1] == {"process 12 on node7": 1}
    lines = [e for e in ledger.events(tmp_path / "ledger.jsonl") if e["event"] == "slide"]
    assert [e["status"] for e in lines] == [status for _, status in told.ended]


def test_a_slide_that_looks_free_and_is_not_is_no_reason_to_hurry(tmp_path: Path) -> None:
    """Folders of a network file system may be seen late."""
    pauses: list[float] = []
    vigil, tries = Vigil(sleep=pauses.append), Counter[str]()

    def work(task: FakeTask, watcher: Any = None) -> Outcome:
        tries[task.entry.id] += 1
        status = BUSY if task.number == 1 and tries[task.entry.id] < 5 else DONE
        return Outcome(task.entry.id, task.entry.name, status)

    told, _ = batch(tmp_path, vigil, work)
    assert pauses == [1, 2, 4, 8] and told.ended[-1] == ("s001", DONE)


def test_the_console_tells_of_others_once(capsys: pytest.CaptureFixture[str]) -> None:
    console = RunConsole(open_console(), 9)
    for n in (3, 2):
        console.others_at_work({"process 12 on node7": n, "process 5 on node8": 1})
    assert capsys.readouterr().out.splitlines() == [
        "4 slides are being done by another run (process 12 on node7, process 5 on node8): waiting for it"
    ]


def test_the_last_to_write_a_table_knows_what_others_added_meanwhile(tmp_path: Path) -> None:
    out, written = OutputFolder(tmp_path), []
    ledger.append(out.ledger, {"event": "run"})

    def write(_: OutputFolder) -> None:
        written.append(len(list(ledger.events(out.ledger))))
        if len(written) < 3:
            ledger.append(out.ledger, {"event": "slide of another"})

    settled(out, write)
    assert written == [1, 2, 3]


# -- the folder -------------------------------------------------------------------------------------------------------


def test_runs_of_the_same_settings_share_a_folder_and_nobody_else_comes_in(tmp_path: Path) -> None:
    out = OutputFolder(tmp_path)
    settings = {"tile.mpp": 0.5, "top_k": (1, 5)}
    with out.shared(settings) as first, out.shared(settings) as second:
        assert (first, second) == (True, False)
        with pytest.raises(StorageError, match="another run is working"), out.alone():
            pass
        with pytest.raises(UsageError, match="tile.mpp: 0.5 there, 0.25 here"), out.shared({"tile.mpp": 0.25}):
            pass
        with out.shared({"top_k": (1, 5)}):  # tells less, and nothing else
            pass
    assert (tmp_path / ".lock").read_bytes() == b""
    with out.alone(), pytest.raises(StorageError, match="another run is working"), out.shared({}):
        pass
    with out.shared({"tile.mpp": 0.25}) as first:
        assert first


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PAUSE_S", 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    out = OutputFolder(tmp_path)
    with out.shared({"a": 1}) as first, out.shared({"a": 1}) as second, out.alone():
        assert first and second
    ledger.append(out.ledger, {"event": "run"})
    assert len(list(ledger.events(out.ledger))) == 1


def test_names_of_asides_meet_nowhere(tmp_path: Path) -> None:
    """Process numbers would: of two machines, and of threads."""
    assert len({aside_of(tmp_path / "slide.json") for _ in range(100)}) == 100
    write_atomic(tmp_path / "slide.json", b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["slide.json"]


# -- races ------------------------------------------------------------------------------------------------------------

SLIDES = 200


def test_sixteen_processes_some_of_them_killed_commit_each_slide_once(tmp_path: Path) -> None:
    draw, out = random.Random(20261124), tmp_path / "out"
    out.mkdir()
    processes = {n: started("claim_tasks.py", "race", out, f"p{n}", SLIDES) for n in range(16)}
    doomed = draw.sample(sorted(processes), 6)
    while doomed:
        done = (out / "commits").read_text().count("\n") if (out / "commits").exists() else 0
        if done >= SLIDES // 8 * (7 - len(doomed)):
            processes[doomed.pop()].kill()
        assert any(p.poll() is None for p in processes.values())
        time.sleep(0.005)
    ends = [process.communicate() for process in processes.values()]
    assert [p.returncode for p in processes.values()].count(0) == 10, ends
    by = {f.name: json.loads((f / "slide.json").read_text())["by"] for f in (out / "slides").iterdir()}
    assert len(by) == SLIDES
    commits = [line.split() for line in (out / "commits").read_text().splitlines()]
    assert max(Counter(slide for slide, _ in commits).values()) == 1
    assert all(by[slide] == name for slide, name in commits)
    assert SLIDES - 6 <= len(commits) <= SLIDES  # one that was killed may not have come to write its line
    assert [p.name for p in out.rglob("*") if p.name.startswith((".", "..")) or p.name == CLAIM] == []
