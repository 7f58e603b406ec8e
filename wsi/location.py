"""Where a slide is: a path on this machine, or a URL, of which people are never shown the secrets.

A signed URL or `user:password@host` is the key to a slide. It is kept where the file is opened and nowhere else: what
is shown, written down, compared and hashed is the URL without it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]+"  # two letters or more: `C:` is a disk
_URL = re.compile(rf"(?:{_SCHEME}::)*{_SCHEME}://")  # fsspec chains with `::`, as in simplecache::https://host/a.svs
_LINKS = re.compile(rf"::(?={_URL.pattern})")
_IN_TEXT = re.compile(rf"{_SCHEME}://[^\s'\"<>]+")
_LOCAL = "file://"
_CONTAINER_FIRST = ("abfs", "abfss", "wasb", "wasbs")  # container@account: no user
# Names of parameters that grant access or change with every signing: S3, Google, Azure, CloudFront and common habits.
_SECRET = re.compile(
    r"^(x-|aws|google)|sig|token|key|secret|pass|pwd|auth|cred|policy|expir|^(sv|se|st|sp|sr|spr|sip|srt|ss|sk\w+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file by its URL, in any protocol of fsspec. `str()` and `repr()` show it without secrets.

    Two URLs that differ in nothing but secrets are the same file.
    """

    url: str = field(repr=False, compare=False)  # as given: only to be handed to the library that opens it
    shown: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", "::".join(map(_public, _LINKS.split(self.url))))

    def __str__(self) -> str:
        return self.shown

    @property
    def schemes(self) -> tuple[str, ...]:
        """Of a chain all of them: ("simplecache", "https")."""
        return tuple(part.partition("://")[0].lower() for part in _LINKS.split(self.url))

    @property
    def name(self) -> str:
        """The last part of its path: `a.svs`."""
        return self.place.rpartition("/")[2]

    @property
    def place(self) -> str:
        """Host (or bucket) and path: `host/cohort/a.svs`; of a chain, those of its first link that has some."""
        return next((rest for link in _LINKS.split(self.shown) if (rest := link.partition("://")[2])), "")


Location = Path | RemoteFile


def located(where: str | Location) -> Location:
    """A path, or a RemoteFile where `where` is a URL. `file://` URLs are paths."""
    if isinstance(where, RemoteFile):
        return where
    text = str(where)
    if text.lower().startswith(_LOCAL):
        return Path(unquote(text[len(_LOCAL) :].removeprefix("localhost")))
    return RemoteFile(text) if _URL.match(text) else Path(where)


def address(where: str | Location) -> str:
    """What opens it, secrets included: for other processes of this run only."""
    return where.url if isinstance(where, RemoteFile) else str(where)


def shown(word: str) -> str:
    """A word of a command or a cell of a table as it may be shown: one that is a URL is so to its end."""
    return RemoteFile(word).shown if _URL.match(word) else without_secrets(word)


def without_secrets(text: str, known: Location | None = None) -> str:
    """`text` with every URL in it as it may be shown; `known` is one that it is likely to hold."""
    if isinstance(known, RemoteFile):
        text = text.replace(known.url, known.shown)
    return _IN_TEXT.sub(lambda found: _public(found[0]), text)


def _public(link: str) -> str:
    """Scheme, host and path. A query that tells files apart leaves eight digits of its digest, its secrets not."""
    scheme, mark, rest = link.partition("://")
    if not mark:
        return link
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    _, colon, port = authority.rpartition(":")
    if colon and not port.isdigit() and not authority.endswith("]"):
        authority = rest  # no port: the beginning of a password with a slash in it
    user = authority.rpartition("@")[0]
    if scheme.lower() in _CONTAINER_FIRST and ":" not in user:
        user = ""
    place, *tail = re.split(r"[?#]", rest.removeprefix(f"{user}@") if user else rest, maxsplit=1)
    parameters = [p for p in re.split(r"[?#&;]", "".join(tail)) if p and not _SECRET.search(p.partition("=")[0])]
    digits = hashlib.sha256("&".join(sorted(parameters)).encode()).hexdigest()[:8]
    return f"{scheme}://{place}" + (f"#{digits}" if parameters else "")
