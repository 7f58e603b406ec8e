"""`wsi demo`: draws slides, runs the main job on them, and compares the answers with the drawn truth."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from features import FeatureGrid
from heads import Bag, TrainConfig, train_head
from pipeline import ledger
from pipeline.config import RunConfig, load_config
from pipeline.console import RunConsole, duration, summary, table
from pipeline.executor import Executor
from pipeline.headmaps import head_maps
from pipeline.inforce import InForce
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.pictures import read_image, read_values, write_heatmap
from pipeline.record import SlideRecord
from pipeline.reporting import make_report
from pipeline.run import Run
from pipeline.synthetic import REGIONS, CohortSpec, write_cohort
from pipeline.zeroshot import default_prompts
from tiling.grid import TileGrid, TissueMask
from wsi.errors import UsageError

TUMOUR = tuple(REGIONS.index(name) for name in ("adenocarcinoma", "squamous carcinoma"))
LABEL_OF = {"benign": "normal glands"}  # what the prompts call a benign slide; tumours go by their own names
MIN_SHARE = 0.5  # a tile counts as tumour if at least this share of it is


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the run says and what was drawn."""

    ids: list[str]
    drawn: list[str]  # diagnoses
    label: list[str | None]  # classes of the prompts
    tiles: list[int]
    tile_score: NDArray[np.float32]  # p(tumour) of all tiles of all slides
    tile_truth: NDArray[np.bool_]

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the diagnoses of the share that is labelled right."""
        truth = [LABEL_OF.get(diagnosis, diagnosis) for diagnosis in self.drawn]
        return float(balanced_accuracy_score(truth, [label or "none" for label in self.label]))

    @property
    def tumour_auc(self) -> float:
        """Area under the ROC curve of the tiles' p(tumour) against the true masks, all slides together."""
        return float(roc_auc_score(self.tile_truth, self.tile_score))


def run_demo(console: Console, out: Path, slides: int, seed: int, executor: Executor) -> int:
    """Draws, runs, compares, trains a small attention head, reports. Returns the exit code."""
    started = time.monotonic()
    cohort = out / "cohort"
    with console.status("drawing slides") as status:

        def drawn(done: int, n: int, name: str) -> None:
            status.update(f"drawing {name}: {done}/{n}")
            if not console.is_terminal and done % 3 == 0 and done < n:
                console.print(f"drawing slides: {done}/{n}")

        write_cohort(cohort, CohortSpec(slides, seed), drawn)
    console.print(f"{slides} slides drawn in {duration(time.monotonic() - started)}: {cohort}")

    folder = OutputFolder(out / "results")
    config = load_config(settings=['encoder.name="demo"'])
    job = Run(tuple(entries_from([cohort / "cohort.csv"])), folder, config, default_prompts("", "demo"))
    began = time.monotonic()
    with RunConsole(console, slides) as watcher:
        outcomes = job.outcomes(executor, watcher)
    console.print(summary(outcomes, time.monotonic() - began))

    answers = compare(folder, cohort)
    rows = zip(answers.ids, answers.drawn, (a or "none shown" for a in answers.label), answers.tiles, strict=True)
    console.print(table("", ("slide", "drawn as", "zero-shot label", "tiles"), list(rows), right=("tiles",)))
    console.print(
        f"slides labelled as drawn: balanced accuracy {answers.balanced_accuracy:.2f}; "
        f"tumour tiles told from others: AUC {answers.tumour_auc:.2f}"
    )
    draw_attention(folder, config, answers.ids)
    make_report(folder)
    console.print(
        "The demo's encoder knows synthetic tissue only; for real slides use PLIP (the default of `wsi run`)."
    )
    console.print(f"report: {folder.report}  ({duration(time.monotonic() - started)} in all)", soft_wrap=True)
    return ledger.exit_code(outcomes)


def compare(folder: OutputFolder, cohort: Path) -> Answers:
    """Labels and tile scores of a finished run beside the truth of the cohort it ran on."""
    with open(cohort / "cohort.csv", newline="", encoding="utf-8") as f:
        diagnosis = {row["id"]: row["diagnosis"] for row in csv.DictReader(f)}
    in_force = InForce.of(folder)
    ids, label, scores, masks = [], [], [], []
    for slide in map(folder.slide, diagnosis):
        record = SlideRecord.read(slide)
        found = None if record is None else in_force.scores(slide, record)
        if found is None or record is None:
            raise UsageError(f"{slide.path}: this slide of the cohort was not scored.", hint="Run `wsi demo` again.")
        ids.append(slide.id)
        label.append(found["label"])
        scores.append(read_values(slide.heatmaps / "tumour.png"))
        grid = FeatureGrid.open(slide.features / record.current).grid
        masks.append(tumour_share(grid, cohort / "truth", slide.id) >= MIN_SHARE)
    tiles = [len(s) for s in scores]
    return Answers(ids, [diagnosis[i] for i in ids], label, tiles, np.concatenate(scores), np.concatenate(masks))


def tumour_share(grid: TileGrid, truth: Path, name: str) -> NDArray[np.float32]:
    """(N,) share of each tile that is tumour in the drawn mask."""
    legend = json.loads((truth / f"{name}.json").read_text(encoding="utf-8"))
    mask = TissueMask(np.isin(read_image(truth / f"{name}.png")[..., 0], TUMOUR), legend["mask_px"])
    span = np.full((len(grid), 2), grid.span_px)
    return mask.fraction(np.concatenate([grid.coords, span], axis=1))


def draw_attention(folder: OutputFolder, config: RunConfig, ids: list[str]) -> None:
    """Fits a small gated attention head to the drawn diagnoses and draws what it looks at.

    It is fitted on the very slides it is drawn on: an illustration of heads, no evaluation of one.
    """
    found = [(s, SlideRecord.read(s)) for s in map(folder.slide, ids)]
    slides = [(s, r, FeatureGrid.open(s.features / r.current)) for s, r in found if r is not None and r.grid.tiles]
    head = train_head(
        [Bag.from_grid(g) for _, _, g in slides],
        [r.labels["diagnosis"] for _, r, _ in slides],
        task="classification",
        config=TrainConfig(seed=config.zeroshot.seed),
    )
    head.save(folder.path / "heads" / "diagnosis")
    for slide, record, grid in slides:
        for scores in head_maps(grid, record, head, "diagnosis"):
            write_heatmap(slide, record, grid.grid, scores)
