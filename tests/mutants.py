"""Damaged slides by the thousand, each of them made again from a file's bytes and one number.

Damage that finds faults is of two kinds: bytes that broke on the way (flipped, cut off, zeroed, shifted), and numbers
that mean something and say something else (a length, an offset, a size, a code). For the second a `Field` tells where
each number of a file lies: the entries of TIFF directories and the offsets they point to, the markers of JPEG and
JPEG 2000 streams, the lengths of DICOM elements and PNG chunks.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
_SOI, _SOC = b"\xff\xd8", b"\xff\x4f"
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_POINTERS = {273, 279, 324, 325, 330}  # strips, tiles, their lengths, pages below
_STREAM_TAGS = {273, 324, 347}  # which lead to JPEG streams: strips, tiles, tables
_LONG_VR = {b"OB", b"OD", b"OF", b"OL", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"}  # DICOM: lengths of 32 bits
_MOST_PAGES = 6000


class Field(NamedTuple):
    """Where a number of a file lies."""

    name: str
    at: int
    n_bytes: int
    order: str  # "little" or "big", as int.from_bytes has it


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A sound file, and the numbers in it."""

    data: bytes
    fields: tuple[Field, ...]

    @classmethod
    def of(cls, data: bytes) -> Anatomy:
        return cls(data, tuple(f for f in _fields(data) if f.at >= 0 and f.at + f.n_bytes <= len(data)))

    def mutant(self, rng: np.random.Generator) -> tuple[bytes, str]:
        """The file with one to three kinds of damage, and what they are."""
        out, told = bytearray(self.data), []
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            if len(out) > 1:
                damage = DAMAGES[int(rng.choice(len(DAMAGES), p=_SHARES))]
                told.append(damage(out, self, rng))
        if self.data.startswith(PNG) and rng.random() < 0.5:
            _seal_chunks(out)  # or else every damage ends at the first checksum
        return bytes(out), "; ".join(told)


def _fields(data: bytes) -> Iterator[Field]:
    if data[:2] in (b"II", b"MM"):
        yield from _tiff_fields(data)
    elif data[:2] == _SOI:
        yield from _marker_fields(data, 0, len(data))
    elif data.startswith(PNG):
        yield from _png_fields(data)
    elif data[128:132] == b"DICM":
        yield from _dicom_fields(data)


def _tiff_fields(data: bytes) -> Iterator[Field]:
    order = "little" if data[:2] == b"II" else "big"
    big = int.from_bytes(data[2:4], order) == 43  # BigTIFF
    head, count_bytes, entry_bytes, word = (8, 8, 20, 8) if big else (4, 2, 12, 4)

    def number(at: int, n_bytes: int) -> int:
        return int.from_bytes(data[at : at + n_bytes], order)

    yield Field("magic", 2, 2, order)
    pointers, seen = [head], set()
    while pointers:
        pointer = pointers.pop()
        page = number(pointer, word)
        yield Field("page offset", pointer, word, order)
        if page in seen or not 0 < page < len(data):
            continue
        seen.add(page)
        yield Field("number of entries", page, count_bytes, order)
        n_entries = number(page, count_bytes)
        for at in range(page + count_bytes, page + count_bytes + n_entries * entry_bytes, entry_bytes):
            tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, word)
            size = _TIFF_BYTES.get(kind, 1)
            where = at + 4 + word
            yield from (Field(f"tag {tag} code", at, 2, order), Field(f"tag {tag} type", at + 2, 2, order))
            yield Field(f"tag {tag} count", at + 4, word, order)
            if count * size > word:
                yield Field(f"tag {tag} offset", where, word, order)
                where = number(where, word)
            values = [where + i * size for i in range(count if tag in _POINTERS or count <= 4 else 0)]
            yield from (Field(f"tag {tag} value", value, min(size, 8), order) for value in values)
            if tag in _STREAM_TAGS:
                starts = [where] if tag == 347 else [number(value, size) for value in values[:2]]
                for start in starts:
                    yield from _marker_fields(data, start, min(len(data), start + (1 << 16)))
            if tag == 330:
                pointers += values
        pointers.append(page + count_bytes + n_entries * entry_bytes)


