"""Opening a slide: what the file is, whether it is whole and plausible, and which reader takes it."""

from __future__ import annotations

import importlib
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsi.errors import SlideError, SlideMissing, SlideUnreadable, SlideUnsupported, UsageError
from wsi.files import count_bytes
from wsi.limits import bytes_needed, check_levels
from wsi.location import Location, RemoteFile, located
from wsi.ngff import is_image, why_no_image
from wsi.opening_remote import open_remote
from wsi.readers import HEAD_BYTES, empty, is_text, missing, text_page, unreachable, unsupported
from wsi.slide import Slide
from wsi.tiff_index import check_index, is_tiff

if TYPE_CHECKING:
    from wsi.readers import Reader

READERS = ("fast", "openslide", "tiffslide", "image", "omezarr")  # `auto` tries those that fit in this order
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")


def open_slide(path: str | Location, *, reader: str = "auto", mpp: float | None = None) -> Slide:
    """Opens a slide file, a folder that is one slide (DICOM files, an OME-Zarr), or a TIFF by its URL.

    `path`: also `https://`, `s3://`, `gs://` or any other URL of fsspec; of such a slide only the parts that are read
    are fetched. `reader`: "auto" (by what the file is), "fast" (JPEG tiles of TIFF files), "openslide", "tiffslide",
    "image" or "omezarr"; why `auto` did not take "fast" is in the slide's `reader_note`. `mpp`: um per level-0 px, to
    be used in place of what the file says. A reader of your own is "package.module:callable", which takes the path and
    gives a `wsi.readers.Reader`. A slide without resolution opens; only its `.mpp` raises.

    Raises SlideMissing (not there, or not to be read), SlideUnsupported (no reader knows it; all reasons told),
    SlideTruncated (it ends before its index says), SlideImplausible (sizes no real slide has, before a pixel is
    read), SlideUnreadable (known, but damaged; or its storage fails), SlideUnreachable (its server or the network
    fails), MppImplausible (`mpp` outside 0.05-20), UsageError (no such reader).
    """
    path = located(path)
    if reader not in ("auto", *READERS) and ":" not in reader:
        hint = f"Choose from: auto, {', '.join(READERS)}, or package.module:callable for one of your own."
        raise UsageError(f"There is no reader {reader!r}.", hint=hint)
    own = ":" in reader
    try:
        opened, note = (_own_reader(reader)(path), "") if own else _opened(path, reader)
    except OSError as error:
        raise unreachable(path, error) from error
    try:
        if not own:
            check_levels(path, opened.level_sizes, _length(opened))
        return Slide(path, opened, mpp, note)
    except SlideError:
        opened.close()
        raise
    except OSError as error:
        opened.close()
        raise unreachable(path, error) from error


def _length(opened: Reader) -> int:
    """Bytes of the slide, as far as its limits ask for them. A remote one has passed its own check."""
    enough = bytes_needed(opened.level_sizes)
    files = [file for file in opened.files if isinstance(file, Path)]
    return count_bytes(files, enough) if files else enough


def _opened(path: Location, reader: str) -> tuple[Reader, str]:
    """The reader, and why it is not the fast one where `auto` might have taken that."""
    if isinstance(path, RemoteFile):
        return open_remote(path, reader)
    file = _main_file(path)
    if file.is_dir() or reader == "omezarr":
        return _zarr_image(file, reader), ""
    head = _inspect(file)
    if reader not in ("auto", "fast"):
        return _first_that_opens(file, (reader,), head), ""
    opened = _first_that_opens(file, _candidates(file, head), head)
    faster = _faster(file, head, opened)
    if not isinstance(faster, str):
        return faster, ""
    if reader == "auto":
        return opened, f"not fast: {faster}"
    opened.close()
    raise unsupported(file, f"the fast reader cannot be exact about it: {faster}")


def _zarr_image(folder: Path, reader: str) -> Reader:
    if not is_image(folder):
        raise unsupported(folder, "it is no OME-Zarr, which is a folder with `multiscales` in its metadata")
    if reader not in ("auto", "omezarr"):
        raise unsupported(folder, f"it is an OME-Zarr, which the reader {reader} does not know")
    from wsi.readers.omezarr import OmeZarrReader

    return OmeZarrReader(folder)


