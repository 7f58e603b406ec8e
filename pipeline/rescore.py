"""Scores and maps from cached features: other prompts, other classes, a trained head. No slide is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from features import FeatureGrid
from heads import PromptSet
from heads.bag import kept_rows
from pipeline import ledger
from pipeline.config import RunConfig
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import write_heatmap
from pipeline.record import SlideRecord
from pipeline.stages import encoder_for
from pipeline.zeroshot import Scorer, TileMap, class_map, default_prompts, map_values, nothing_left, score_slide
from wsi.errors import SetupError, SlideUnreadable, ToolkitError, UsageError

T = TypeVar("T")


def rescore(out: OutputFolder, config: RunConfig, prompts: PromptSet) -> tuple[int, list[str]]:
    """Scores every finished slide with other prompts; returns how many, and a sentence for each that could not be.

    Raises UsageError where there are no features at all, SetupError where the machine refuses.
    """
    scorer = Scorer.of(prompts, encoder_for(config), config.zeroshot)
    skipped: list[str] = []

    def score(folder: SlideFolder, record: SlideRecord) -> None:
        if not score_slide(folder, record, scorer, config.pictures):
            raise nothing_read(folder)

    done = sum(1 for _ in each_slide(out, out.slides(), score, skipped))
    if not done and not skipped:
        raise UsageError(f"{out.path}: there are no features to score.", hint="Run `wsi run` first.")
    return done, skipped


def draw_class(
    out: OutputFolder, folders: list[SlideFolder], config: RunConfig, of: str, skipped: list[str]
) -> Iterator[Path]:
    """Heatmaps of `tumour` or one class of the prompts in use; "" draws what the run drew. Yields the files.

    A sentence for each slide that could not be drawn is added to `skipped`. Raises UsageError for a class that the
    prompts do not have, SetupError where the machine refuses.
    """
    scorer = _scorer(config)
    if scorer.untrained:
        raise UsageError("These features come from random weights: a map of them would mean nothing.")
    _check_class(scorer.prompts, of)

    def draw(folder: SlideFolder, record: SlideRecord) -> list[Path]:
        grid, bag = scorer.bag_of(folder, record)
        if not len(bag):
            raise nothing_kept(folder, grid, scorer.config.drop)
        tiles = TileMap.of(grid, bag, scorer)
        return [
            write_heatmap(folder, record, grid.grid, scorer.tile_scores(tiles, name, title, values))
            for name, title, values in _chosen(tiles, scorer.prompts, of)
        ]

    for paths in each_slide(out, folders, draw, skipped):
        yield from paths


def each_slide(
    out: OutputFolder, folders: Iterable[SlideFolder], work: Callable[[SlideFolder, SlideRecord], T], skipped: list[str]
) -> Iterator[T]:
    """What `work` gives for every slide with tiles that last ended well; for the others a sentence in `skipped`.

    SetupError (disk full, no permission) passes through: every later slide would meet it too.
    """
    outcomes = ledger.last_outcomes(out.ledger)
    for folder in folders:
        ended = outcomes.get(folder.id)
        if ended is not None and not ended.good:
            skipped.append(f"{folder.id}: its last run ended {ended.status} ({ended.code}). Run it again first.")
            continue
        try:
            record = SlideRecord.read(folder)
            if record is None or not record.grid.tiles:
                continue
            result = work(folder, record)
        except SetupError:
            raise
        except ToolkitError as error:
            skipped.append(f"{folder.id}: {error.code}. {error}")
        else:
            yield result


def nothing_kept(folder: SlideFolder, grid: FeatureGrid, drop: Sequence[str]) -> ToolkitError:
    """The error for a slide of which no tile can be used: all dropped, or none read."""
    if not kept_rows(grid).any():
        return nothing_read(folder)
    return UsageError(f"{folder.path}: {nothing_left(len(grid), drop)}.", hint="Drop fewer flags.")


def nothing_read(folder: SlideFolder) -> SlideUnreadable:
    return SlideUnreadable(
        f"{folder.path}: none of this slide's tiles could be read.", hint="Fetch the slide again and run it."
    )


def _scorer(config: RunConfig) -> Scorer:
    encoder = encoder_for(config)
    prompts = default_prompts(config.zeroshot.prompts, config.encoder.name)
    if prompts is None:
        raise UsageError("This run has no prompts.", hint="Run `wsi zeroshot OUT --prompts ...` first, or give --head.")
    return Scorer.of(prompts, encoder, config.zeroshot)


def _check_class(prompts: PromptSet, of: str) -> None:
    if of and of not in prompts.names and not (of == "tumour" and prompts.tumour):
        raise UsageError(
            f"The prompts {prompts.name} have no class {of!r}.", hint=f"They have: {', '.join(prompts.names)}."
        )


def _chosen(tiles: TileMap, prompts: PromptSet, of: str) -> list[tuple[str, str, NDArray[np.float32]]]:
    if not of or (of == "tumour" and prompts.tumour):
        return map_values(tiles, prompts)
    return [class_map(tiles, prompts, prompts.names.index(of))]
