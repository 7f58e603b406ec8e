"""Reading in a process of its own: a slide that aborts, hangs or devours memory costs that slide, and nothing else.

libopenslide and libtiff are C: some damaged files make them call abort() or loop, which no `except` can catch. So
first contact and all decoding happen in a child process (`tiling.child`) with a deadline and a memory cap. Tiles
come back through shared memory without being copied or pickled.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tiling.frames import Arrays, Silence, receive, send
from tiling.grid import TileBatch, TileGrid, TileSpec, TissueMask
from tiling.tissue import TissueConfig
from wsi.errors import ReaderCrashed, ReaderMemory, ReaderTimeout, SetupError, SlideError, from_record
from wsi.facts import SlideFacts
from wsi.geometry import Region
from wsi.location import Location, address, located, without_secrets
from wsi.opening import READERS

MIN_SHARED_BYTES = 128 * 2**20  # of /dev/shm; containers may have as little as 64 MiB
HASHES = "quick", "full"
SLOTS = 3  # batches in shared memory: one being encoded, one ready, one being filled
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory", "failed to allocate")  # GLib's is the last


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """How slides are read. None of it changes a pixel except `name`, which is kept with the features."""

    name: str = (
        "auto"  # auto, fast, openslide, tiffslide, image, omezarr, or package.module:callable for one of your own
    )
    threads: int = 2  # decoding threads per slide
    timeout_s: float = 300.0  # a reader that says nothing for so long is killed and its slide refused
    memory_gb: float = 8.0  # address space of the reader process; 0 sets no cap
    max_unreadable: float = 0.01  # a slide of which a larger share of tiles cannot be decoded is refused
    hash: str = "quick"  # of a slide's files: quick takes samples; full reads them whole, and finds silent damage

    def __post_init__(self) -> None:
        if self.threads < 1 or self.timeout_s <= 0 or self.memory_gb < 0:
            raise ValueError("threads and timeout_s must be positive, memory_gb 0 or more")
        if not (math.isfinite(self.timeout_s) and math.isfinite(self.memory_gb)):
            raise ValueError("timeout_s and memory_gb must be finite")
        if self.name not in ("auto", *READERS) and ":" not in self.name:
            raise ValueError(
                f"there is no reader {self.name!r}: auto, {', '.join(READERS)}, or package.module:callable"
            )
        if self.hash not in HASHES:
            raise ValueError(f"hash is {' or '.join(HASHES)}, not {self.hash!r}")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"max_unreadable is a share between 0 and 1, not {self.max_unreadable}")


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is asked of a slide before its tiles are read."""

    tissue: TissueConfig
    tile: TileSpec
    thumbnail_px: int = 1024
    drawn: DrawnFile | None = None  # tissue is taken from it, not detected


@dataclass(frozen=True, slots=True)
class DrawnFile:
    """A file of tissue areas, and what it held when it was first read."""

    path: Path
    digest: str  # of the areas
    sha256: str  # of the bytes


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSlide:
    """The answer: an overview, where tissue is, and which tiles will be read."""

    facts: SlideFacts
    thumbnail: NDArray[np.uint8]  # (h, w, 3), covers facts.bounds
    mask: TissueMask
    grid: TileGrid
    notes: tuple[str, ...]  # sentences about the slide that a person should read


