"""Scores and maps from cached features: other prompts, other classes, a trained head. No slide is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from features import FeatureGrid
from heads import Bag, PromptSet, load_head
from heads.trained import TrainedHead
from pipeline.config import RunConfig
from pipeline.heatmap import PROBABILITY, RELATIVE
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import TileScores, write_heatmap
from pipeline.record import SlideRecord
from pipeline.stages import encoder_for
from pipeline.zeroshot import Scorer, TileMap, class_map, default_prompts, file_name, map_values, score_slide
from tiling.grid import READ_FAILED
from wsi.errors import ToolkitError, UsageError


def rescore(out: OutputFolder, config: RunConfig, prompts: PromptSet) -> tuple[int, list[str]]:
    """Scores every finished slide with other prompts; returns how many, and a sentence for each that could not be."""
    scorer = Scorer.of(prompts, encoder_for(config), config.zeroshot)
    done, skipped = 0, []
    for folder in out.slides():
        try:
            record = SlideRecord.read(folder)
            if record is not None and record.grid.tiles:
                score_slide(folder, record, scorer, config.pictures)
                done += 1
        except ToolkitError as error:
            skipped.append(f"{folder.id}: {error.code}. {error}")
    if not done and not skipped:
        raise UsageError(f"{out.path}: there are no features to score.", hint="Run `wsi run` first.")
    return done, skipped


def draw_class(folders: list[SlideFolder], config: RunConfig, of: str) -> Iterator[Path]:
    """Heatmaps of `tumour` or one class of the prompts in use; "" draws what the run drew. Yields the files."""
    scorer = _scorer(config)
    if scorer.untrained:
        raise UsageError("These features come from random weights: a map of them would mean nothing.")
    for folder in folders:
        record = SlideRecord.read(folder)
        if record is None or not record.grid.tiles:
            continue
        grid, bag = scorer.bag_of(folder, record)
        tiles = TileMap.of(grid, bag, scorer)
        source = f"prompts {scorer.prompts.name}"
        for name, title, values in _chosen(tiles, scorer.prompts, of):
            scores = TileScores(name, title, tiles.full(values), PROBABILITY, source)
            yield write_heatmap(folder, record, grid.grid, scores)


def draw_attention(folders: list[SlideFolder], head: Path) -> Iterator[Path]:
    """Heatmaps of a trained head's attention, raw values times the number of tiles; yields the files."""
    trained = load_head(head)
    for folder in folders:
        record = SlideRecord.read(folder)
        if record is not None and record.grid.tiles:
            grid = FeatureGrid.open(folder.features / record.current)
            yield write_heatmap(folder, record, grid.grid, attention_map(grid, trained, head.resolve().name))


def attention_map(grid: FeatureGrid, head: TrainedHead, name: str) -> TileScores:
    """Attention of every tile as a multiple of the even share 1/N, so that slides of any size compare."""
    attention = head.score(Bag.from_grid(grid)).per_tile
    assert attention is not None, "attention heads tell their attention"
    values = np.full(len(grid), np.nan, np.float32)
    values[grid.read_status != READ_FAILED] = attention * len(attention)
    title = f"attention of {name}, x N (1 = even share)"
    return TileScores(f"attention-{file_name(name)}", title, values, RELATIVE, f"head {name}")


def _scorer(config: RunConfig) -> Scorer:
    encoder = encoder_for(config)
    prompts = default_prompts(config.zeroshot.prompts, config.encoder.name)
    if prompts is None:
        raise UsageError("This run has no prompts.", hint="Run `wsi zeroshot OUT --prompts ...` first, or give --head.")
    return Scorer.of(prompts, encoder, config.zeroshot)


def _chosen(tiles: TileMap, prompts: PromptSet, of: str) -> list[tuple[str, str, np.ndarray]]:
    if not of or (of == "tumour" and prompts.tumour):
        return map_values(tiles, prompts)
    if of not in prompts.names:
        raise UsageError(
            f"The prompts {prompts.name} have no class {of!r}.", hint=f"They have: {', '.join(prompts.names)}."
        )
    return [class_map(tiles, prompts, prompts.names.index(of))]
