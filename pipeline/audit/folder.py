"""A whole output folder: what belongs to no slide, and then slide by slide."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heads.config import CARD, WEIGHTS
from pipeline.audit.context import Look, temporary_files
from pipeline.audit.findings import Finding
from pipeline.audit.slide import audit_slide
from pipeline.config import load_config
from pipeline.output import OutputFolder, encoded_text
from pipeline.seal import Seal, json_seal, toml_seal
from pipeline.tables import tables
from wsi.errors import ToolkitError, UsageError

THREADS = 4  # that hash: a disk answers several better than one, and more do not help it


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """Goes through an output folder. Memory does not grow with the number of findings, tiles or grids."""

    look: Look
    slides: bool  # the slides themselves too

    @classmethod
    @contextmanager
    def of(cls, out: OutputFolder, *, slides: bool = False) -> Iterator[Audit]:
        """The folder is to be held while this is entered: see `OutputFolder.unchanging`."""
        with ThreadPoolExecutor(THREADS) as pool:
            yield cls(Look.at(out, pool), slides)

    def ids(self) -> list[str]:
        return self.look.ids()

    def slide(self, slide_id: str) -> list[Finding]:
        """What is wrong with one slide."""
        return list(audit_slide(slide_id, self.look, slides=self.slides))

    def folder(self) -> Iterator[Finding]:
        """What is wrong beside the slides."""
        out = self.look.out
        yield from _config(out)
        yield from _ledger(out, bool(self.look.ids()))
        yield from _tables(out)
        yield from _report(out.report)
        for card in sorted(out.path.glob(f"heads/*/{CARD}")):
            yield from _head(card.parent)
        yield from temporary_files(out.path)
        if (probe := out.path / ".write-test").exists():
            yield Finding("leftover", probe, "a run's test of the disk", remove=(probe,))


def check_verifiable(out: OutputFolder) -> None:
    """Raises UsageError where no run has written. A run.toml may be gone, which is a finding."""
    if (out.path / "tiles.toml").exists():
        raise UsageError(
            f"{out.path}: holds the tiles of a `wsi tiles`, which are not verified.",
            hint="Run `wsi tiles` again: it looks them over.",
        )
    if not (out.ledger.exists() or (out.path / "slides").is_dir()):
        out.existing()


def _config(out: OutputFolder) -> Iterator[Finding]:
    path = out.config
    if not path.exists():
        yield Finding("config_missing", path, "it is missing")
        return
    try:
        load_config(path)
    except UsageError as error:
        yield Finding("config_unreadable", path, " ".join(error.message.split()).removesuffix("."), remove=(path,))
    else:
        if toml_seal(path.read_bytes()) is not Seal.WHOLE:
            yield Finding("config_altered", path, "it is not as the run left it")


def _ledger(out: OutputFolder, expected: bool) -> Iterator[Finding]:
    path = out.ledger
    if not path.exists():
        if expected:
            yield Finding("ledger_missing", path, "it is missing")
        return
    with open(path, "rb") as lines:
        bad = [n for n, line in enumerate(lines, start=1) if line.strip() and not line_stands(line)]
    if bad:
        said = f"{len(bad)} lines are not as they were written, line {bad[0]} first"
        yield Finding("ledger_altered", path, said, remove=(path,))


def line_stands(line: bytes) -> bool:
    """Whether a line of the ledger is as it was written, to its end."""
    return json_seal(line) is Seal.WHOLE and line.endswith(b"\n")


def _tables(out: OutputFolder) -> Iterator[Finding]:
    try:
        wanted = list(tables(out))
    except (ToolkitError, KeyError, TypeError, ValueError) as error:
        yield Finding("table_differs", out.path / "slides.csv", f"the tables cannot be made ({error})")
        return
    for name, text in wanted:
        path = out.path / name
        if not path.exists():
            yield Finding("table_missing", path, "it is missing")
        elif path.read_bytes() != encoded_text(text):
            yield Finding("table_differs", path, "it is not what the records say", remove=(path,))


def _report(path: Path) -> Iterator[Finding]:
    """A page is made from all else, and is no record: only whether it is there to its end."""
    if not path.exists():
        yield Finding("report_missing", path, "it is missing")
        return
    with open(path, "rb") as f:
        f.seek(max(0, path.stat().st_size - 64))
        if b"</html>" not in f.read():
            yield Finding("report_cut", path, "it has no end", remove=(path,))


def _head(folder: Path) -> Iterator[Finding]:
    from heads import load_head

    if not (folder / WEIGHTS).exists():
        yield Finding("head_damaged", folder, f"its {WEIGHTS} is missing")
        return
    try:
        load_head(folder)
    except ToolkitError as error:
        yield Finding("head_damaged", folder, error.message.removesuffix("."))
