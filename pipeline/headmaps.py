"""What a trained head looks at: maps of attention, and of what each tile adds to the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features import FeatureGrid
from heads import load_head
from heads.bag import StoredBag, kept_rows
from heads.tasks import Biomarker, Classification, DiscreteHazard
from heads.trained import TrainedHead
from pipeline.headfolder import dropped_by, unseen_by
from pipeline.heatmap import RELATIVE, SIGNED, HeatStyle
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import HEAD, TileScores, write_heatmap
from pipeline.record import SlideRecord
from pipeline.rescore import each_slide, nothing_kept
from pipeline.zeroshot import file_name
from wsi.errors import UsageError

SCALES = ("raw", "rank", "cohort")
PERCENTILE = HeatStyle(limits=(0, 100))


def check_scale(scale: str) -> None:
    """Raises UsageError for none of SCALES."""
    if scale not in SCALES:
        raise UsageError(f"--scale is one of {', '.join(SCALES)}, not {scale!r}.")


def draw_head_maps(
    out: OutputFolder,
    folders: list[SlideFolder],
    head: Path,
    skipped: list[str],
    scale: str = "raw",
    *,
    drop: Sequence[str] | None = None,
) -> Iterator[Path]:
    """Attention and contribution maps of the slides with tiles; yields the files.

    raw: values as they are, attention times N so that slides compare. rank: percentile within the slide. cohort:
    percentile among the tiles of all slides drawn. `drop` as in `head_maps`. A sentence for each slide that fails is
    added to `skipped`.
    """
    check_scale(scale)
    trained, name = load_head(head), head.resolve().name
    left_out = dropped_by(trained) if drop is None else drop

    def maps_of(grid: FeatureGrid, record: SlideRecord) -> list[TileScores]:
        return head_maps(grid, record, trained, name, str(out.path.absolute()), drop=left_out)

    every = each_slide(out, folders, lambda f, r: maps_of(_grid(f, r, left_out), r), [])
    reference = _reference(every) if scale == "cohort" else {}

    def draw(folder: SlideFolder, record: SlideRecord) -> list[Path]:
        grid = _grid(folder, record, left_out)
        scaled_maps = (scaled(m, scale, reference.get(m.name)) for m in maps_of(grid, record))
        return [write_heatmap(folder, record, grid.grid, m) for m in scaled_maps]

    for paths in each_slide(out, folders, draw, skipped):
        yield from paths


def head_maps(
    grid: FeatureGrid,
    record: SlideRecord,
    head: TrainedHead,
    name: str,
    source: str = "",
    *,
    drop: Sequence[str] | None = None,
) -> list[TileScores]:
    """Attention, one map or one for each output; and contribution to the answer given, or to each biomarker.

    Heads without evidence for tiles, and discrete hazards, of which no tile makes one number, show attention alone.

    A slide the head was trained on is shown by the fold that left it out. Tiles with a quality flag in `drop` are gaps;
    None: those that were left out of the head's training.
    """
    bag = StoredBag.of(grid, record.id, dropped_by(head) if drop is None else drop)
    members = unseen_by(head, (record.id,), record.patient or record.id, source)
    score = head.score(bag, members)
    attention, kept = score.per_tile, bag.kept
    assert attention is not None, "every head tells its attention"
    outputs = _output_names(head)
    columns = attention[:, None] if attention.ndim == 1 else attention
    labels = [""] if attention.ndim == 1 else outputs

    def of(kind: str, title: str, values: NDArray[np.float32], style: HeatStyle) -> TileScores:
        full = np.full(len(grid), np.nan, np.float32)
        full[kept] = values
        return TileScores(f"{kind}-{file_name(name)}", title, full, style, f"{HEAD}{name}", head.digest)

    maps = []
    for label, column in zip(labels, columns.T, strict=True):
        tail = f" for {label}" if label else ""
        made = of("attention", f"attention of {name}{tail}, x N (1 = even share)", column * len(column), RELATIVE)
        maps.append(replace(made, name=f"{made.name}-{file_name(label)}") if label else made)
    contribution = None if isinstance(head.card.task, DiscreteHazard) else head.contribution(bag, members)
    if contribution is not None:
        several = isinstance(head.card.task, Biomarker)  # each an answer of its own
        answers = range(len(outputs)) if several else [_answer(head, score.values)]
        for answer in answers:
            title = f"contribution to {outputs[answer]} of {name}, x N"
            made = of("contribution", title, contribution[:, answer] * len(contribution), SIGNED)
            maps.append(replace(made, name=f"{made.name}-{file_name(outputs[answer])}") if several else made)
    return maps


def _answer(head: TrainedHead, values: NDArray[np.float32]) -> int:
    """The output that the slide's answer is read from."""
    return int(values.argmax()) if isinstance(head.card.task, Classification) else 0


def _output_names(head: TrainedHead) -> list[str]:
    task = head.card.task
    if isinstance(task, Classification):
        return [str(c) for c in task.classes]
    if isinstance(task, Biomarker):
        return list(task.names)
    return (
        [f"bin {i + 1}" for i in range(task.n_out)]
        if task.n_out > 1
        else ["risk" if task.kind == "survival" else "value"]
    )


def scaled(scores: TileScores, scale: str, reference: NDArray[np.float32] | None = None) -> TileScores:
    """The map on the scale asked for, which its title tells."""
    if scale == "raw":
        return scores
    known = np.isfinite(scores.values)
    among = np.sort(scores.values[known] if reference is None else reference)
    percentile = np.full_like(scores.values, np.nan)
    below = np.searchsorted(among, scores.values[known], "left") + np.searchsorted(among, scores.values[known], "right")
    percentile[known] = 50 * below / len(among)
    whose = "this slide" if scale == "rank" else "all slides drawn"
    return replace(scores, values=percentile, title=f"{scores.title}; percentile of {whose}", style=PERCENTILE)


def _reference(slides: Iterable[list[TileScores]]) -> dict[str, NDArray[np.float32]]:
    """All values of each map over all slides."""
    gathered: dict[str, list[NDArray[np.float32]]] = {}
    for maps in slides:
        for m in maps:
            gathered.setdefault(m.name, []).append(m.values[np.isfinite(m.values)])
    return {key: np.concatenate(values) for key, values in gathered.items()}


def _grid(folder: SlideFolder, record: SlideRecord, drop: Sequence[str]) -> FeatureGrid:
    grid = FeatureGrid.open(folder.features / record.current)
    if not kept_rows(grid, drop).any():
        raise nothing_kept(folder, grid, drop)
    return grid
