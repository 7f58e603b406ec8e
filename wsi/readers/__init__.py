"""What every reader of slide files gives: level sizes, raw properties and the pixels of a level, nothing clever."""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wsi.errors import SlideError, SlideMissing, SlideTruncated, SlideUnreadable, SlideUnsupported
from wsi.geometry import Region, Size
from wsi.location import Location

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NOT_TO_BE_HAD = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
)
HEAD_BYTES = 512  # that tell what a file is
_TEXT_BYTES = frozenset({7, 8, 9, 10, 12, 13, 27} | set(range(0x20, 0x7F)))
_MAX_WORDS = 300
_BARE = (LookupError, ArithmeticError, AttributeError, TypeError)  # whose words mean little without their names
# Neither tifffile nor tiffslide has an error tree: these are what damaged files were seen to bring out of them and
# their codecs.
INDEX_FAULTS = (
    struct.error,
    zlib.error,
    LookupError,
    OSError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    MemoryError,
    TypeError,
    RuntimeError,  # every codec of imagecodecs
    ValueError,  # TiffFileError
)


class Reader(Protocol):
    """One library's view of one open slide. Safe to use from several threads; never pickled."""

    @property
    def name(self) -> str:
        """As `open_slide(reader=...)` takes it."""
        ...

    @property
    def vendor(self) -> str:
        """Whose format it is (aperio, hamamatsu, ...), or the plain file type (generic-tiff, png)."""
        ...

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Pixels of every level, the finest first."""
        ...

    @property
    def properties(self) -> Mapping[str, str]:
        """All the file says of itself, unjudged: `wsi.resolution` decides what to believe."""
        ...

    @property
    def bounds(self) -> Region | None:
        """The scanned part in level-0 pixels, where the file names one."""
        ...

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of the small pictures beside the slide: label, macro, thumbnail."""
        ...

    @property
    def files(self) -> tuple[Location, ...]:
        """All files of the slide with their companions, always in the same order; of an OME-Zarr its folder."""
        ...

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """uint8 (height, width, 3) RGB, or (height, width, 4) with alpha not yet multiplied in.

        (x, y, width, height) are pixels of that level and lie inside it. What the file does not hold (a tile never
        scanned) is transparent or white. A pixel is the same whatever rectangle it was asked for in.
        Raises SlideUnreadable where the pixels cannot be decoded; other parts stay readable.
        """
        ...

    def associated(self, name: str) -> NDArray[np.uint8]:
        """uint8 (h, w, 3) or (h, w, 4), as `read_level`. `name` is one of `associated_names`."""
        ...

    def close(self) -> None:
        """Gives the file back. Calling it twice does no harm."""
        ...


@runtime_checkable
class ReducingReader(Reader, Protocol):
    """A reader that can scale while it decodes, for less than decoding costs, and lay pixels where they are wanted."""

    @property
    def reductions(self) -> tuple[int, ...]:
        """The factors it can scale by: 2 gives every second pixel."""
        ...

    def read_into(
        self, level: int, reduction: int, boxes: Sequence[Region], rooms: Sequence[NDArray[np.uint8]]
    ) -> None:
        """As `read_level`, the pixels of each box into its room, uint8 (box.height, box.width, 3).

        Boxes are in pixels of the level at a scale of 1 / reduction, which may be 1. The last pixels of a level that
        the factor does not divide are filled in part. Give neighbours: what they share is decoded once.
        """
        ...


@runtime_checkable
class WarningReader(Reader, Protocol):
    """A reader that notices in reading what a person should know of the slide."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what was read until now."""
        ...


def unsupported(path: Location, reason: object, hint: str = "") -> SlideUnsupported:
    """The refusal of a reader that does not know the format; `reason` is its own words, or the error that has them."""
    hint, told = hint or "Convert it to a pyramidal TIFF, or leave it out.", _in_words(reason)
    return SlideUnsupported(f"{path} cannot be opened: {told}.", hint=hint, path=str(path), reason=told)


def unreadable(path: Location, what: str, reason: object) -> SlideUnreadable:
    """The refusal of a reader that knows the format and fails at the content: `what` says where."""
    told = _in_words(reason)
    hint = "Copy it again from its source; if it stays so, convert it or leave it out."
    return SlideUnreadable(f"{path}: {what} cannot be decoded ({told}).", hint=hint, path=str(path), reason=told)


def _in_words(reason: object) -> str:
    """What a library says, in one line that can be shown: it may quote the damaged bytes, as many as there are."""
    told = " ".join(str(reason).split())
    if not told or isinstance(reason, _BARE):
        told = f"{type(reason).__name__} {told}".strip()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in told)
    return shown if len(shown) <= _MAX_WORDS else f"{shown[:_MAX_WORDS]}..."


def is_text(head: bytes) -> bool:
    """By the first bytes of a file."""
    return _TEXT_BYTES.issuperset(head)


def text_page(path: Location, head: bytes) -> SlideUnsupported:
    """The refusal of a file that begins as text, as the pages of servers do."""
    begins = head.decode("ascii").strip()[:40]
    hint = "A download that failed may leave such a page: fetch the slide again."
    return SlideUnsupported(f"{path} is a text file, not a slide; it begins {begins!r}.", hint=hint, path=str(path))


def empty(path: Location) -> SlideTruncated:
    """The refusal of a file without a byte."""
    hint = "The copy did not work: copy it again from its source."
    return SlideTruncated(f"{path} is empty.", hint=hint, path=str(path))


def missing(path: Location, reason: str) -> SlideMissing:
    """The refusal of a slide that is not there, or not this user's to read."""
    hint = "Check its spelling, and that you may read it."
    return SlideMissing(f"{path} cannot be read: {reason}.", hint=hint, path=str(path))


def unreachable(path: Location, error: OSError) -> SlideError:
    """The refusal of a slide of which a file, itself or a companion, cannot be read.

    SlideMissing where the file is not there or not this user's to read, SlideUnreadable where its storage fails.
    """
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if error.filename is not None and str(error.filename) != str(path):
        reason = f"{error.filename}: {reason}"
    if error.errno in _NOT_TO_BE_HAD:
        return missing(path, reason)
    hint = "Its disk or network fails: try again when it works, or copy it to a local disk."
    return SlideUnreadable(f"{path} cannot be read: {reason}.", hint=hint, path=str(path), reason=reason)
