"""Who may work in an output folder at the same time: runs of the same settings, or one command of any other kind.

This is about mistakes, and told at once; that no slide is done twice is left to `pipeline.claims`, which needs no
locks. File systems without them (ENOLCK and its like) are used without.
"""

from __future__ import annotations

import errno
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from features.files import storage_errors
from wsi.errors import StorageError, UsageError

_NAME = ".lock"
_WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_TRIES, _PAUSE_S = 20, 0.05  # a run that begins or ends holds the folder alone for a moment


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps everybody else out. The lock ends with its process, however that ends. Raises StorageError."""
    with _opened(folder) as file:
        if not _locked(file, fcntl.LOCK_EX):
            raise _occupied(folder)
        yield


@contextmanager
def unchanging(folder: Path) -> Iterator[None]:
    """As `alone`, for a process that only reads; a folder that may not be written is open to it as well."""
    with ExitStack() as held:
        try:
            file = held.enter_context(_opened(folder))
        except StorageError:  # not ours to write: then no run of ours works here either
            pass
        else:
            if not _locked(file, fcntl.LOCK_EX):
                raise StorageError(
                    f"{folder}: a run is working in this folder, so what is there is half done.",
                    hint="Wait for it to end.",
                )
        yield


@contextmanager
def shared(folder: Path, settings: Mapping[str, Any]) -> Iterator[bool]:
    """Lets others in that come with the same settings; gives False where such a run is at work already.

    Raises UsageError naming what differs, StorageError where another command has the folder for itself.
    """
    with _opened(folder) as file:
        first = _joined(folder, file, dict(settings))
        try:
            yield first
        finally:
            with suppress(OSError):
                if _locked(file, fcntl.LOCK_EX):  # the last to leave
                    file.truncate(0)


def _joined(folder: Path, file: IO[str], settings: dict[str, Any]) -> bool:
    refusal: Exception = _occupied(folder)
    for left in reversed(range(_TRIES)):
        if first := _locked(file, fcntl.LOCK_EX):
            _write(file, settings)
        # From alone to shared there is a moment without a lock, in which another may have come to be the first.
        if _locked(file, fcntl.LOCK_SH):
            changed = _differing(_read(file), settings)
            if not changed:
                return first
            refusal = UsageError(
                f"{folder}: a run with other settings is working in this folder ({', '.join(changed)}).",
                hint="Give it the same settings, wait for it, or choose another folder with -o.",
            )
        if left:
            time.sleep(_PAUSE_S)
    raise refusal


def _opened(folder: Path) -> IO[str]:
    with storage_errors(folder / _NAME):
        return open(folder / _NAME, "a+", encoding="utf-8")


def _locked(file: IO[str], kind: int) -> bool:
    """True if it was to be had, or there is no such thing here. A lock that was held before is given up."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise
    return True


def _write(file: IO[str], settings: dict[str, Any]) -> None:
    """In place: another file would have another lock."""
    with storage_errors(Path(file.name)):
        file.truncate(0)
        file.write(json.dumps(settings))
        file.flush()


def _read(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.load(file)
    except ValueError:
        return {}  # left by a process that was killed in writing it: nobody is at work under it
    return found if isinstance(found, dict) else {}


def _differing(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What both tell, and not alike."""
    ours = json.loads(json.dumps(ours))
    return [f"{k}: {theirs[k]} there, {ours[k]} here" for k in ours if k in theirs and theirs[k] != ours[k]]


def _occupied(folder: Path) -> StorageError:
    return StorageError(
        f"{folder}: another run is working in this folder, or a `wsi verify`.",
        hint="Wait for it, or choose another with -o.",
    )
