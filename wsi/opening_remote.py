"""Opening a slide by its URL: a TIFF, of which only the parts that are read are fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi.errors import SlideError, SlideUnsupported
from wsi.location import RemoteFile
from wsi.readers import HEAD_BYTES, empty, is_text, text_page, unsupported
from wsi.tiff_index import check_index, is_tiff

if TYPE_CHECKING:
    from wsi.readers import Reader
    from wsi.remote import RemoteBytes

_READERS = ("auto", "fast", "tiffslide")  # the others take paths


def open_remote(where: RemoteFile, reader: str) -> tuple[Reader, str]:
    """The reader of a remote slide, and why it is not the fast one where `auto` might have taken that.

    Raises what `wsi.opening.open_slide` does.
    """
    from wsi.remote import RemoteBytes

    if reader not in _READERS:
        raise _download_first(where, f"the reader {reader} takes local files only")
    if where.place.partition("#")[0].rstrip("/").lower().endswith(".zarr"):
        raise _download_first(where, "it is called .zarr, a folder, and over a network only TIFF files are read")
    source = RemoteBytes(where)
    try:
        _inspect(where, source)
        return _opened(where, source, reader)
    except SlideError:
        source.close()
        raise


def _opened(where: RemoteFile, source: RemoteBytes, reader: str) -> tuple[Reader, str]:
    from wsi.readers.fast import accelerated
    from wsi.readers.tiffslide import TiffSlideReader

    try:
        opened = TiffSlideReader(source)
        faster = "it was not asked for" if reader == "tiffslide" else accelerated(source, opened)
    finally:
        if source.failure is not None:  # which a library took for a fault of the file
            raise source.failure
    if not isinstance(faster, str):
        return faster, ""
    if reader == "fast":
        opened.close()
        raise unsupported(where, f"the fast reader cannot be exact about it: {faster}")
    return opened, f"not fast: {faster}" if reader == "auto" else ""


def _inspect(where: RemoteFile, source: RemoteBytes) -> None:
    """What can be checked without any library, by the head of the file and its index."""
    if source.size == 0:
        raise empty(where)
    head = source.pread(HEAD_BYTES, 0)
    if is_tiff(head):
        check_index(where, source.file(), source.size)
    elif is_text(head):
        raise text_page(where, head)
    else:
        raise _download_first(where, "it is no TIFF, the one kind of slide that is read over a network")


def _download_first(where: RemoteFile, reason: str) -> SlideUnsupported:
    return SlideUnsupported(
        f"{where}: {reason}.", hint="Download the slide first, with all its files.", path=str(where)
    )
