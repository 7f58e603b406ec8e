"""Whose a slide is, among all processes that work on one output folder, on one machine or on several.

A claim is the folder `slides/<id>/.claim` with `owner.json` in it. It is made aside and renamed into place, which goes
well for exactly one of any number of processes, needs no hard links, and leaves no moment in which a claim has no
owner. Its owner writes a higher beat into it every few seconds; a claim whose owner is gone, or has been silent for
long, is renamed away by others.

Whoever was only asleep or cut off finds on waking that the claim is not there under its name. What counts is
committed by one rename *out of the claim's folder* (`Claim.commit`), and that is refused by the file system once the
folder is elsewhere: between a look at the claim and the commit there is no gap to be asleep in.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from features.files import aside_of, asides_of, remove_tree, storage_errors, write_bytes
from wsi.errors import StorageError

CLAIM = ".claim"
_OWNER = "owner.json"
_ASIDE = "aside"  # ending of the names under which claims are made and taken away
_OTHERS = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)  # somebody has made the claim, or removed the empty folder
_TRIES = 20  # a claim may come and go while one looks; so often in a row it does not


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an owner gives a sign of life, and for how long others wait for one."""

    beat_s: float = 10.0
    silent_s: float = 60.0  # by the clock of who watches, which is compared with no other


PACE = Pace()


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has a claim."""

    host: str  # for people
    place: str  # the running kernel and its table of processes: where `pid` means something; "" if not known
    pid: int
    started: str  # in ticks since that kernel's start: another process of the same number differs
    token: str  # of this one claim
    beat: int = 0

    @classmethod
    def me(cls) -> Owner:
        """This process, with a new token."""
        pid = os.getpid()
        return cls(socket.gethostname(), _place(), pid, _started(pid), secrets.token_hex(8))

    @classmethod
    def of(cls, content: bytes) -> Owner | None:
        """Who wrote it; None where that cannot be told, as after a power cut."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def content(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def is_gone(self) -> bool:
        """True only if it ran under this kernel, and no longer does."""
        return bool(self.place) and self.place == _place() and not _runs(self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class SlideTaken(Exception):
    """Another process has the slide: it had it before, or has taken it over since. Ends no run."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(str(owner or "another process"))


class Claim:
    """A folder that is this process's until the end of the `with` block, or until others have missed it for long."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / CLAIM
        self.owner = Owner.me()
        self._lost = False
        self._over = threading.Event()
        self._heart: threading.Thread | None = None

    @classmethod
    def of(cls, folder: Path, pace: Pace = PACE) -> Claim:
        """Claims a folder, which is made if missing, and takes over from an owner who is gone for certain.

        Raises SlideTaken, and NoSpace or StorageError where the disk refuses.
        """
        claim = cls(folder)
        with storage_errors(folder):
            for _ in range(_TRIES):
                seen = look(folder)
                if seen is not None:
                    owner = Owner.of(seen)
                    if owner is None or not owner.is_gone:
                        raise SlideTaken(owner)
                    take_away(folder, seen)
                if claim._made():
                    claim._start(pace.beat_s)
                    return claim
        raise SlideTaken(None)

    def check(self) -> None:
        """Raises SlideTaken once others have taken the folder over, and ever after."""
        with storage_errors(self.path):
            seen = None if self._lost else look(self.folder)
        if seen is None or not self._is_mine(seen):
            self._lost = True
            raise SlideTaken(Owner.of(seen or b""))

    def commit(self, path: Path, data: bytes) -> None:
        """Replaces a file of the claimed folder in one step, and only while the claim holds. Waits for the disk.

        Raises SlideTaken, and NoSpace or StorageError where the disk refuses.
        """
        self._put(path, data, durable=True)

    def beat(self) -> None:
        """Gives a sign of life. Raises what `commit` does."""
        self.owner = replace(self.owner, beat=self.owner.beat + 1)
        self._put(self.path / _OWNER, self.owner.content(), durable=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the claim back, also in an error or an interrupt. Where the disk refuses, it is left to be missed."""
        self._over.set()
        if self._heart is not None:
            self._heart.join()
        with contextlib.suppress(OSError):
            seen = look(self.folder)
            if seen is not None and self._is_mine(seen):
                take_away(self.folder, seen)
            self.folder.rmdir()  # if nothing came of it
            self.folder.parent.rmdir()

    def _made(self) -> bool:
        """Makes the claim in one step. False where somebody else was faster."""
        aside = aside_of(self.path, _ASIDE)
        try:
            aside.mkdir(parents=True)
            write_bytes(aside / _OWNER, self.owner.content(), durable=False)
            aside.rename(self.path)
        except OSError as error:
            _remove(aside)
            if error.errno in _OTHERS or look(self.folder) is not None:
                return False
            raise
        for left in asides_of(self.path, _ASIDE):  # of killed processes; others that are at it begin again
            _remove(left)
        return True

    def _start(self, beat_s: float) -> None:
        self._heart = threading.Thread(target=self._live, args=(beat_s,), name="claim", daemon=True)
        self._heart.start()

    def _live(self, beat_s: float) -> None:
        while not (self._over.wait(beat_s) or self._lost):
            # A disk that refuses may do better at the next beat. Whether the claim holds, its owner finds out himself.
            with contextlib.suppress(SlideTaken, StorageError, OSError):
                self.beat()

    def _put(self, path: Path, data: bytes, *, durable: bool) -> None:
        aside = self.path / f"{self.owner.token}-{threading.get_ident()}"
        for left in reversed(range(_TRIES)):
            try:
                with storage_errors(path):
                    # In this order: if the claim is one's own after the file was put into it, the file is in one's
                    # own, and goes with it should it be taken away now.
                    write_bytes(aside, data, durable=durable)
                    self.check()
                    aside.replace(path)
                return
            except FileNotFoundError:
                self.check()  # holds: it was taken for another's, and has been put back
                if not left:
                    raise
            finally:
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)

    def _is_mine(self, seen: bytes) -> bool:
        owner = Owner.of(seen)
        return owner is not None and owner.token == self.owner.token


def look(folder: Path) -> bytes | None:
    """What the claim on a folder says; b"" where it says nothing, None where there is none."""
    for _ in range(_TRIES):
        try:
            return (folder / CLAIM / _OWNER).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if not (folder / CLAIM).is_dir():
                return None
        except OSError as error:
            if error.errno != errno.ESTALE:  # NFS: replaced while it was read
                raise
    return b""


def is_claim(path: Path) -> bool:
    """True for the name of a claim, or of one that is being made or taken away."""
    return path.name == CLAIM or (path.name.startswith(f".{CLAIM}.") and path.name.endswith(f".{_ASIDE}"))


def take_away(folder: Path, seen: bytes) -> None:
    """Removes the claim on a folder if it still says what was seen. Whoever had it can commit nothing more."""
    claim = folder / CLAIM
    aside = aside_of(claim, _ASIDE)
    with contextlib.suppress(FileNotFoundError):  # somebody else was faster
        claim.rename(aside)
        if _said(aside) != seen:  # a sign of life, or a new claim, since it was seen: put back
            with contextlib.suppress(OSError):  # somebody has made a claim since: then that one holds
                aside.rename(claim)
        _remove(aside)


def _said(aside: Path) -> bytes:
    path = aside / _OWNER
    return path.read_bytes() if path.exists() else b""


def _remove(aside: Path) -> None:
    with contextlib.suppress(OSError):  # a sleeper that wakes up may be putting something in just now
        remove_tree(aside)


def _place() -> str:
    """The running kernel and the process namespace; a container has numbers of its own. "" where it does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started; "" where that cannot be told, "over" of one that only waits to be buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "over" if fields[0] in "ZX" else fields[19]


def _runs(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    return _started(pid) in ("", started)
