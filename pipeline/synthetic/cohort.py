"""A folder of synthetic slides with a table: drawn in parallel, resumable, the same whatever the number of workers."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wsi.identity import digest
from wsi.svs import SvsSpec, storage_error, write_svs

from .draw import DrawnSlide, draw
from .recipe import DIAGNOSES, REGIONS, TUMOUR_OF, SlideRecipe, recipe
from .survival import follow_up

GENERATOR = 1  # raised whenever the same recipe gives other pixels

Progress = Callable[[int, int, str], None]  # slides done, slides in all, the one just done


@dataclass(frozen=True, slots=True)
class Scan:
    """A scanner's pixel size and how much glass it scanned."""

    mpp: float
    width_um: float
    height_um: float
    objective_power: float


SCANS = (
    Scan(0.5, 2200.0, 1600.0, 20),
    Scan(0.499, 2200.0, 1600.0, 20),
    Scan(0.46, 2000.0, 1500.0, 20),
    Scan(0.2525, 1150.0, 850.0, 40),
    Scan(0.388, 1800.0, 1350.0, 20),
)


@dataclass(frozen=True, slots=True)
class CohortSpec:
    """What to draw."""

    slides: int = 9  # diagnoses in turn, so in equal shares for a multiple of three
    seed: int = 2024  # of the first slide; the others follow by one
    scans: tuple[Scan, ...] = SCANS  # taken in turn
    workers: int | None = None  # processes; None: one a core

    def __post_init__(self) -> None:
        if self.slides < 1 or not self.scans or (self.workers is not None and self.workers < 1):
            raise ValueError(f"slides, scans and workers must be at least 1: {self}")


@dataclass(frozen=True, slots=True)
class CohortRow:
    """A line of cohort.csv."""

    id: str
    slide: str  # path relative to the table
    patient: str
    diagnosis: str
    tumour: int  # 1: any carcinoma
    months: float  # to event or censoring
    event: int  # 1: observed
    true_risk: float  # log hazard ratio the times were drawn from; higher = earlier event
    scanner_mpp: float  # um per level-0 pixel, as the slide tells; not "mpp", which a run would take for an override


@dataclass(frozen=True, slots=True)
class _Job:
    dest: Path
    name: str
    plan: SlideRecipe
    objective_power: float

    @property
    def slide(self) -> Path:
        return self.dest / "slides" / f"{self.name}.svs"

    @property
    def truth(self) -> Path:
        return self.dest / "truth" / f"{self.name}.png"

    @property
    def tissue(self) -> Path:
        return self.dest / "truth" / "tissue" / f"{self.name}.png"

    @property
    def record(self) -> Path:
        return self.dest / "truth" / f"{self.name}.json"


def write_cohort(dest: Path, spec: CohortSpec | None = None, progress: Progress | None = None) -> list[CohortRow]:
    """Write `dest/slides/S001.svs ...`, `dest/truth/` and `dest/cohort.csv`; returns the table's rows.

    A slide that is there, whole and of the same recipe is kept; all others are (re)drawn. Truth: `<id>.png` holds
    indices into REGIONS, `tissue/<id>.png` 255 where tissue is (pen or not), `<id>.json` the legend and the scale.
    `progress(done, total, name)` is called in this process. Raises StorageError or NoSpace where it cannot write.
    """
    spec = spec or CohortSpec()
    jobs = list(_jobs(dest, spec))
    try:
        for folder in (dest / "slides", dest / "truth" / "tissue"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(dest, error) from error
    todo = [job for job in jobs if not _complete(job)]
    done = len(jobs) - len(todo)
    for name in _run(todo, spec.workers or os.cpu_count() or 1):
        done += 1
        if progress:
            progress(done, len(jobs), name)
    rows = [_row(job) for job in jobs]
    _write_table(dest / "cohort.csv", rows)
    return rows


def _jobs(dest: Path, spec: CohortSpec) -> Iterator[_Job]:
    for i in range(spec.slides):
        scan = spec.scans[i % len(spec.scans)]
        size = {"mpp": scan.mpp, "width_um": scan.width_um, "height_um": scan.height_um}
        plan = recipe(spec.seed + i, DIAGNOSES[i % len(DIAGNOSES)], **size)
        yield _Job(dest, f"S{i + 1:03d}", plan, scan.objective_power)


def _run(jobs: list[_Job], workers: int) -> Iterator[str]:
    """Names of the slides as they are done, in any order."""
    if min(workers, len(jobs)) <= 1:
        yield from map(_write_slide, jobs)
        return
    context = multiprocessing.get_context("spawn")
    limit = min(workers, len(jobs))
    # One thread each: the processes share the cores as it is.
    with ProcessPoolExecutor(limit, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for future in as_completed([pool.submit(_write_slide, job) for job in jobs]):
            yield future.result()


def _write_slide(job: _Job) -> str:
    try:
        _draw_and_write(job)
    except OSError as error:
        raise storage_error(job.slide, error) from error
    return job.name


def _draw_and_write(job: _Job) -> None:
    drawn = draw(job.plan)
    spec = SvsSpec(mpp=job.plan.mpp, objective_power=job.objective_power, name=job.name)
    staged = job.slide.with_suffix(".part")
    write_svs(staged, drawn.pixels, spec)
    staged.replace(job.slide)
    _write_mask(job.truth, drawn.regions)
    _write_mask(job.tissue, drawn.tissue.astype(np.uint8) * 255)
    _write_text(job.record, json.dumps(_record(job, drawn), indent=1))


def _record(job: _Job, drawn: DrawnSlide) -> dict[str, object]:
    """Written last: its presence, with these digests, says that the slide is complete."""
    tissue = drawn.beneath[drawn.tissue]
    return {
        "slide": f"../slides/{job.slide.name}",
        "recipe_digest": _identity(job),
        "slide_bytes": job.slide.stat().st_size,
        "mpp": job.plan.mpp,
        "mask_px": drawn.mask_px,
        "legend": dict(enumerate(REGIONS)),
        "share_of_tissue": {name: round(float((tissue == k).mean()), 4) for k, name in enumerate(REGIONS)},
        "recipe": asdict(job.plan),
    }


def _identity(job: _Job) -> str:
    return digest(job.plan, job.objective_power, GENERATOR)


def _complete(job: _Job) -> bool:
    if not all(path.is_file() for path in (job.slide, job.truth, job.tissue, job.record)):
        return False
    try:
        record = json.loads(job.record.read_text())
    except ValueError:
        return False
    return (record.get("recipe_digest"), record.get("slide_bytes")) == (_identity(job), job.slide.stat().st_size)


def _row(job: _Job) -> CohortRow:
    outcome = follow_up(job.plan)
    return CohortRow(
        id=job.name,
        slide=f"slides/{job.slide.name}",
        patient=f"P{job.name[1:]}",
        diagnosis=job.plan.diagnosis,
        tumour=int(job.plan.diagnosis in TUMOUR_OF),
        months=outcome.months,
        event=int(outcome.event),
        true_risk=outcome.true_risk,
        scanner_mpp=job.plan.mpp,
    )


def _write_table(path: Path, rows: list[CohortRow]) -> None:
    staged = path.with_suffix(".part")
    with open(staged, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, [field.name for field in fields(CohortRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    staged.replace(path)


def _write_mask(path: Path, mask: np.ndarray) -> None:
    staged = path.with_suffix(".part")
    Image.fromarray(mask).save(staged, "PNG")
    staged.replace(path)


def _write_text(path: Path, text: str) -> None:
    staged = path.with_suffix(".part")
    staged.write_text(text, encoding="utf-8")
    staged.replace(path)
