"""Seals: what the toolkit writes for itself carries the SHA-256 of its own bytes, so that any flipped bit shows.

A seal finds damage, not forgery: whoever can write the file can seal it.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from typing import Any

_MARK = ', "seal": "'
_TOML_MARK = "\n# seal: "  # a comment: the file stays one that people may copy and edit
_JPEG_MARK = b"\xff\xfe\x00\x4eseal sha256 "  # a comment segment of 78 bytes: its length, 12 letters, 64 digits
_JPEG_START = 20  # SOI and the APP0 that JFIF wants first, as Pillow writes them


class Seal(Enum):
    """What a seal says of the bytes it was found in."""

    WHOLE = "whole"
    BROKEN = "broken"
    NONE = "none"  # of an older version, or the seal itself is hit


def sealed_json(content: dict[str, Any], *, indent: int | None = None) -> str:
    """A JSON object as text whose last field, `seal`, is the digest of all bytes before it. Ends without a newline."""
    body = json.dumps(content, indent=indent, ensure_ascii=False)[:-1].rstrip()
    return f'{body}{_MARK}{_digest(body.encode(errors="backslashreplace"))}"}}'


def json_seal(data: bytes) -> Seal:
    """Whether the bytes of a file or line are those that `sealed_json` gave, but for one newline at the end."""
    body, mark, tail = data.removesuffix(b"\n").rpartition(_MARK.encode())
    if not mark:
        return Seal.NONE
    return _same(tail, f'{_digest(body)}"}}')


def sealed_toml(text: str) -> str:
    """The text with its digest as a comment in the last line."""
    body = text.rstrip("\n")
    return f"{body}{_TOML_MARK}{_digest(body.encode())}\n"


def toml_seal(data: bytes) -> Seal:
    body, mark, tail = data.rpartition(_TOML_MARK.encode())
    return _same(tail, f"{_digest(body)}\n") if mark else Seal.NONE


def sealed_jpeg(data: bytes) -> bytes:
    """A JPEG of Pillow's with the digest of its bytes in a comment, which viewers pass over."""
    return data[:_JPEG_START] + _JPEG_MARK + _digest(data).encode() + data[_JPEG_START:]


def jpeg_seal(data: bytes) -> Seal:
    start, mark = data[:_JPEG_START], data[_JPEG_START : _JPEG_START + len(_JPEG_MARK)]
    if mark != _JPEG_MARK:
        return Seal.NONE
    end = _JPEG_START + len(_JPEG_MARK) + 64
    return _same(data[end - 64 : end], _digest(start + data[end:]))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _same(found: bytes, wanted: str) -> Seal:
    return Seal.WHOLE if found == wanted.encode() else Seal.BROKEN
