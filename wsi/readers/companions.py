"""Which files make up one slide: some formats spread it over a folder."""

from __future__ import annotations

import errno
from pathlib import Path

KEY_FILES = (".vms", ".vmu")
_KEY_FILE_BYTES = 1 << 16  # a VMS or VMU key file is some lines of text; what is larger is none
_DICOM_HEADER_BYTES = 1 << 16  # the series is named ahead of the frames
_SERIES_TAG = b"\x20\x00\x0e\x00UI"  # (0020,000E) in explicit little endian, the only form slides come in


def files_of(path: Path) -> tuple[Path, ...]:
    """All files of the slide `path`, itself first; of a DICOM series in one order, whichever of them was named.

    MRXS: the folder of the same stem. VMS and VMU: the files their key file names. DICOM: the files beside it of
    the same series. Any other slide is one file.
    """
    folder = companion_folder(path)
    if folder is not None:
        return path, *(sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else ())
    if path.suffix.lower() in KEY_FILES:
        return path, *sorted(set(named_in_key_file(path)))
    uid = series_uid(path)
    if uid is None:
        return (path,)
    return tuple(sorted(p for p in path.parent.iterdir() if p.is_file() and series_uid(p) == uid))


def companion_folder(path: Path) -> Path | None:
    """The folder that belongs to an MRXS file, whether or not it is there; None for other files."""
    return path.with_suffix("") if path.suffix.lower() == ".mrxs" else None


def named_in_key_file(path: Path) -> tuple[Path, ...]:
    """The files beside a VMS or VMU key file (lines `ImageFile(0,0)=name.jpg`) that it names and that exist."""
    with open(path, encoding="utf-8", errors="replace") as f:
        values = [line.partition("=")[2].strip() for line in f.read(_KEY_FILE_BYTES).splitlines()]
    return tuple(path.parent / v for v in values if v and v == Path(v).name and _is_file(path.parent / v))


def _is_file(path: Path) -> bool:
    """As Path.is_file, but False for a name longer than any file's; raises OSError where it cannot be told."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def series_uid(path: Path) -> bytes | None:
    """The DICOM series a file belongs to, or None if it is no DICOM file."""
    with open(path, "rb") as f:
        head = f.read(132)
        if head[128:] != b"DICM":
            return None
        head = f.read(_DICOM_HEADER_BYTES)
    _, found, rest = head.partition(_SERIES_TAG)
    length = int.from_bytes(rest[:2], "little")
    return rest[2 : 2 + length].rstrip(b"\0 ") if found else b""