def _faster(file: Path, head: bytes, opened: Reader) -> Reader | str:
    """The fast reader in front of one that has the slide open, or why not."""
    if not is_tiff(head):
        return "it is no TIFF file"
    from wsi.readers.fast import accelerated

    return accelerated(file, opened)


def _main_file(path: Path) -> Path:
    """What readers take: `path` itself, or of a folder that is no OME-Zarr one of its DICOM files."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a zero byte in the name
        raise missing(path, str(error)) from error
    if stat.S_ISDIR(mode):
        if is_image(path):
            return path
        if path.suffix.lower() == ".zarr":
            raise unsupported(path, why_no_image(path), "Copy it again whole, or leave it out.")
        return _dicom_file(path)
    if not stat.S_ISREG(mode):
        raise missing(path, "it is neither a file nor a folder")
    return path


def _dicom_file(folder: Path) -> Path:
    from wsi.readers.companions import series_uid

    files = {file: series_uid(file) for file in sorted(folder.iterdir()) if file.is_file()}
    series = {uid for uid in files.values() if uid is not None}
    if len(series) == 1:
        return next(file for file, uid in files.items() if uid is not None)
    what = f"holds {len(series)} DICOM series" if series else "is a folder without DICOM files, and no OME-Zarr"
    hint = "Name one file of the slide that is meant." if series else "Name a slide file, not the folder it lies in."
    raise SlideUnsupported(f"{folder} {what}.", hint=hint, path=str(folder))


def _inspect(file: Path) -> bytes:
    """The first bytes of a file, after what can be checked without any library."""
    n_bytes = file.stat().st_size
    if n_bytes == 0:
        raise empty(file)
    with open(file, "rb") as f:
        head = f.read(HEAD_BYTES)
        if is_tiff(head):
            f.seek(0)
            check_index(file, f, n_bytes)
    return head


def _candidates(file: Path, head: bytes) -> Sequence[str]:
    """The readers that may take it. An MRXS begins as a JPEG does, but is the key to a folder of tiles."""
    if head.startswith(_PICTURES) and file.suffix.lower() != ".mrxs":
        return ("image",)
    return ("openslide", "tiffslide") if is_tiff(head) else ("openslide",)


def _first_that_opens(file: Path, names: Sequence[str], head: bytes) -> Reader:
    refusals: dict[str, SlideError] = {}
    for name in names:
        try:
            return _open_with(name, file)
        except (SlideUnsupported, SlideUnreadable) as refusal:
            refusals[name] = refusal
    raise _refused(file, head, refusals)


def _open_with(name: str, file: Path) -> Reader:
    if name == "openslide":
        from wsi.readers.openslide import OpenSlideReader

        return OpenSlideReader(file)
    if name == "tiffslide":
        from wsi.readers.tiffslide import TiffSlideReader

        return TiffSlideReader(file)
    from wsi.readers.image import ImageReader

    return ImageReader(file)


def _own_reader(name: str) -> Callable[[Location], Reader]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "It must be importable where the toolkit runs: install it, or name its folder in PYTHONPATH."
        raise UsageError(f"The reader {name!r} cannot be loaded ({error}).", hint=hint) from error


def _refused(file: Path, head: bytes, refusals: Mapping[str, SlideError]) -> SlideError:
    """One error for all the readers that were tried."""
    from wsi.readers.companions import companion_folder

    folder = companion_folder(file)
    if folder is not None and not folder.is_dir():
        hint = "Such a slide is a file and a folder of one name: copy both."
        return SlideMissing(f"{file} cannot be read: its folder {folder} is not there.", hint=hint, path=str(file))
    damaged = [refusal for refusal in refusals.values() if not isinstance(refusal, SlideUnsupported)]
    if not damaged and is_text(head):
        return text_page(file, head)
    worst = (damaged or list(refusals.values()))[0]
    reasons = "; ".join(f"{name}: {refusal.facts['reason']}" for name, refusal in refusals.items())
    return type(worst)(f"{file} cannot be opened ({reasons}).", hint=worst.hint, path=str(file), reason=reasons)
