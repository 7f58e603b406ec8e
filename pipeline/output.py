"""The output folder: where everything lies, and each slide's record, written last."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.files import storage_errors, write_atomic
from pipeline import lock
from pipeline.claims import Claim
from pipeline.seal import Seal, json_seal, sealed_json, sealed_toml
from wsi.errors import GridDamaged, StorageError, UsageError

RECORD_VERSION = 2  # 2: sealed, and with the digests of its pictures
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)  # starts no formula


@dataclass(frozen=True, slots=True)
class SlideFolder:
    """`OUT/slides/<id>`: all that is known of one slide."""

    path: Path
    claim: Claim | None = field(default=None, compare=False)  # under which records are written, if there is one

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
    def zeroshot_layer(self) -> Path:
        """The tiles with their scores, for QuPath."""
        return self.heatmaps / "zeroshot.geojson"

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
        """None where it is missing; without its seal, which may be missing in files of older versions."""
        path = self.path / name
        try:
            data = path.read_bytes()
            found = json.loads(data)
            if json_seal(data) is Seal.BROKEN:
                raise ValueError("it is not as it was written: its seal differs")
            return {key: value for key, value in found.items() if key != "seal"}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError) as error:
            raise GridDamaged(
                f"{path}: cannot be read ({error}).", hint="Delete it; the next run makes it again."
            ) from None

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        self.write_text(name, sealed_json(content, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replaces a file in one step; raises SlideTaken where the slide was claimed and is another process's now."""
        if self.claim is None:
            write_text(self.path / name, text)
        else:
            self.claim.commit(self.path / name, encoded_text(text))


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

    def write_config(self, text: str) -> None:
        """Replaces `run.toml` in one step."""
        write_text(self.config, sealed_toml(text))

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
        probe.unlink(missing_ok=True)  # another run may be probing as well

    def alone(self) -> AbstractContextManager[None]:
        """Keeps all runs out while this one works; see `pipeline.lock.alone`."""
        return lock.alone(self.path)

    def shared(self, settings: Mapping[str, Any]) -> AbstractContextManager[bool]:
        """Lets in runs of the same settings, and nobody else; see `pipeline.lock.shared`."""
        return lock.shared(self.path, settings)

    def unchanging(self) -> AbstractContextManager[None]:
        """Keeps runs out while this process reads; see `pipeline.lock.unchanging`."""
        return lock.unchanging(self.path)

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
        write_atomic(path, encoded_text(text))


def encoded_text(text: str) -> bytes:
    """As it is on disk: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """`csv_text` as a file, replaced in one step."""
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV that spreadsheets read as text where it is text: cells that would start a formula are quoted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: _harmless(v) for k, v in row.items()})
    return text.getvalue()


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and not _NUMBER.fullmatch(value):
        return f"'{value}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value
