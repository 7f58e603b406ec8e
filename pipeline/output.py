"""The output folder: where everything lies, and each slide's record, written last."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.files import storage_errors, write_atomic
from wsi.errors import GridDamaged, StorageError, UsageError

RECORD_VERSION = 1
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)  # starts no formula


@dataclass(frozen=True, slots=True)
class SlideFolder:
    """`OUT/slides/<id>`: all that is known of one slide."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def features(self) -> Path:
        return self.path / "features"

    @property
    def heatmaps(self) -> Path:
        return self.path / "heatmaps"

    @property
    def thumbnail(self) -> Path:
        return self.path / "thumbnail.jpg"

    @property
    def overlay(self) -> Path:
        return self.path / "overlay.png"

    @property
    def tissue(self) -> Path:
        return self.path / "tissue.geojson"

    @property
    def pictures_exist(self) -> bool:
        return all(path.exists() for path in (self.thumbnail, self.overlay, self.tissue))

    def record(self) -> dict[str, Any] | None:
        """`slide.json`, or None where this slide was never finished. Raises GridDamaged if it cannot be read."""
        return self._json("slide.json")

    def write_record(self, record: dict[str, Any]) -> None:
        """Replaces `slide.json` in one step; what it lists must be on disk already."""
        self._write_json("slide.json", {"format": "slide-record", "version": RECORD_VERSION, **record})

    @property
    def scored(self) -> bool:
        """Prompts were scored once; not that the scores are of what is in force."""
        return (self.path / "zeroshot.json").exists()

    def zeroshot(self) -> dict[str, Any] | None:
        return self._json("zeroshot.json")

    def write_zeroshot(self, result: dict[str, Any]) -> None:
        self._write_json("zeroshot.json", result)

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise GridDamaged(
                f"{path}: cannot be read ({error}).", hint="Delete it; the next run makes it again."
            ) from None

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.path / name, json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """`OUT`: the slides' folders, the tables and the report."""

    path: Path

    def slide(self, slide_id: str) -> SlideFolder:
        return SlideFolder(self.path / "slides" / slide_id)

    def slides(self) -> Iterator[SlideFolder]:
        """Folders of all slides that have a record, in the order of their ids."""
        root = self.path / "slides"
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if (folder / "slide.json").exists():
                yield SlideFolder(folder)

    @property
    def config(self) -> Path:
        return self.path / "run.toml"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def prepare(self) -> None:
        """Makes the folder and proves that it can be written. Raises StorageError before any slide is opened."""
        probe = self.path / ".write-test"
        try:
            with storage_errors(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be made ({error.strerror}).", hint="Choose another folder with -o."
            ) from None
        with storage_errors(self.path):
            try:
                write_atomic(probe, b"")
            except OSError as error:
                error.filename = None  # it is the folder that cannot be written
                raise
        probe.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps a second run out while this one works. The lock ends with its process, however that ends."""
        with open(self.path / ".lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"{self.path}: another run is working in this folder.",
                    hint="Wait for it, or choose another with -o.",
                ) from None
            yield

    def existing(self) -> OutputFolder:
        """Itself, if a run has written here. Raises UsageError otherwise."""
        if not self.config.exists():
            raise UsageError(
                f"{self.path}: holds no run (there is no run.toml in it).", hint="Give the -o of a `wsi run`."
            )
        return self


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step. Raises NoSpace or StorageError where the disk refuses."""
    with storage_errors(path):
        write_atomic(path, text.encode(errors="backslashreplace"))  # names of files need not be UTF-8


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV that spreadsheets read as text where it is text: cells that would start a formula are quoted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: _harmless(v) for k, v in row.items()})
    write_text(path, text.getvalue())


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and not _NUMBER.fullmatch(value):
        return f"'{value}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value
