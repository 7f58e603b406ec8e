"""Messages between the reader process and its supervisor: a JSON header with named arrays behind it.

A frame is two little-endian uint64 (bytes of header, bytes of payload), the header as UTF-8 JSON, and the arrays'
bytes in the order the header lists them. No pickle: a process that parses damaged files can at worst say a wrong
number, never code.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTHS = struct.Struct("<QQ")
MAX_FRAME = 1 << 30  # a header that asks for more than this is not one of ours

Arrays = dict[str, NDArray[Any]]


class Silence(Exception):
    """Nothing came within the deadline."""


def send(fd: int, header: dict[str, Any], arrays: Arrays | None = None) -> None:
    """Writes one frame; blocks while the pipe is full. Raises BrokenPipeError if nobody reads."""
    arrays = {name: np.ascontiguousarray(a) for name, a in (arrays or {}).items()}
    listed = [(name, a.dtype.str, a.shape) for name, a in arrays.items()]
    head = json.dumps({**header, "arrays": listed}).encode()
    body = b"".join([_LENGTHS.pack(len(head), sum(a.nbytes for a in arrays.values())), head])
    for part in (body, *(a.tobytes() for a in arrays.values())):
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]


def receive(fd: int, timeout_s: float | None = None) -> tuple[dict[str, Any], Arrays]:
    """Reads one frame. Raises EOFError if the other side is gone, Silence if it takes longer than `timeout_s`."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    head_bytes, payload_bytes = _LENGTHS.unpack(_exactly(fd, _LENGTHS.size, deadline))
    if head_bytes + payload_bytes > MAX_FRAME:
        raise EOFError(f"a frame of {head_bytes + payload_bytes} bytes: the other side has lost its mind")
    header = json.loads(_exactly(fd, head_bytes, deadline))
    payload = _exactly(fd, payload_bytes, deadline)
    arrays, at = {}, 0
    for name, dtype, shape in header.pop("arrays"):
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(payload, np.dtype(dtype), count, at).reshape(shape)
        at += arrays[name].nbytes
    return header, arrays


def _exactly(fd: int, count: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while count:
        if deadline is not None and not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise Silence
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError("the other side closed the pipe")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
