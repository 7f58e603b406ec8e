"""`--hash full`: the SHA-256 of all bytes of a slide's files, taken beside the work on its tiles."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.filecheck import slide_files
from pipeline.manifest import SlideEntry
from pipeline.record import SlideRecord
from wsi.errors import ReaderTimeout, SlideChanged, SlideError, SlideMissing
from wsi.files import fingerprint
from wsi.identity import streamed_sha256
from wsi.location import Location

FULL = "full"  # of reader.hash


def rehashed(record: SlideRecord, entry: SlideEntry, silence_s: float) -> SlideRecord:
    """The record with the digests of the slide's files as they are now, if it is the slide that it was by its samples.

    Of a remote slide nothing is hashed. Raises SlideChanged where it had other digests: features of such a file would
    stand in the place of good ones.
    """
    if not isinstance(entry.path, Path):
        return record
    try:
        files = slide_files(record.facts, entry)
        if fingerprint(files) != record.facts.fingerprint:
            return record  # another file, which is noticed where reuse is decided
        with SlideHash(files, silence_s) as hashing:
            now = hashing.result()
    except (OSError, SlideError):
        return record  # opening it will say why
    if record.sha256 and now != record.sha256:
        other = next(name for name in {**record.sha256, **now} if record.sha256.get(name) != now.get(name))
        raise SlideChanged(
            f"{entry.path}: its bytes changed since they were first read, though its length and samples are as they "
            f"were ({other}): silent damage, most likely.",
            hint="Fetch it again from where it came from; if it is meant, delete its results and run again.",
            path=str(entry.path),
        )
    return replace(record, sha256=now)


class SlideHash:
    """Hashes local files in a thread of its own from when it is entered; leaving it ends the thread.

    A thread, since hashing lets go of Python's lock; and no pool, since a file system that hangs must not keep the
    process from ending.
    """

    def __init__(self, files: Sequence[Location], silence_s: float) -> None:
        """`files` are those of one slide, the main one first; `silence_s` is how long storage may say nothing."""
        self._files = [file for file in files if isinstance(file, Path)]  # remote ones are read in parts only
        self._silence_s = silence_s
        self._parts, self._stopped = 0, False
        self._found: dict[str, str] = {}
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="slide hash", daemon=True)

    def result(self) -> dict[str, str]:
        """Digests by the files' paths below the folder of the main one; empty for a remote slide. Waits for them.

        Raises SlideMissing where a file cannot be read, ReaderTimeout where the storage hangs.
        """
        before = -1
        while self._thread.is_alive():
            if before == self._parts:
                where = self._files[0]
                raise ReaderTimeout(
                    f"{where}: its storage gave nothing for {self._silence_s:g} s while the file was read whole.",
                    hint="Copy it to a local disk, or allow more time with --slide-timeout.",
                    path=str(where),
                )
            before = self._parts
            self._thread.join(self._silence_s)
        if self._error is not None:
            where, why = self._files[0], self._error
            raise SlideMissing(
                f"{where}: cannot be read whole ({why}).", hint="Check the file and its permissions.", path=str(where)
            )
        return self._found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped = True

    def _work(self) -> None:
        try:
            for file in self._files:
                name = os.path.relpath(file, self._files[0].parent)
                self._found[name] = streamed_sha256(file, self._go_on)
        except OSError as error:
            self._error = error

    def _go_on(self) -> bool:
        self._parts += 1
        return not self._stopped