def _marker_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """The segments of a JPEG or JPEG 2000 stream up to its compressed data."""
    if data[start : start + 2] not in (_SOI, _SOC):
        return
    at = start + 2
    while at + 4 <= stop and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        name = f"marker {marker:02x}"
        yield from (Field(f"{name} code", at, 2, "big"), Field(f"{name} length", at + 2, 2, "big"))
        yield from (Field(f"{name} content", at + 4 + i, 2, "big") for i in range(min(length - 2, 40)))
        if marker in (0xDA, 0x90):  # start of a scan, of a tile
            return
        at += 2 + length


def _png_fields(data: bytes) -> Iterator[Field]:
    for at, length in _chunks(data):
        name = data[at + 4 : at + 8].decode("latin1")
        yield from (Field(f"{name} length", at, 4, "big"), Field(f"{name} type", at + 4, 4, "big"))
        yield from (Field(f"{name} content", at + 8 + i, n, "big") for i in range(min(length, 13)) for n in (1, 4))


def _chunks(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield at, length
        at += 12 + length


def _seal_chunks(out: bytearray) -> None:
    """Makes the checksums of a PNG's chunks right again."""
    for at, length in _chunks(bytes(out)):
        if at + 12 + length <= len(out):
            struct.pack_into(">I", out, at + 8 + length, zlib.crc32(out[at + 4 : at + 8 + length]))


def _dicom_fields(data: bytes) -> Iterator[Field]:
    """Elements in explicit little endian; sequences and their items are stepped into, frames are stepped over."""
    at, in_frames = 132, False
    while at + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, at)
        name, kind = f"({group:04x},{element:04x})", data[at + 4 : at + 6]
        yield Field(f"{name} tag", at, 4, "little")
        if group == 0xFFFE:
            length_at, length_bytes = at + 4, 4
        else:
            length_at, length_bytes = (at + 8, 4) if kind in _LONG_VR else (at + 6, 2)
            yield Field(f"{name} kind", at + 4, 2, "little")
            in_frames = (group, element) == (0x7FE0, 0x0010)
        length = int.from_bytes(data[length_at : length_at + length_bytes], "little")
        yield Field(f"{name} length", length_at, length_bytes, "little")
        at = length_at + length_bytes
        if length == 0xFFFFFFFF or kind == b"SQ" or (group == 0xFFFE and not in_frames):
            continue
        yield from (Field(f"{name} value", at + i, min(4, length), "little") for i in range(0, min(length, 16), 4))
        at += length


