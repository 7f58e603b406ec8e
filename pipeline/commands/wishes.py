"""From options to plain values: settings, slides, and where to work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heads.problems import some
from pipeline.config import RunConfig, check_settings, load_config, setting
from pipeline.console import open_console
from pipeline.executor import DaskExecutor, Executor
from pipeline.lanes import LaneExecutor
from pipeline.manifest import SlideEntry, entries_from, printable
from wsi.errors import UsageError
from wsi.listing import find_slides
from wsi.location import located
from wsi.wording import number_of


def configured(path: Path | None, settings: list[str] | None, flags: dict[str, Any]) -> RunConfig:
    """Defaults, file, --set, then the command's own flags, each over the one before.

    Raises UsageError where --set and a flag say different things: one of the two is a slip.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    check_settings(settings or [], given)
    if flags.get("encoder.weights") and Path(flags["encoder.weights"]).exists():
        flags["encoder.weights"] = str(Path(flags["encoder.weights"]).absolute())  # workers may start elsewhere
    if flags.get("zeroshot.prompts"):
        flags["zeroshot.prompts"] = findable(flags["zeroshot.prompts"])
    said = [setting(key, value) for key, value in flags.items() if value is not None]
    return load_config(path, [*(settings or []), *said])


def dropped(text: str | None) -> tuple[str, ...] | None:
    """The quality flags of --drop; None where it was not given."""
    from tiling.quality import listed_flags

    return None if text is None else listed_flags(text)


def findable(prompts: str) -> str:
    """A prompt file by its whole path, for workers and commands that start elsewhere; a shipped set by its name."""
    from heads import available_prompts

    shipped = prompts in available_prompts() or not Path(prompts).is_file()
    return prompts if shipped else str(Path(prompts).absolute())


def chosen_slides(
    slides: Sequence[str | Path] | None, manifest: Path | None, mpp: float | None, limit: int | None
) -> list[SlideEntry]:
    if not slides and manifest is None:
        raise UsageError("There are no slides to work on.", hint="Give a folder, files, or --manifest slides.csv.")
    unfollowed: list[Path] = []
    entries = entries_from(slides or [], manifest, mpp, unfollowed)
    if unfollowed:
        shown = ", ".join(printable(str(link)) for link in unfollowed[:3]) + (", ..." if len(unfollowed) > 3 else "")
        folders = number_of(len(unfollowed), "linked folder is", "linked folders are")
        open_console().print(f"{folders} not followed; give them too to have them: {shown}")
    if manifest is not None and slides and isinstance(folder := located(slides[0]), Path):
        _tell_unlisted(folder, manifest, entries)
    return entries[:limit]


def _tell_unlisted(folder: Path, manifest: Path, entries: list[SlideEntry]) -> None:
    """Who gives a folder and a CSV may have meant all of the folder."""
    listed = {entry.path for entry in entries}
    left = [path for path in find_slides(folder) if Path(os.path.normpath(path.absolute())) not in listed]
    if left:
        names = some([printable(path.relative_to(folder).as_posix()) for path in left])
        what = number_of(len(left), "slide")
        open_console().print(f"{what} in {folder} not listed in {manifest.name} and left out: {names}")


def with_drawn_tissue(entries: list[SlideEntry], folder: Path | None) -> list[SlideEntry]:
    """The entries with the files of --tissue-from; says which of its files serve no slide."""
    if folder is None:
        return entries
    from pipeline.tissuefiles import with_tissue

    entries, warnings = with_tissue(entries, folder)
    for sentence in warnings:
        open_console().print(sentence)
    return entries


def check_apart(slides: Sequence[str | Path] | None, out: Path) -> None:
    """Results among the slides would be taken for slides the next time. Raises UsageError, also for a URL."""
    if len(out.parts) > 1 and out.parts[0].endswith(":") and out.parts[0] != out.drive:  # Path writes https:/host
        raise UsageError("The output folder is a URL.", hint="Name a folder on this machine last, or with -o.")
    folders = [where for given in slides or () if isinstance(where := located(given), Path) and where.is_dir()]
    if any(folder.resolve() == out.resolve() for folder in folders):
        raise UsageError(f"{out}: is the folder of the slides.", hint="Choose another output folder with -o.")


def executor(workers: int, scheduler: str) -> Executor:
    if workers and scheduler:
        raise UsageError("--workers and --scheduler exclude each other.", hint="Give one of them.")
    return DaskExecutor(workers=workers, scheduler=scheduler) if workers or scheduler else LaneExecutor()
