"""A run that is killed at random moments until it comes through: is the result that of one that was left alone?

    python benchmarks/kills.py [--kills 1000] [--seed 0] [--results benchmarks/results/kills.md]

Three drawn slides through the colour encoder, two at a time, as `wsi run` does it, in a process that is forked from
this one with everything imported, so that kills fall on the work and not on Python's start. After every kill, each
grid that is there under its name is opened and all its bytes are checked; once a run comes through, the digests of all
files of all grids are compared with those of an undisturbed run, and a new folder is begun.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# ruff: noqa: E402
# This folder holds files named as packages are.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.machine import processor
from features import FeatureGrid
from pipeline.config import load_config
from pipeline.lanes import LaneExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.record import SlideRecord
from pipeline.run import Run
from pipeline.stages import encoder_for
from pipeline.synthetic import draw, recipe
from wsi.errors import ArtefactError
from wsi.svs import SvsSpec, write_svs

CONFIG = load_config(settings=["encoder.name=colour", "encoder.batch_size=32", "tile.size_px=32"])
_LEAST_S = 0.05  # before it nothing has begun


@dataclass
class Tally:
    kills: int = 0
    through: int = 0  # runs that came to their end, each compared with the undisturbed one
    different: int = 0
    torn: int = 0  # grids that were there under their name and not whole, after a kill
    failed: int = 0  # runs that ended by themselves and not well
    found: Counter[int] = field(default_factory=Counter)  # finished slides at the moment of a kill


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...

    def others_at_work(self, slides: dict[str, int]) -> None: ...


def main() -> None:
    given = _arguments()
    moments, tally, began = random.Random(given.seed), Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        slides = _slides(Path(work) / "slides")
        encoder_for(CONFIG)
        undisturbed = Path(work) / "undisturbed"
        started = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(_begun(slides, undisturbed), 0)[1]) == 0
        alone_s, wanted = time.monotonic() - started, digests(undisturbed)
        while tally.kills < given.kills:
            with tempfile.TemporaryDirectory(dir=work) as out:
                _one_life(slides, Path(out), moments, (alone_s, given.kills, tally))
                tally.through += 1
                tally.different += digests(Path(out)) != wanted
    report = _report(tally, alone_s, len(wanted), time.monotonic() - began)
    sys.stdout.write(report)
    if given.results:
        given.results.write_text(report)
    sys.exit(bool(tally.different or tally.torn or tally.failed))


def _one_life(slides: Path, out: Path, moments: random.Random, limits: tuple[float, int, Tally]) -> None:
    """Kills runs into `out` until one comes through; the last is left alone once there were kills enough."""
    alone_s, most, tally = limits
    while True:
        pid = _begun(slides, out)
        status = None if tally.kills >= most else _ended_within(pid, moments.uniform(_LEAST_S, 0.8 * alone_s))
        if status is None and tally.kills < most:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            tally.kills += 1
            _look(out, tally)
            continue
        if status is None:
            status = os.waitpid(pid, 0)[1]
        tally.failed += os.waitstatus_to_exitcode(status) != 0
        return


def _begun(slides: Path, out: Path) -> int:
    """A run in a process of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run = Run(tuple(entries_from([slides])), OutputFolder(out), CONFIG)
        good = all(outcome.good for outcome in run.outcomes(LaneExecutor(), Quiet()))
        os._exit(0 if good else 1)
    except BaseException as error:  # a forked child must not go on as a second parent
        sys.stderr.write(f"{error!r}\n")
        os._exit(2)


def _ended_within(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    return None


def _look(out: Path, tally: Tally) -> None:
    finished = 0
    for folder in OutputFolder(out).slides():
        finished += SlideRecord.read(folder) is not None
    tally.found[finished] += 1
    for path in out.glob("slides/*/features/*.zarr"):
        try:
            tally.torn += bool(FeatureGrid.open(path).verify())
        except ArtefactError:
            tally.torn += 1


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file of every grid."""
    files = (p for p in out.glob("slides/*/features/*.zarr/**/*") if p.is_file())
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _slides(folder: Path) -> Path:
    folder.mkdir()
    for seed, width_um in ((11, 800.0), (12, 300.0), (13, 300.0)):  # one of more than 1,024 tiles, which resumes inside
        drawn = draw(recipe(seed, "benign", width_um=width_um, height_um=650.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / f"s{seed}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


def _report(tally: Tally, alone_s: float, files: int, seconds: float) -> str:
    found = ", ".join(f"{n} of 3 finished: {count}" for n, count in sorted(tally.found.items()))
    return "\n".join(
        [
            "# Kills",
            "",
            f"`benchmarks/kills.py --kills {tally.kills}`, {datetime.date.today()}, {processor()}, {os.cpu_count()} "
            f"shared cores, {seconds / 60:.0f} minutes. Three slides, two at a time; left alone they take "
            f"{alone_s:.1f} s. SIGKILL at a random moment of each run, again and again until one comes through.",
            "",
            "| | |",
            "|---|---|",
            f"| kills | {tally.kills} |",
            f"| runs that came through, each compared with the undisturbed one ({files} files of grids) "
            f"| {tally.through} |",
            f"| of them with another byte | {tally.different} |",
            f"| torn grids found after a kill | {tally.torn} |",
            f"| runs that ended by themselves and not well | {tally.failed} |",
            "",
            f"Slides that were finished at the moment of a kill: {found}.",
            "",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