def _rewritten(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    """One number says another. Kinds of numbers are drawn evenly, however many there are of each."""
    if not whole.fields:
        return _flipped(out, whole, rng)
    names = sorted({field.name for field in whole.fields})
    name = names[int(rng.integers(len(names)))]
    same = [field for field in whole.fields if field.name == name]
    field = same[int(rng.integers(len(same)))]
    if field.at + field.n_bytes > len(out):
        return _flipped(out, whole, rng)
    old = int.from_bytes(out[field.at : field.at + field.n_bytes], field.order)
    there, other = int(rng.integers(len(out))), whole.fields[int(rng.integers(len(whole.fields)))]
    another = int.from_bytes(whole.data[other.at : other.at + other.n_bytes], other.order)
    odd = [0, 1, 2, 7, 16, 255, 2**15, 2**16 - 1, 30_000, 2**31 - 1, 2**31, 2**32 - 1, 2**63, len(out), len(out) - 1]
    near = [old + 1, old - 1, old * 2, old // 2, old * 16, field.at, there, another, old ^ 1 << int(rng.integers(32))]
    new = [*odd, *near][int(rng.integers(len(odd) + len(near)))] % (1 << 8 * field.n_bytes)
    out[field.at : field.at + field.n_bytes] = new.to_bytes(field.n_bytes, field.order)
    return f"{field.name} at {field.at}: {old} -> {new}"


def _flipped(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    """1 to 64 bytes change, in the head, beside a number, or anywhere."""
    count = int(2 ** rng.integers(7))
    kind = int(rng.integers(3)) if whole.fields else 0
    if kind == 0:
        at = rng.integers(0, min(4096, len(out)), count)
    elif kind == 1:
        field = whole.fields[int(rng.integers(len(whole.fields)))]
        at = (field.at + rng.integers(-16, 64, count)).clip(0, len(out) - 1)
    else:
        at = rng.integers(0, len(out), count)
    for place in at.tolist():
        out[place] = int(rng.integers(256))
    return f"{count} bytes changed, {('in the head', 'beside a number', 'anywhere')[kind]}"


def _cut(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    keep = int(rng.integers(1, len(out)))
    del out[keep:]
    return f"cut to {keep} bytes"


def _tail_zeroed(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(out)))
    out[at:] = bytes(len(out) - at)
    return f"zeros from {at} on"


def _overwritten(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    """A sector, or some, that were never written, or by another file."""
    at, length = int(rng.integers(len(out))), int(512 * rng.integers(1, 64))
    length = min(length, len(out) - at)
    filled = (bytes(length), b"\xff" * length, rng.bytes(length))[int(rng.integers(3))]
    out[at : at + length] = filled
    return f"{length} bytes from {at} on overwritten"


def _shifted(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    at, length = int(rng.integers(len(out))), int(rng.integers(1, 1024))
    if rng.random() < 0.5:
        del out[at : at + length]
        return f"{length} bytes from {at} on lost"
    out[at:at] = out[at : at + length]
    return f"{length} bytes from {at} on doubled"


def _order_swapped(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    if out[:2] not in (b"II", b"MM"):
        return _flipped(out, whole, rng)
    out[:2] = b"MM" if out[:2] == b"II" else b"II"
    if rng.random() < 0.5:
        out[2:4] = out[3:1:-1]
    return "byte order swapped"


def _many_pages(out: bytearray, whole: Anatomy, rng: np.random.Generator) -> str:
    """A chain of empty or small pages behind the last one, which may lead back into itself."""
    ends = [field for field in whole.fields if field.name == "page offset" and field.n_bytes == 4]
    if not ends or ends[-1].at + 4 > len(out):
        return _flipped(out, whole, rng)
    count, order = int(2 ** rng.integers(4, 13) * rng.integers(1, 3)) % _MOST_PAGES, ends[-1].order
    sign = "<" if order == "little" else ">"
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (279, 1)][: int(rng.integers(9))]
    page = struct.pack(f"{sign}H", len(tags)) + b"".join(struct.pack(f"{sign}HHII", t, 4, 1, v) for t, v in tags)
    first, step = len(out), len(page) + 4
    for i in range(count):
        out += page + struct.pack(f"{sign}I", first + (i + 1) % (count + 1) * step if i + 1 < count else 0)
    if count and rng.random() < 0.3:
        struct.pack_into(f"{sign}I", out, len(out) - 4, first)
    struct.pack_into(f"{sign}I", out, ends[-1].at, first)
    return f"{count} pages of {len(tags)} tags appended"


Damage = Callable[[bytearray, Anatomy, np.random.Generator], str]
_WEIGHTS: dict[Damage, int] = {
    _rewritten: 50,
    _flipped: 20,
    _cut: 5,
    _tail_zeroed: 5,
    _overwritten: 8,
    _shifted: 6,
    _order_swapped: 2,
    _many_pages: 4,
}
DAMAGES = tuple(_WEIGHTS)
_SHARES = np.array(list(_WEIGHTS.values())) / sum(_WEIGHTS.values())
