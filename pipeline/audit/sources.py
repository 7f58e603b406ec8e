"""The slide a folder was made from: still there, and still the same file?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

from pipeline.audit.findings import Finding
from pipeline.record import SlideRecord
from wsi.errors import SlideError
from wsi.files import fingerprint
from wsi.identity import streamed_sha256
from wsi.location import located


def source_findings(record: SlideRecord, pool: Executor) -> Iterator[Finding]:
    """Compares samples of the slide's files, and all bytes where a run with `--hash full` knew them."""
    where = [located(file) for file in record.facts.files]
    files = [file for file in where if isinstance(file, Path)]
    if len(files) != len(where) or not files:
        yield Finding("slide_remote", Path(record.facts.path), "it is on another machine", record.id)
        return
    gone = [file for file in files if not file.exists()]
    yield from (Finding("slide_missing", file, "this file of the slide is gone", record.id) for file in gone)
    if gone:
        return
    try:
        if fingerprint(files) != record.facts.fingerprint:
            yield Finding("slide_changed", files[0], "it is another file than it was: length or samples", record.id)
            return
        names = [os.path.relpath(file, files[0].parent) for file in files]
        known = [(file, name) for file, name in zip(files, names, strict=True) if name in record.sha256]
        for (file, name), now in zip(known, pool.map(streamed_sha256, [f for f, _ in known]), strict=True):
            if now != record.sha256[name]:
                said = "bytes of it changed, though its length and samples are as they were: silent damage, most likely"
                yield Finding("slide_changed", file, said, record.id)
    except (OSError, SlideError) as error:
        yield Finding("slide_unreadable", files[0], f"it cannot be read ({error})", record.id)
