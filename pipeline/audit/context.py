"""What the audit of every slide needs to know of its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from pipeline import ledger
from pipeline.audit.findings import Finding
from pipeline.claims import is_claim
from pipeline.config import RunConfig, load_config
from pipeline.ledger import Outcome
from pipeline.output import OutputFolder
from pipeline.zeroshot import default_prompts
from wsi.errors import UsageError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # as `features.files.aside_of` names them


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """An output folder as its own tables tell of it."""

    out: OutputFolder
    pool: Executor  # hashes files
    config: RunConfig | None  # None where run.toml cannot be read
    scored: bool  # the last run asked for prompts
    outcomes: dict[str, Outcome]  # by slide id, as each last ended
    last_run: frozenset[str]  # ids that ended well since the last run began

    @classmethod
    def at(cls, out: OutputFolder, pool: Executor) -> Look:
        try:
            config: RunConfig | None = load_config(out.config)
        except UsageError:
            config = None
        ids: set[str] = set()
        for event in ledger.events(out.ledger):
            if event["event"] == "run":
                ids = set()
            elif event["event"] == "slide" and event["status"] in ledger.GOOD:
                ids.add(event["slide_id"])
        return cls(out, pool, config, _asks(config), ledger.last_outcomes(out.ledger), frozenset(ids))

    def ids(self) -> list[str]:
        """Of the slides that have a folder, and of those that ought to have one."""
        root = self.out.path / "slides"
        there = {folder.name for folder in root.iterdir() if folder.is_dir()} if root.is_dir() else set()
        return sorted(there | {slide_id for slide_id, outcome in self.outcomes.items() if outcome.good})


def temporary_files(folder: Path, slide_id: str = "") -> Iterator[Finding]:
    """What a write that was cut off left in this very folder."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            yield Finding("leftover", path, "a file that was never finished", slide_id, (path,))
        elif is_claim(path) and path.is_dir():
            yield Finding("leftover", path, "the claim of a run that is gone", slide_id, (path,))


def _asks(config: RunConfig | None) -> bool:
    try:
        return config is not None and default_prompts(config.zeroshot.prompts, config.encoder.name) is not None
    except UsageError:
        return False  # its file of prompts is gone
