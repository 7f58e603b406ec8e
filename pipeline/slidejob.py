"""One slide of a batch, whatever is made of it: how its work ends. The only place that catches all errors."""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from pipeline.claims import PACE, Claim, Pace, SlideTaken
from pipeline.config import RunConfig
from pipeline.ledger import BUSY, CRASHED, REFUSED, STOPPED, Outcome
from pipeline.manifest import SlideEntry, printable
from pipeline.output import SlideFolder
from tiling.supervised import ReaderProcess
from wsi.errors import SetupError, SlideUnreadable, ToolkitError, UsageError
from wsi.location import without_secrets


class Task(Protocol):
    """What a worker needs to know to do one slide. Small, plain, and the same for every executor."""

    @property
    def entry(self) -> SlideEntry: ...

    @property
    def config(self) -> RunConfig: ...

    @property
    def folder(self) -> SlideFolder: ...


class Watcher(Protocol):
    """Told of progress inside a slide; the serial executor has one, other processes do not."""

    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...


class _Nobody:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...


class SlideJob(ABC):
    """The stages of one slide; `stage` says where it is, for the outcome of a failure.

    It runs under the claim on its folder. Where others have taken that over, `check_claim`, every report of progress
    and every record written through `folder` raise SlideTaken.
    """

    pace: ClassVar[Pace] = PACE

    def __init__(self, task: Any, reader: ReaderProcess, watcher: Watcher) -> None:
        self.task, self.reader = task, reader
        self.watcher: Watcher = _Claimant(watcher, self)
        self.folder: SlideFolder = task.folder
        self.claim: Claim | None = None
        self.stage = ""
        self.tiles = self.unreadable = 0
        self.notes: tuple[str, ...] = ()
        self.read_by = ""
        self.drawn = False

    @abstractmethod
    def run(self) -> Outcome:
        """Does the slide. Raises ToolkitError where it cannot be done."""

    def run_claimed(self) -> Outcome:
        """Does the slide while nobody else does, and says how it ended. Raises SlideTaken where somebody else does."""
        with Claim.of(self.folder.path, self.pace) as self.claim:
            self.folder = replace(self.folder, claim=self.claim)
            outcome = _outcome(self, self.run)
            self.check_claim()  # one who lost it fails in many ways, and none of them is the slide's end
        return outcome

    def check_claim(self) -> None:
        if self.claim is not None:
            self.claim.check()

    def outcome(self, status: str, error: ToolkitError | None = None) -> Outcome:
        entry, stain = self.task.entry, self.task.config.tile.stain
        ended = Outcome(
            entry.id,
            entry.name,
            status,
            self.stage,
            tiles=self.tiles,
            unreadable=self.unreadable,
            notes=self.notes,
            reader=self.read_by,
            drawn=self.drawn,
            stain="" if stain == "none" else stain,
            patient=entry.patient,
            labels=entry.labels,
        )
        if error is None:
            return ended
        return replace(ended, code=error.code, detail=printable(error.message), hint=printable(error.hint))

    def check_unreadable(self, count: int) -> None:
        """Keeps the count of tiles that could not be decoded; raises SlideUnreadable where there are too many."""
        self.unreadable = count
        allowed = self.task.config.reader.max_unreadable
        if count > allowed * self.tiles:
            raise SlideUnreadable(
                f"{self.task.entry.path}: {count} of {self.tiles} tiles cannot be decoded, and perhaps more.",
                hint=f"Fetch the file again, or accept it with --set reader.max_unreadable=1 (now {allowed:g}).",
            )


def ended(job: type[SlideJob], task: Task, watcher: Watcher | None = None) -> Outcome:
    """Does one slide and says how it ended; never raises but for an interrupt.

    A ToolkitError of the slide refuses it; one of the machine (disk, weights) or of the settings is `stopped`, which
    ends the run; anything else is our bug: `crashed`, with the traceback. `busy` is a slide that another process has
    claimed, or has taken over since.
    """
    started = time.monotonic()
    with ReaderProcess(task.config.reader) as reader:
        made = job(task, reader, watcher or _Nobody())
        outcome = _outcome(made, made.run_claimed)
    return replace(outcome, seconds=round(time.monotonic() - started, 3))


@dataclass(frozen=True, slots=True)
class _Claimant:
    """Sees to the claim after every batch, before others are told of it."""

    watcher: Watcher
    job: SlideJob

    def slide_started(self, name: str, tiles: int) -> None:
        self.job.check_claim()
        self.watcher.slide_started(name, tiles)

    def tiles_done(self, count: int, share: float) -> None:
        self.job.check_claim()
        self.watcher.tiles_done(count, share)


def _outcome(job: SlideJob, work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except SlideTaken as taken:
        return replace(job.outcome(BUSY), detail=str(taken))
    except (SetupError, UsageError) as error:
        return job.outcome(STOPPED, error=error)
    except ToolkitError as error:
        return job.outcome(REFUSED, error=error)
    except Exception:  # the one broad catch: a slide of thousands must not end the night's run
        told = printable(without_secrets(traceback.format_exc(), job.task.entry.path))
        return replace(job.outcome(CRASHED), code="bug", detail=told, hint="Please report this.")
