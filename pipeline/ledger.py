"""What became of every slide, one JSON line each, in the order it happened; never rewritten."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from features.files import storage_errors
from pipeline.seal import Seal, json_seal, sealed_json

DONE, REUSED, NO_TISSUE, REFUSED, CRASHED, STOPPED = "done", "reused", "no tissue", "refused", "crashed", "stopped"
GOOD = (DONE, REUSED, NO_TISSUE)
_TRIES, _PAUSE_S = 200, 0.01
BUSY = "busy"  # another process has the slide: no end, and never written down


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one slide ended. `refused`: the slide is at fault; `crashed`: we are; `stopped`: the machine is."""

    slide_id: str
    name: str
    status: str
    stage: str = ""  # where it ended: encoder, reuse, open, tissue, features, pictures, zeroshot
    code: str = ""  # stable error code, "" if good
    detail: str = ""  # one sentence; a traceback where we crashed
    hint: str = ""
    tiles: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())  # warnings worth a person's eye
    reader: str = ""  # that read the slide, and why it was not the fast one
    drawn: bool = False  # its tissue is as somebody drew it
    stain: str = ""  # how stains were to be normalised; "" for not at all
    patient: str = ""  # as the manifest says, kept for slides that have no record
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.status in GOOD


def append(path: Path, event: dict[str, Any]) -> None:
    """Adds one line, with the time. Raises NoSpace or StorageError where the disk refuses."""
    line = sealed_json({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **event}) + "\n"
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _take_turns(fd)
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # the machine went down in the last line
            left = ("\n" * torn + line).encode(errors="backslashreplace")
            while left:
                left = left[os.write(fd, left) :]
        finally:
            os.close(fd)


def _take_turns(fd: int) -> None:
    """Locks the file until it is closed: on NFS, appending is a look at its length and a write.

    Not at any price: without locks, or where somebody sleeps on one, a line may be torn, which costs itself.
    """
    for _ in range(_TRIES):
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        except OSError:
            return None
    return None


def length(path: Path) -> int:
    """In bytes; it grows with every line."""
    return path.stat().st_size if path.exists() else 0


def record(path: Path, outcome: Outcome) -> None:
    append(path, {"event": "slide", **asdict(outcome)})


def events(path: Path) -> Iterator[dict[str, Any]]:
    """All lines, oldest first. Those that are torn (the machine went down) or not as written are passed over."""
    if not path.exists():
        return
    with open(path, "rb") as lines:
        for line in lines:
            try:
                event = json.loads(line.decode(errors="replace"))
            except ValueError:
                continue
            if json_seal(line) is not Seal.BROKEN:
                yield event


def last_command(path: Path) -> list[str]:
    """The words of the last run after `wsi`; empty where none is told."""
    said: list[str] = []
    for event in events(path):
        if event["event"] == "run":
            said = [str(word) for word in event["argv"]]
    return said


def last_outcomes(path: Path) -> dict[str, Outcome]:
    """Slide id -> how it last ended.

    A slide's id changes when a neighbour of the same stem appears (s.svs beside s.ndpi): the older id is left out.
    """
    known = {f.name for f in fields(Outcome)}
    found: dict[str, Outcome] = {}
    id_of: dict[str, str] = {}  # by name
    for event in events(path):
        if event["event"] == "slide":
            values = {k: v for k, v in event.items() if k in known}
            outcome = Outcome(**{**values, "notes": tuple(values["notes"])})
            before = id_of.setdefault(outcome.name, outcome.slide_id)
            if before != outcome.slide_id:
                found.pop(before, None)
                id_of[outcome.name] = outcome.slide_id
            found[outcome.slide_id] = outcome
    return found


def exit_code(outcomes: list[Outcome]) -> int:
    """0 all good, 1 one of ours crashed, 3 some slides refused, 4 all of them."""
    tally = Counter(o.status for o in outcomes)
    if tally[CRASHED]:
        return 1
    if not tally[REFUSED]:
        return 0
    return 4 if tally[REFUSED] == len(outcomes) else 3
