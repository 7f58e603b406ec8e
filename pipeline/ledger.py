"""What became of every slide, one JSON line each, in the order it happened; never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from features.files import storage_errors

DONE, REUSED, NO_TISSUE, REFUSED, CRASHED, STOPPED = "done", "reused", "no tissue", "refused", "crashed", "stopped"
GOOD = (DONE, REUSED, NO_TISSUE)


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
    stain: str = ""  # how stains were to be normalised; "" for not at all
    patient: str = ""  # as the manifest says, kept for slides that have no record
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return self.status in GOOD


def append(path: Path, event: dict[str, Any]) -> None:
    """Adds one line, with the time. Raises NoSpace or StorageError where the disk refuses."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **event}, ensure_ascii=False) + "\n"
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # the machine went down in the last line
            left = ("\n" * torn + line).encode(errors="backslashreplace")
            while left:
                left = left[os.write(fd, left) :]
        finally:
            os.close(fd)


def record(path: Path, outcome: Outcome) -> None:
    append(path, {"event": "slide", **asdict(outcome)})


def events(path: Path) -> Iterator[dict[str, Any]]:
    """All lines, oldest first. A torn last line (the machine went down in it) is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # splitlines would cut at U+2028 too
        try:
            yield json.loads(line)
        except ValueError:
            continue


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
