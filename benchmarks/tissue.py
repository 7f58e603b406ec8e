"""Tissue against glass on drawn slides, each difficulty by itself: Dice with the true mask, worst first in mind.

    python benchmarks/tissue.py [--slides 12] [--results benchmarks/results/tissue.md]

The slides are drawn at 2 um/px, so their true masks are known; a difficulty is then laid over the pixels, and tissue is
segmented at the default scale, as in a run. What lies under a pen is not counted: nobody can know it. False tissue is
the share of what was found that is glass, missed tissue the share of true tissue that was not found.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# ruff: noqa: E402
# This folder holds files named as packages are.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import processor
from pipeline.synthetic.draw import DrawnSlide, draw
from pipeline.synthetic.recipe import ADIPOSE, PEN, PEN_COLOURS, recipe
from tiling import TissueConfig, segment_tissue

MPP = 2.0
DAB, HAEMATOXYLIN = np.array([0.27, 0.57, 0.78]), np.array([0.65, 0.70, 0.29])  # Ruifrok and Johnston 2001
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """An image, where tissue is, and where that can be known."""

    image: Image
    truth: Mask
    known: Mask


def main() -> None:
    given = _arguments()
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(100, 100 + given.slides):
        for name, case in cases(seed):
            found.setdefault(name, []).append(score(case))
    lines = [*_heading(given.slides), *(_row(name, np.array(scores)) for name, scores in found.items()), "", _time()]
    report = "\n".join(lines) + "\n"
    sys.stdout.write(report)
    if given.results:
        given.results.write_text(report)


def score(case: Case) -> tuple[float, float, float]:
    """Dice, false tissue, missed tissue."""
    found = segment_tissue(case.image, MPP) & case.known
    truth = case.truth & case.known
    both = int((found & truth).sum())
    return 2 * both / (found.sum() + truth.sum()), 1 - both / max(1, found.sum()), 1 - both / truth.sum()


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    plan = recipe(seed, width_um=2600.0, height_um=2000.0, mpp=MPP, pen=None)
    plain = _case(draw(plan))
    for name, change in _CHANGES.items():
        yield name, change(plain, np.random.default_rng(seed))
    for colour in PEN_COLOURS:
        yield f"{colour} pen", _case(draw(replace(plan, pen=colour)))
    shares = [0.25 * share for share in plan.shares]
    shares[ADIPOSE] += 1 - sum(shares)
    yield "mostly fat", _case(draw(replace(plan, shares=tuple(shares))))


def _case(drawn: DrawnSlide) -> Case:
    height, width = drawn.pixels.shape[:2]
    truth, pen = (
        np.kron(mask, np.ones((drawn.mask_px, drawn.mask_px), np.uint8))[:height, :width] > 0
        for mask in (drawn.tissue.astype(np.uint8), (drawn.regions == PEN).astype(np.uint8))
    )
    return Case(drawn.pixels, truth, ~pen)


# --- what makes it hard -------------------------------------------------------------------------------------------


def stained(case: Case, density: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Case:
    """The same with other optical densities: `density` takes (h, w, 3) against the glass and gives it back."""
    white = np.median(case.image[~case.truth], axis=0)
    was = -np.log(np.clip(case.image, 1, None) / white)
    return replace(case, image=np.clip(white * np.exp(-density(was)), 0, 255).astype(np.uint8))


def ihc(case: Case, rng: np.random.Generator) -> Case:
    """No eosin: haematoxylin's pale blue, brown in blotches over a third."""
    field = cv2.GaussianBlur(rng.normal(size=case.truth.shape), (0, 0), 40)
    brown = (field > np.quantile(field, 0.67))[..., None]
    return stained(case, lambda d: d.mean(axis=2, keepdims=True) * np.where(brown, 2 * DAB, HAEMATOXYLIN))


def red_pen(case: Case, rng: np.random.Generator) -> Case:
    height, width = case.truth.shape
    cover = np.zeros((height, width), np.uint8)
    points = np.stack([np.linspace(0.1, 0.9, 9) * width, rng.uniform(0.2, 0.8, 9) * height], 1).astype(np.int32)
    cv2.polylines(cover, [points], False, 255, 60, cv2.LINE_AA)
    share = cv2.GaussianBlur(cover, (0, 0), 3)[..., None] / 255 * 0.9
    ink = case.image * (1 - share * (1 - np.array([235, 45, 60]) / 255))
    return Case(ink.astype(np.uint8), case.truth, case.known & (share[..., 0] < 0.02))


def coverslip(case: Case, rng: np.random.Generator) -> Case:
    """Its edge: a dark and a bright line from side to side, a little askew, and darker glass beyond."""
    height, width = case.truth.shape
    y = np.arange(height)[:, None] - (0.06 * height + 0.03 * np.arange(width) + rng.uniform(-10, 10))
    line = 90 * np.exp(-(((y + 4) / 4) ** 2)) - 12 * np.exp(-(((y - 8) / 5) ** 2)) + 14 * (y < 0)
    return replace(case, image=np.clip(case.image - line[..., None], 0, 255).astype(np.uint8))