class ReaderProcess:
    """A supervised reader: use as a context manager, one slide at a time, any number one after another.

    Every call raises the slide's own SlideError, or ReaderCrashed, ReaderTimeout, ReaderMemory. After one of those
    three the process has been replaced and the next slide may be opened. SetupError where the machine has no room for
    the process or its tiles.
    """

    def __init__(self, config: ReaderConfig) -> None:
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._path = ""
        self._facts: SlideFacts | None = None
        self._grid: TileGrid | None = None

    def __enter__(self) -> ReaderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: Location | str, mpp: float | None = None, mpp_if_missing: float | None = None) -> SlideFacts:
        """Opens a slide in the child, closing the one before.

        The file's own mpp gives way to `mpp`; `mpp_if_missing` serves where there is none.
        """
        where = located(path)
        self._path, self._facts, self._grid = str(where), None, None
        self._start()
        request = {"do": "open", "path": address(where), "reader": self.config.name}
        header, _ = self._ask({**request, "mpp": mpp, "mpp_if_missing": mpp_if_missing})
        self._facts = SlideFacts.from_json(header["facts"])
        return self._facts

    def annotations(self, path: Path) -> DrawnFile:
        """Reads a GeoJSON file of tissue areas in the child: it may come from anywhere. Needs no open slide.

        Raises TissueInvalid for a file that cannot be used.
        """
        self._path = str(path)
        self._start()
        told, _ = self._ask({"do": "annotations", "path": str(path)})
        return DrawnFile(path, told["digest"], told["sha256"])

    def prepare(self, wanted: Preparation) -> PreparedSlide:
        """Thumbnail, tissue and grid of the open slide."""
        assert self._facts is not None, "open a slide first"
        drawn = None if wanted.drawn is None else (str(wanted.drawn.path), wanted.drawn.digest)
        request = {"do": "prepare", "thumbnail_px": wanted.thumbnail_px, "drawn": drawn}
        header, arrays = self._ask({**request, "tissue": asdict(wanted.tissue), "tile": asdict(wanted.tile)})
        mask = TissueMask(arrays["inside"], header["mask"]["px"], tuple(header["mask"]["origin"]))
        place = header["grid"]
        self._grid = TileGrid(
            wanted.tile,
            tuple(place["origin"]),
            place["span_px"],
            place["stride_px"],
            arrays["keep"],
            arrays["fraction"],
        )
        return PreparedSlide(self._facts, arrays["thumbnail"], mask, self._grid, tuple(header["notes"]))

    def tiles(self, batch_size: int, start: int = 0) -> Generator[TileBatch, None, None]:
        """Batches of the prepared grid in grid order, from kept tile `start` on; the child reads ahead of the consumer.

        A batch's pixels live in shared memory and are overwritten once the next batch is asked for: copy to keep.
        """
        assert self._grid is not None, "prepare the slide first"
        size = self._grid.spec.size_px
        shape = (SLOTS, batch_size, size, size, 3)
        self._reserve(int(np.prod(shape)))
        slots = np.frombuffer(mmap.mmap(self._ring.fileno(), int(np.prod(shape))), np.uint8).reshape(shape)
        request = {"do": "tiles", "batch_size": batch_size, "start": start, "slots": SLOTS}
        done = False
        try:
            header, arrays = self._ask({**request, "threads": self.config.threads})
            while "end" not in header:
                count = len(arrays["cells"])
                yield TileBatch(slots[header["slot"], :count], arrays["cells"], arrays["status"], arrays["flags"])
                header, arrays = self._ask({"free": header["slot"]})
            done = True
        finally:
            if not done:  # an error, or a consumer that stopped early: the stream cannot be rejoined
                self.close()

    def crops(self, regions: list[Region], size_px: int) -> NDArray[np.uint8]:
        """Pixels of some regions of the open slide, (n, size_px, size_px, 3)."""
        corners = [(r.x, r.y, r.width, r.height) for r in regions]
        return self._ask({"do": "crops", "regions": corners, "size_px": size_px})[1]["pixels"]

    def close(self) -> None:
        """Ends the child at once; a further `open` starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        self._held.close()

    def _start(self) -> None:
        if self._process is not None:
            return
        try:
            self._process = self._started()
        except OSError as error:
            raise SetupError(
                f"A process for reading slides cannot be started: {error}.",
                hint="See to it that this machine has room for temporary files, processes and open files.",
            ) from error

    def _started(self) -> subprocess.Popen[bytes]:
        """A new child. What this process holds of it is in `_held`, and is given back if it cannot be started."""
        with contextlib.ExitStack() as held, contextlib.ExitStack() as childs:
            child_in, self._inbox = os.pipe()
            childs.callback(os.close, child_in)
            held.callback(os.close, self._inbox)
            self._outbox, child_out = os.pipe()
            childs.callback(os.close, child_out)
            held.callback(os.close, self._outbox)
            # Both files have no name: nothing is left behind when this process is killed.
            self._ring: BinaryIO = held.enter_context(tempfile.TemporaryFile(dir=_memory_folder()))
            self._log: BinaryIO = held.enter_context(tempfile.TemporaryFile())
            fds = (child_in, child_out, self._ring.fileno())
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tiling.child", *map(str, fds), str(int(self.config.memory_gb * 2**30))],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "ERROR"},
            )
            self._held = held.pop_all()
            return process

    def _reserve(self, count: int) -> None:
        """Makes the ring so large, in earnest: memory that is only promised kills whoever writes to it."""
        try:
            os.posix_fallocate(self._ring.fileno(), 0, count)
        except OSError as error:
            where = _memory_folder() or tempfile.gettempdir()
            raise SetupError(
                f"{where}: there is no room for {count >> 20} MiB of tiles ({error.strerror}).",
                hint="Give the container more of it (docker run --shm-size=1g), or a smaller encoder.batch_size.",
            ) from None

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], Arrays]:
        if self._process is None:
            raise ReaderCrashed(f"{self._path}: its reader process has already ended.", hint="Open the slide again.")
        try:
            send(self._inbox, request)
            header, arrays = receive(self._outbox, self.config.timeout_s)
        except Silence:
            self.close()
            raise self._timeout() from None
        except (EOFError, BrokenPipeError):
            raise self._death() from None
        if "error" in header:
            raise from_record(header["error"])
        if "bug" in header:
            raise RuntimeError(f"{self._path}: the reader failed\n{header['bug']}")
        return header, arrays

    def _timeout(self) -> ReaderTimeout:
        return ReaderTimeout(
            f"{self._path}: the reader said nothing for {self.config.timeout_s:g} s and was stopped.",
            hint="The file or its storage hangs; copy it to a local disk, or allow more time with --slide-timeout.",
            path=self._path,
        )

    def _death(self) -> SlideError:
        """Why the child is gone, after it went without a word."""
        process, path = self._process, self._path
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.returncode
        words = self._last_words()
        self.close()
        cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if any(told in words for told in _OUT_OF_MEMORY):
            return ReaderMemory(
                f"{path}: reading it took more than the {self.config.memory_gb:g} GiB the reader may have ({cause}).",
                hint="Raise reader.memory_gb if this slide is worth it.",
                path=path,
            )
        return ReaderCrashed(
            f"{path}: the reader process died of it ({cause}).{' It said: ' + words if words else ''}",
            hint="The file is very likely damaged: fetch it again or leave it out.",
            path=path,
            cause=cause,
        )

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return without_secrets(lines[-1])[:300] if lines else ""


def _memory_folder() -> str | None:
    """Where a file is memory; None for the folder of temporary files where there is no such place, or little of it."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > MIN_SHARED_BYTES else None
