"""Whether the file of a finished slide is still the one that its results were made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.manifest import SlideEntry, printable
from pipeline.notes import UNCHECKED
from wsi.errors import SlideError
from wsi.facts import SlideFacts
from wsi.files import fingerprint
from wsi.location import Location, RemoteFile
from wsi.readers import unreachable


@dataclass(frozen=True, slots=True)
class FileCheck:
    """What became of the file."""

    problem: str = ""  # why the slide has to be done again
    notes: tuple[str, ...] = ()  # that it could not be looked at


def check_file(facts: SlideFacts, entry: SlideEntry) -> FileCheck:
    """Reads at most 1 MiB a file of the slide.

    A file that cannot be read now, where it was before, is no sign of change: its server, its disk or its credentials
    are away, or it was cleared away once it was done. Somewhere else, nothing tells that it is the same slide.
    """
    try:
        unchanged = fingerprint(slide_files(facts, entry)) == facts.fingerprint
    except (OSError, SlideError) as error:
        if str(entry.path) != facts.path:
            return FileCheck("slide file not readable")
        told = unreachable(entry.path, error) if isinstance(error, OSError) else error
        return FileCheck(notes=(printable(f"{UNCHECKED}: {told.message}"),))
    return FileCheck() if unchanged else FileCheck("slide file changed")


def slide_files(facts: SlideFacts, entry: SlideEntry) -> list[Location]:
    """The slide's files where they are now: a folder of slides may have been moved as a whole."""
    now, was = entry.path, Path(facts.path)
    if isinstance(now, RemoteFile):
        return [now]
    return [now if f == facts.path else now.parent / Path(f).relative_to(was.parent) for f in facts.files]
