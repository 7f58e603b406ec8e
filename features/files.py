"""Files that are whole or not there: atomic writes, swapped folders, and names for a disk that refuses."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as f:
            f.write(data)
            if durable:
                f.flush()
                os.fsync(f.fileno())
        aside.replace(path)
    except OSError as error:
        if error.filename == str(aside):
            error.filename = str(path)  # what people know it by
        aside.unlink(missing_ok=True)
        raise


def remove_tree(folder: Path) -> None:
    """Removes a folder and all in it; one that is not there is no error."""
    if folder.exists():
        shutil.rmtree(folder)


def fsync_tree(folder: Path) -> None:
    """Waits until the disk holds every file and every folder entry below `folder`."""
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def swap_folder(new: Path, dest: Path) -> None:
    """Puts the folder `new` in the place of `dest`, on the same file system.

    A folder that is not empty cannot be renamed over, so an old one steps aside first. Between the two renames there
    is no `dest`: a reader may find nothing for that moment, never half of something.
    """
    old = old_path(dest)
    remove_tree(old)
    if dest.exists():
        dest.rename(old)
    new.rename(dest)
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
