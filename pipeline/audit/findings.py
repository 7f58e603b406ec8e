"""What `wsi verify` may find: a stable code for each kind, how grave it is, and what makes it good again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.manifest import printable

ENCODE, REDRAW, HEATMAP, TRAIN, RUN, SLIDE, NOTHING = (
    "The features of this slide are made again by the same `wsi run`.",
    "The same `wsi run` makes it again, without encoding.",
    "Draw it again with `wsi heatmap OUT --head ...`.",
    "Train it again with `wsi train`; a run does not make it.",
    "The same `wsi run` writes it again.",
    "Fetch the slide again from where it came from; its features are of the file as it was.",
    "",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a code."""

    remedy: str  # a sentence that says what to do
    damage: bool = True  # False: told, and no reason for exit code 3


KINDS = {
    # a feature grid
    "grid_missing": Kind(ENCODE),
    "grid_unreadable": Kind(ENCODE),
    "grid_older": Kind(ENCODE),
    "grid_misnamed": Kind(ENCODE),
    "grid_foreign": Kind(ENCODE),
    "manifest_altered": Kind(ENCODE),
    "chunk_missing": Kind(ENCODE),
    "chunk_emptied": Kind(ENCODE),
    "chunk_truncated": Kind(ENCODE),
    "chunk_altered": Kind(ENCODE),
    "chunk_unreadable": Kind("See what is wrong with the disk or its permissions."),
    "lattice_differs": Kind(ENCODE),
    "status_invalid": Kind(ENCODE),
    "rows_not_finite": Kind(ENCODE),
    "rows_unmarked": Kind(ENCODE),
    "grid_unlisted": Kind("Sound: a run with its settings takes it up again.", damage=False),
    "file_unknown": Kind("Not written by the toolkit: move it away if it is not wanted.", damage=False),
    # a slide's record and what goes with it
    "record_missing": Kind(REDRAW),
    "record_damaged": Kind(REDRAW),
    "record_older": Kind(REDRAW),
    "record_foreign": Kind(REDRAW),
    "record_differs": Kind(REDRAW),
    "settings_differ": Kind(ENCODE),
    "settings_older": Kind("The slide was not in the last run: run it again to have it alike.", damage=False),
    "tissue_missing": Kind(REDRAW),
    "tissue_unreadable": Kind("Export it again from QuPath, or delete it: the same `wsi run` draws it again."),
    "tissue_edited": Kind("Edited, if somebody did: `wsi run --tissue-from OUT` takes it in.", damage=False),
    "picture_missing": Kind(REDRAW),
    "picture_altered": Kind(REDRAW),
    "scores_missing": Kind(REDRAW),
    "scores_damaged": Kind(REDRAW),
    "map_missing": Kind(REDRAW),
    "map_altered": Kind(REDRAW),
    "head_map_missing": Kind(HEATMAP),
    "head_map_altered": Kind(HEATMAP),
    "crop_missing": Kind("`wsi report OUT`, or the same `wsi run`, cuts it from the slide.", damage=False),
    "crop_altered": Kind("`wsi report OUT`, or the same `wsi run`, cuts it again from the slide."),
    "leftover": Kind("Left by a run that was killed: of no use."),
    "run_unfinished": Kind("A run was cut off here: the same command continues it."),
    # the folder
    "outcome_missing": Kind(RUN),
    "config_missing": Kind(RUN),
    "config_unreadable": Kind(RUN),
    "config_altered": Kind("Edited, or damaged: the same `wsi run` writes it again."),
    "ledger_missing": Kind(RUN),
    "ledger_altered": Kind("What it said is not known any more; `--repair` takes the line out."),
    "table_missing": Kind(RUN),
    "table_differs": Kind("Edited, damaged, or of before a run was cut off: the same `wsi run` writes it again."),
    "report_missing": Kind("`wsi report OUT` writes it.", damage=False),
    "report_cut": Kind("`wsi report OUT` writes it again."),
    "head_damaged": Kind(TRAIN),
    # the slides themselves
    "slide_missing": Kind("Bring it back, or run it once from where it is now; its features stand."),
    "slide_changed": Kind(SLIDE),
    "slide_unreadable": Kind("See what is wrong with its storage or its permissions."),
    "slide_remote": Kind("Remote slides are not compared: the next run does.", damage=False),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    code: str  # one of KINDS
    path: Path
    message: str  # half a sentence
    slide: str = ""  # its id; "" for what belongs to no slide
    remove: tuple[Path, ...] = ()  # what --repair removes: files, or folders of which only our files go

    @property
    def damage(self) -> bool:
        return KINDS[self.code].damage

    @property
    def remedy(self) -> str:
        return KINDS[self.code].remedy

    def as_json(self, out: Path) -> dict[str, Any]:
        """As a script takes it; paths below `out` are told from there."""
        told = {"slide": self.slide, "code": self.code, "damage": self.damage, "path": self.shown(out)}
        return told | {"message": printable(self.message), "remedy": self.remedy}

    def shown(self, out: Path) -> str:
        path = self.path.relative_to(out) if self.path.is_relative_to(out) else self.path
        return printable(str(path))

    def __str__(self) -> str:
        return f"{self.code}: {self.message}. {self.remedy}".strip()
