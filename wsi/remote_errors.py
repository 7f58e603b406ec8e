"""What storage libraries say when a remote file cannot be had, in our own words and without the secrets of its URL."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

from wsi.errors import SlideError, SlideMissing, SlideUnreachable, SlideUnsupported
from wsi.location import RemoteFile, without_secrets

_STATUS = frozenset(int(status) for status in HTTPStatus)
_DENIED, _GONE = (401, 403, 407), (404, 410)  # HTTP status
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_NO_RANGES = "doesn't appear to support range requests"  # fsspec's words for http


def refusal(where: RemoteFile, error: Exception) -> SlideError:
    """SlideMissing for what is not there or not to be read, SlideUnreachable for what may go better next time.

    By status, by the builtin classes that fsspec asks of its file systems, and by the words of what has neither.
    """
    causes = list(_causes(error))
    status = next((s for cause in causes if (s := _status(cause))), 0)
    told = " ".join(without_secrets(str(causes[-1]), where).split()).rstrip(".")
    words = told or type(causes[-1]).__name__
    if _NO_RANGES in words:
        return whole_only(where)
    if status in _DENIED or (not status and any(_is_denial(cause) for cause in causes)):
        return _denied(where, f"{status} {HTTPStatus(status).phrase}" if status else words)
    absent = isinstance(causes[-1], FileNotFoundError)  # with another cause, it is fsspec's word for any trouble
    if status in _GONE or (not status and absent):
        hint = "Check its spelling; a file that is there may be hidden from those without credentials, and of folders"
        hint += " (DICOM, OME-Zarr) none is read over a network, only TIFF files are."
        return SlideMissing(f"{where} cannot be read: there is no such file.", hint=hint, path=str(where))
    hint = "Its server or the network fails: try again when it works, or download the slide first."
    if status:
        words = f"its server answers {status} {HTTPStatus(status).phrase}"
    return SlideUnreachable(f"{where} cannot be read: {words}.", hint=hint, path=str(where), reason=words)


def whole_only(where: RemoteFile) -> SlideUnsupported:
    """The refusal of a slide that its server gives only as a whole."""
    return SlideUnsupported(
        f"{where}: its server does not give parts of files (range requests), so that all of it would be fetched.",
        hint="Download the slide first.",
        path=str(where),
    )


def no_protocol(where: RemoteFile, error: Exception) -> SlideUnsupported:
    """The refusal of a URL that no installed package can open, or that is none. Its words are not quoted: they may
    hold parts of a password."""
    scheme = where.schemes[0]
    package = _PACKAGES.get(scheme)
    if isinstance(error, ImportError):
        reason = f"{scheme}:// needs the package {package}" if package else f"{scheme}:// needs a package of its own"
        hint = f"Install it with `pip install {package}`." if package else f"See fsspec's documentation of {scheme}://."
    elif scheme in _PACKAGES or "Protocol not known" not in str(error):
        reason, hint = "it is no sound URL", "Check its spelling; special characters are written as %40 and the like."
    else:
        reason, hint = f"no package here knows {scheme}://", "Download the slide first."
    return SlideUnsupported(f"{where} cannot be read: {reason}.", hint=hint, path=str(where))


def _denied(where: RemoteFile, words: str) -> SlideMissing:
    hint = "Check your credentials, and if the URL is signed, that it has not expired."
    return SlideMissing(f"{where} may not be read: {words}.", hint=hint, path=str(where))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the first of all last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int:
    """The HTTP status an error carries (aiohttp's `status`, gcsfs's `code`, botocore's `response`), 0 if none."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = getattr(error, "status", None) or metadata.get("HTTPStatusCode")
    if status is None:  # looked at last: for aiohttp it is a name to be warned of
        status = getattr(error, "code", None)
    return status if isinstance(status, int) and status in _STATUS else 0


def _is_denial(error: BaseException) -> bool:
    """PermissionError, and what s3fs and gcsfs raise where they find no credentials at all."""
    return isinstance(error, PermissionError) or "Credentials" in type(error).__name__
