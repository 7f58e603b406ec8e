"""Files that are reached by URL, through fsspec: a few bytes here and there of a file that is never fetched whole.

Bytes come in aligned blocks that are kept, neighbours in one request, many requests at a time. Every foreign error
becomes a sentence of ours, without the secrets of the URL.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar, cast

from wsi.errors import SlideError, SlideUnreachable, SlideUnsupported
from wsi.location import RemoteFile
from wsi.remote_errors import no_protocol, refusal, whole_only

BLOCK = 1 << 16  # bytes: of some tiles, and of what the ends of a request fetch in vain
KEPT_BLOCKS = 1024  # 64 MiB
RUN_BLOCKS = 64  # in one request, 4 MiB
AT_ONCE = 16  # requests
PAUSES_S = (0.3, 2.0)  # before the second and the third try
CONNECT_S, SILENCE_S = 20, 60  # of http; the reader process as a whole has its own deadline
_HTTP = ("http", "https")

Answer = TypeVar("Answer")
Range = tuple[int, int]  # first byte, and the one after the last


class RemoteBytes:
    """The bytes of one remote file. Safe to use from several threads; never pickled.

    Opening it raises SlideMissing (not there, or not to be read), SlideUnsupported (no package for its protocol, or a
    server that gives no parts of files), SlideUnreachable (no answer, three times); reading raises the same.
    """

    def __init__(self, where: RemoteFile) -> None:
        self.where = where
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.failure: SlideError | None = None  # the last one: libraries between here and the reader may swallow it
        self._system, self._key = self._tried(lambda: _file_system(where))  # some connect at once
        info = self._tried(lambda: self._system.info(self._key))
        if info.get("type") == "directory":
            hint = "Name its files, in a CSV with a column `slide`."
            raise SlideUnsupported(
                f"{where} is a folder, and folders are not searched there.", hint=hint, path=str(where)
            )
        self.version = str(info.get("ETag") or info.get("etag") or info.get("Last-Modified") or "")
        self.size = self._size(info)

    def pread(self, n_bytes: int, offset: int) -> bytes:
        """The bytes from `offset` on, as os.pread: fewer than `n_bytes` at the end of the file."""
        end = min(offset + n_bytes, self.size)
        if offset >= end:
            return b""
        first = offset // BLOCK
        blocks = self._blocks(range(first, -(-end // BLOCK)))
        return b"".join(blocks)[offset - first * BLOCK : end - first * BLOCK]

    def prefetch(self, ranges: Iterable[Range]) -> None:
        """Fetches what will be read next, all at once; at most half of what is kept."""
        wanted = {block for first, end in ranges if first < end for block in range(first // BLOCK, -(-end // BLOCK))}
        within = sorted(block for block in wanted if block * BLOCK < self.size)
        self._blocks(within[: KEPT_BLOCKS // 2])

    def file(self) -> BinaryIO:
        """A view with a position of its own, as libraries take in place of a path."""
        return cast(BinaryIO, _View(self))

    def close(self) -> None:
        self._kept.clear()

    def _blocks(self, numbers: Sequence[int]) -> list[bytes]:
        """These blocks, in this order, from what is kept or from afar."""
        with self._lock:
            found = {n: self._kept[n] for n in numbers if n in self._kept}
        for run, data in self._fetched(_runs([n for n in numbers if n not in found])):
            found |= {n: data[(n - run.start) * BLOCK : (n - run.start + 1) * BLOCK] for n in run}
        with self._lock:
            for n in numbers:
                self._kept[n] = found[n]
                self._kept.move_to_end(n)
            while len(self._kept) > KEPT_BLOCKS:
                self._kept.popitem(last=False)
        return [found[n] for n in numbers]

    def _fetched(self, runs: list[range]) -> Iterator[tuple[range, bytes]]:
        """The bytes of each run of blocks. What one try brought is not asked for again in the next."""
        answers: dict[range, bytes] = {}

        def ask() -> None:
            rest = [run for run in runs if run not in answers]
            given = self._ranges([(run.start * BLOCK, min(run.stop * BLOCK, self.size)) for run in rest])
            answers.update((run, data) for run, data in zip(rest, given, strict=True) if isinstance(data, bytes))
            for data in given:
                if isinstance(data, Exception):
                    raise data

        if runs:
            self._tried(ask)
        yield from answers.items()

    def _ranges(self, ranges: list[Range]) -> list[bytes | Exception]:
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        options = {"batch_size": AT_ONCE} if getattr(self._system, "async_impl", False) else {}
        given = self._system.cat_ranges([self._key] * len(ranges), starts, ends, on_error="return", **options)
        return [_whole(data, end - start) for data, (start, end) in zip(given, ranges, strict=True)]

    def _tried(self, call: Callable[[], Answer]) -> Answer:
        """The answer of one call into a storage library; asked again where the network or the server failed.

        All that it raises is its refusal, whatever the class: there are dozens of these libraries, each with its own.
        """
        pauses = iter(PAUSES_S)
        while True:
            try:
                return call()
            except (MemoryError, SlideError):
                raise
            except Exception as error:
                told = refusal(self.where, error)
            pause = next(pauses, None)
            if pause is None or not isinstance(told, SlideUnreachable):
                self.failure = told
                raise told  # outside of `except`: with its context, a traceback would show the URL
            time.sleep(pause)

    def _size(self, info: dict[str, Any]) -> int:
        """Its length, after a look whether parts of it can be had: the last block, which is wanted anyway."""
        size = info.get("size")
        if size is None or info.get("partial") is False:
            raise whole_only(self.where)
        last = max(0, size - 1) // BLOCK
        if last and self.where.schemes[0] in _HTTP:
            self._kept[last] = self._tried(lambda: self._looked_at(last * BLOCK, size))
        return int(size)

    def _looked_at(self, start: int, size: int) -> bytes:
        """The end of the file, in the one way that stops at a server that sends the whole of it instead."""
        with self._system.open(self._key, block_size=BLOCK, cache_type="none", size=size) as file:
            file.seek(start)
            return bytes(file.read(size - start))


class _View(io.RawIOBase):
    """A position in a remote file."""

    def __init__(self, source: RemoteBytes) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._source.size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, room: Any) -> int:
        bare = memoryview(room).cast("B")  # NumPy's arrays of numbers, too
        data = self._source.pread(len(bare), self._at)
        bare[: len(data)] = data
        self._at += len(data)
        return len(data)


def fingerprint(where: RemoteFile) -> str:
    """Tells a remote slide from its replacement: URL without secrets, length, ETag or date, head and tail."""
    source = RemoteBytes(where)
    sha = hashlib.sha256(f"{where}\0{source.size}\0{source.version}\0".encode(errors="surrogatepass"))
    sha.update(source.pread(BLOCK, 0))
    sha.update(source.pread(BLOCK, max(0, source.size - BLOCK)))
    return sha.hexdigest()


def _file_system(where: RemoteFile) -> tuple[Any, str]:
    """The file system of a URL and the file's name in it. Raises SlideUnsupported where no package has its protocol."""
    try:
        from fsspec.core import url_to_fs

        http = [scheme for scheme in where.schemes if scheme in _HTTP]
        options = _http_options() if http else {}
        chained = len(where.schemes) > 1
        return url_to_fs(where.url, **(dict.fromkeys(http, options) if chained else options))
    except (ImportError, ValueError) as error:
        raise no_protocol(where, error) from None


def _http_options() -> dict[str, Any]:
    """Silence has an end, proxies and .netrc are honoured, and nothing is packed: ranges are of the file itself."""
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True},
        "headers": {"Accept-Encoding": "identity"},
    }


def _runs(numbers: list[int]) -> list[range]:
    """Sorted numbers as runs without a gap, of at most RUN_BLOCKS."""
    runs: list[range] = []
    for n in numbers:
        if runs and runs[-1].stop == n and len(runs[-1]) < RUN_BLOCKS:
            runs[-1] = range(runs[-1].start, n + 1)
        else:
            runs.append(range(n, n + 1))
    return runs


def _whole(data: bytes | Exception, n_bytes: int) -> bytes | Exception:
    """An answer, or in its place an error if it is not as long as it should be."""
    if isinstance(data, Exception) or len(data) == n_bytes:
        return data
    return OSError(f"{n_bytes:,} bytes were asked for, and {len(data):,} came")
