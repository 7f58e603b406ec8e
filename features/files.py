"""Files that are whole or not there: atomic writes, swapped folders, and names for a disk that refuses."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi.errors import NoSpace, StorageError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "this user's quota is used up",
}
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk answers with an input/output error",
    errno.EISDIR: "a folder lies where the file is to be",
    errno.ENOTDIR: "a file lies where its folder is to be",
    errno.EEXIST: "a file lies where its folder is to be",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Gives OSErrors of the disk their own names; `path` is what was being written or read.

    Raises NoSpace where the disk or a quota is full, StorageError where it refuses; other OSErrors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        where = str(error.filename or path)
        if error.errno in _FULL:
            hint = "Free some space or choose another output folder, then run the same command again: it continues."
            raise NoSpace(f"{where}: {_FULL[error.errno]}.", hint=hint, path=where) from error
        if error.errno in _REFUSED:
            read_only = error.errno == errno.EROFS
            hint = "Mount it for writing" if read_only else "Check the owner and mode of the folder"
            hint += ", or choose another output folder."
            raise StorageError(f"{where}: {_REFUSED[error.errno]}.", hint=hint, path=where) from error
        raise


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces `path` by `data` as one step: readers see the old file or the new one, whatever happens.

    `durable=False` skips waiting for the disk: enough against a killed process, not against a power cut.
    """
    aside = aside_of(path)
    try:
        write_bytes(aside, data, durable=durable)
        aside.replace(path)
    except OSError as error:
        if error.filename == str(aside):
            error.filename = str(path)  # what people know it by
        aside.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes a file that nobody looks at yet; with `durable`, waits until the disk has it."""
    with open(path, "wb") as f:
        f.write(data)
        if durable:
            f.flush()
            os.fsync(f.fileno())


def aside_of(path: Path, ending: str = "tmp") -> Path:
    """A name beside `path` that no other process or thread has, on this machine or another: `.NAME.TOKEN.ending`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


def asides_of(path: Path, ending: str = "tmp") -> list[Path]:
    """All that lies beside `path` under such a name, whoever put it there. Names without a token are found too."""
    if not path.parent.is_dir():
        return []
    beside = (p for p in path.parent.iterdir() if p.name.startswith(f".{path.name}."))
    return sorted(p for p in beside if p.name.endswith(f".{ending}"))


def remove_tree(folder: Path) -> None:
    """Removes a folder and all in it; one that is not there, or that somebody else removes, is no error."""
    while folder.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def fsync_tree(folder: Path) -> None:
    """Waits until the disk holds every file and every folder entry below `folder`."""
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def swap_folder(new: Path, dest: Path) -> None:
    """Puts the folder `new` in the place of `dest`, on the same file system.

    A folder that is not empty cannot be renamed over, so an old one steps aside first. Between the two renames there
    is no `dest`: a reader may find nothing for that moment, never half of something. Where `new` is gone, since
    somebody took it away, `dest` stays as it was.
    """
    old = old_path(dest)
    remove_tree(old)
    if dest.exists():
        dest.rename(old)
    try:
        new.rename(dest)
    except OSError:
        with suppress(OSError):  # none was there, or somebody else has put another in its place
            old.rename(dest)
        raise
    _fsync(dest.parent)
    remove_tree(old)


def old_path(dest: Path) -> Path:
    """Where `swap_folder` keeps the replaced folder until the new one is in place."""
    return dest.with_name(f".{dest.name}.old")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no fsync of a folder; the rename has then done all that can be done.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)