def black_border(case: Case, rng: np.random.Generator) -> Case:
    sides = [(int(rng.integers(40, 160)), int(rng.integers(40, 160))) for _ in range(2)]
    dark = np.pad(case.image, (*sides, (0, 0)), constant_values=8)
    return Case(dark, np.pad(case.truth, sides), np.pad(case.known, sides, constant_values=True))


def transparent(case: Case, rng: np.random.Generator) -> Case:
    """As MRXS leaves out what holds no tissue: squares of pure white, up to the tissue."""
    near = cv2.dilate(case.truth.astype(np.uint8), np.ones((81, 81), np.uint8))
    square = int(rng.integers(90, 140))
    image = case.image.copy()
    for y in range(0, near.shape[0], square):
        for x in range(0, near.shape[1], square):
            if not near[y : y + square, x : x + square].any():
                image[y : y + square, x : x + square] = 255
    return replace(case, image=image)


def at_the_frame(case: Case, _: np.random.Generator) -> Case:
    """Cut so that tissue is at all four sides, the frame its middle half."""
    ys, xs = np.nonzero(case.truth)
    rows, columns = (slice(*np.quantile(at, (0.25, 0.75)).astype(int)) for at in (ys, xs))
    return Case(case.image[rows, columns], case.truth[rows, columns], case.known[rows, columns])


def uneven_light(case: Case, _: np.random.Generator) -> Case:
    light = np.linspace(0.86, 1.0, case.truth.shape[1])[None, :, None]
    return replace(case, image=(case.image * light).astype(np.uint8))


def dust(case: Case, rng: np.random.Generator) -> Case:
    """Specks of 10 to 60 um, and hairs."""
    image, (height, width) = case.image.copy(), case.truth.shape
    for _ in range(60):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(image, centre, int(rng.integers(3, 15)), (70, 66, 62), -1, cv2.LINE_AA)
    for _ in range(4):
        points = np.cumsum(rng.normal(0, 60, (8, 2)), axis=0) + rng.uniform(0, (width, height))
        cv2.polylines(image, [points.astype(np.int32)], False, (60, 55, 50), 5, cv2.LINE_AA)
    return replace(case, image=image)


def jpeg(case: Case, _: np.random.Generator) -> Case:
    packed = cv2.imencode(".jpg", case.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    return replace(case, image=np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1]))


_CHANGES: dict[str, Callable[[Case, np.random.Generator], Case]] = {
    "none": lambda case, _: case,
    "faint, 30 % of the stain": lambda case, _: stained(case, lambda d: 0.3 * d),
    "very faint, 15 %": lambda case, _: stained(case, lambda d: 0.15 * d),
    "IHC, brown and pale blue": ihc,
    "haematoxylin alone": lambda case, _: stained(case, lambda d: d.mean(axis=2, keepdims=True) * HAEMATOXYLIN),
    "red pen": red_pen,
    "edge of the coverslip": coverslip,
    "black border of the scanner": black_border,
    "transparent areas": transparent,
    "tissue at the frame": at_the_frame,
    "uneven light, 14 %": uneven_light,
    "dust and hairs": dust,
    "out of focus, 10 um": lambda case, _: replace(case, image=np.asarray(cv2.GaussianBlur(case.image, (0, 0), 5))),
    "JPEG, quality 30": jpeg,
}


# --- the report ---------------------------------------------------------------------------------------------------


def _heading(slides: int) -> list[str]:
    return [
        "# Tissue",
        "",
        f"`benchmarks/tissue.py`. {datetime.date.today()}, {processor()}. {slides} drawn slides a row, "
        f"segmented at {TissueConfig().mpp:g} um/px.",
        "",
        "| difficulty | Dice, mean | Dice, worst | false tissue | missed tissue |",
        "|---|---|---|---|---|",
    ]


def _row(name: str, scores: NDArray[np.float64]) -> str:
    dice, false, missed = scores.T
    return f"| {name} | {dice.mean():.3f} | {dice.min():.3f} | {false.mean():.1%} | {missed.mean():.1%} |"


def _time() -> str:
    """Of a gigapixel slide's overview: 32,000 x 32,000 px at 0.25 um/px."""
    piece = draw(recipe(5, width_um=2000.0, height_um=2000.0, mpp=MPP, pen=None)).pixels
    overview = cv2.resize(np.tile(piece, (4, 4, 1)), (1000, 1000), interpolation=cv2.INTER_AREA)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        segment_tissue(np.asarray(overview, np.uint8), 8.0)
        taken.append(time.perf_counter() - started)
    return f"The overview of a slide of 32,000 x 32,000 px at 0.25 um/px: {sorted(taken)[2]:.2f} s (median of 5)."


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
