"""Two processes over one claim, interleaved by hand: before each single step of the one, the other does all of its own.

Run as a script, claim_steps.py FOLDER SCENARIO, it prints how many steps there were. A scenario is a function of a
folder: what is there before, what the one does, what the other does, and what must be true in the end.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.claims import CLAIM, Claim, Owner, Pace, SlideTaken, look, take_away

STILL = Pace(beat_s=1e6)  # no beat but those of the scenario
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
Act = Callable[[], None]


class Interleaved:
    """Calls `other` once, before step number `at` of this process in `folder`."""

    def __init__(self) -> None:
        self.folder, self.left, self.other, self.came = "", 0, lambda: None, False
        sys.addaudithook(self._hook)

    def run(self, folder: Path, at: int, one: Act, other: Act) -> bool:
        """Does both; False if `one` has fewer steps."""
        self.folder, self.left, self.other, self.came = f"{folder}{os.sep}", at, other, False
        one()
        self.left = 0
        return self.came

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.left and event in STEPS and str(args[0]).startswith(self.folder):
            self.left -= 1
            if not self.left:
                self.came = True
                self.other()


def holds(claim: Claim) -> bool:
    with suppress(SlideTaken):
        claim.check()
        return True
    return False


def forced(folder: Path) -> Claim:
    """The claim of one who has found whoever is there silent."""
    take_away(folder, look(folder) or b"")
    return Claim.of(folder, STILL)


def dead(folder: Path) -> None:
    """A claim whose process is over."""
    (folder / CLAIM).mkdir(parents=True)
    gone = replace(Owner.me(), pid=2**22 + 1)  # above the highest number of a process
    (folder / CLAIM / "owner.json").write_bytes(gone.content())


def both_claim(folder: Path) -> tuple[Act, Act, Act]:
    """Exactly one gets it, whether the folder is free or a dead process has it."""
    got: list[Claim] = []

    def claim() -> None:
        with suppress(SlideTaken):
            got.append(Claim.of(folder, STILL))

    def judged() -> None:
        assert [holds(claim) for claim in got].count(True) == 1, got

    return claim, claim, judged


def dead_one_there(folder: Path) -> tuple[Act, Act, Act]:
    dead(folder)
    return both_claim(folder)


def beat_while_taken(folder: Path) -> tuple[Act, Act, Act]:
    """An owner thought silent lives after all: it keeps its claim, or has lost it for good; never half."""
    owner = Claim.of(folder, STILL)
    seen = look(folder) or b""

    def beat() -> None:
        with suppress(SlideTaken):
            owner.beat()

    def judged() -> None:
        kept = holds(owner)
        assert kept == (look(folder) is not None)
        if not kept:
            with Claim.of(folder, STILL) as new:
                beat()
                assert holds(new) and not holds(owner)

    return lambda: take_away(folder, seen), beat, judged


def beat_taken(folder: Path) -> tuple[Act, Act, Act]:
    """The same from the owner's side: once another holds the claim, no beat of the old owner changes that."""
    owner = Claim.of(folder, STILL)
    new: list[Claim] = []

    def beat() -> None:
        with suppress(SlideTaken):
            owner.beat()

    def judged() -> None:
        beat()
        assert holds(new[0]) and not holds(owner)

    return beat, lambda: new.append(forced(folder)), judged


def commit_taken(folder: Path) -> tuple[Act, Act, Act]:
    """Whatever the sleeper was at: what the new owner has committed stands."""
    owner, file = Claim.of(folder, STILL), folder / "slide.json"
    new: list[Claim] = []

    def commit() -> None:
        with suppress(SlideTaken):
            owner.commit(file, b"old")

    def other() -> None:
        new.append(forced(folder))
        new[0].commit(file, b"new")

    def judged() -> None:
        commit()
        assert file.read_bytes() == b"new" and holds(new[0])
        new[0].__exit__()
        assert sorted(p.name for p in folder.iterdir()) == ["slide.json"]

    return commit, other, judged


def release_taken(folder: Path) -> tuple[Act, Act, Act]:
    """Whoever gives back a claim that is another's by now takes nothing away."""
    owner = Claim.of(folder, STILL)
    new: list[Claim] = []

    def judged() -> None:
        assert holds(new[0])

    return owner.__exit__, lambda: new.append(forced(folder)), judged


SCENARIOS = (both_claim, dead_one_there, beat_while_taken, beat_taken, commit_taken, release_taken)


def steps(root: Path, scenario: Callable[[Path], tuple[Act, Act, Act]]) -> int:
    interleaved = Interleaved()
    for at in itertools.count(1):
        folder = root / str(at) / "s"
        one, other, judged = scenario(folder)
        if not interleaved.run(folder.parent, at, one, other):
            return at - 1
        judged()
    raise AssertionError("unreachable")


if __name__ == "__main__":
    wanted = {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[2]]
    sys.stdout.write(json.dumps(steps(Path(sys.argv[1]), wanted)))
