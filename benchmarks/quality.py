"""Quality flags: what they find and miss, on drawn slides whose truth is known and on real tiles, and what they cost.

    python benchmarks/quality.py [--slides 6] [--data shared/data] [--results benchmarks/results/quality.md]

Drawn: pen and folds are the generator's own; a tile counts as holding one where it covers a tenth of it, as free of it
below a fiftieth, and is left out in between. Blur is a Gaussian over each tile, clipping is a gain of 1.5. Real tiles
are taken to be good as they are, and then blurred, inked (a stroke of 80 px at nine tenths), folded (a strip of 70 px
seen through another part of the same tile) and clipped. The cost is CPU-seconds of `read_tiles` with flags less those
without, in turns, on a drawn slide at 0.25 um/px read at 0.5 and at 0.25 by the reader `fast`, one thread of ours and
one of OpenCV, as in the reader process.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# This folder holds files named as packages are.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import processor
from pipeline.synthetic import draw, recipe
from pipeline.synthetic.layout import Frame
from pipeline.synthetic.marks import pen, thickness
from pipeline.synthetic.recipe import DIAGNOSES, GLASS, PEN_COLOURS
from tiling import TileGrid, TileSpec, detect_tissue, read_tiles
from tiling.grid import TissueMask
from tiling.quality import BLUR, FOLD, NAMES, PEN, SATURATED, tile_flags
from wsi import open_slide
from wsi.svs import SvsSpec, write_svs

PX, MPP = 224, 0.5
Tiles = NDArray[np.uint8]  # (n, 224, 224, 3)

INKS = {"black": (0.09, 0.09, 0.11), "blue": (0.13, 0.24, 0.62), "green": (0.1, 0.48, 0.3), "red": (0.75, 0.1, 0.12)}
SIGMAS = (1, 1.5, 2, 3, 4, 6)
REAL: dict[str, float | None] = {  # below slides/; the mpp of those that tell none
    "CMU-1-Small-Region.svs": None,
    "TCGA-CR-7395-01A-01-TS1.svs": 0.5,
    "OS-1-detail.ome.tif": None,
    "histoprep_slide.jpeg": 0.5,
}


def main() -> None:
    given = _arguments()
    cv2.setNumThreads(1)
    report = [
        "# Quality flags",
        "",
        f"`benchmarks/quality.py`. {datetime.date.today()}, {processor()}, 2 shared cores.",
        "Tiles of 224 px at 0.5 um/px, unless the table says otherwise.",
        "The thresholds were set with these real tiles in view, and with drawn slides of other seeds.",
        *_drawn(given.slides),
        *_real(given.data),
        *_cost(),
    ]
    text = "\n".join(report) + "\n"
    sys.stdout.write(text)
    if given.results:
        given.results.write_text(text, encoding="utf-8")


def raised(tiles: Tiles, flag: int) -> NDArray[np.bool_]:
    return np.asarray(tile_flags(tiles, MPP) & flag > 0)


def over(tiles: Tiles, change: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> Tiles:
    return np.stack([np.clip(change(tile), 0, 255).astype(np.uint8) for tile in tiles])


def blurred(tiles: Tiles, sigma_px: float) -> Tiles:
    return over(tiles, lambda tile: np.asarray(cv2.GaussianBlur(tile, (0, 0), sigma_px)))


def clipped(tiles: Tiles) -> Tiles:
    return over(tiles, lambda tile: tile * 1.5)


def band(ends: tuple[int, int], width: int) -> NDArray[np.float32]:
    """0 or 1, (PX, PX, 1): a strip across the tile between two heights."""
    cover = np.zeros((PX, PX), np.float32)
    cv2.line(cover, (0, ends[0]), (PX - 1, ends[1]), 1, width)
    return cover[..., None]


def inked(tiles: Tiles, ink: tuple[float, float, float]) -> Tiles:
    cover = np.asarray(cv2.GaussianBlur(band((45, 170), 80), (0, 0), 3))[..., None] * 0.9
    return over(tiles, lambda tile: tile * (1 - cover * (1 - np.array(ink))))


def folded(tiles: Tiles) -> Tiles:
    strip = band((70, 150), 70) > 0
    return over(tiles, lambda tile: tile * np.where(strip, np.minimum(tile[::-1, ::-1] / 245, 1), 1))


# --- drawn slides -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """Tiles of drawn slides, and which share of each is under a pen and in a fold."""

    tiles: Tiles
    pen: NDArray[np.float64]
    fold: NDArray[np.float64]


def _truth(count: int) -> Truth:
    parts = [part for i in range(count) for part in _slide(i)]
    tiles, inks, folds = zip(*parts, strict=True)
    return Truth(np.stack(tiles), np.array(inks), np.array(folds))


def _slide(i: int) -> Iterator[tuple[NDArray[np.uint8], float, float]]:
    plan = recipe(500 + i, DIAGNOSES[i % 3], pen=PEN_COLOURS[(i // 3 + i) % 3])
    drawn, frame = draw(plan), Frame.of(plan)
    stroke, thick, glass = pen(plan, frame) > 0.4, thickness(plan, frame) > 1.5, drawn.beneath == GLASS

    def share(field: NDArray[np.bool_], px: int, y: int, x: int) -> float:
        return float(field[y // px : (y + PX) // px, x // px : (x + PX) // px].mean())

    for y in range(0, drawn.pixels.shape[0] - PX + 1, PX):
        for x in range(0, drawn.pixels.shape[1] - PX + 1, PX):
            if share(glass, drawn.mask_px, y, x) <= 0.5:
                tile = drawn.pixels[y : y + PX, x : x + PX]
                yield tile, share(stroke, frame.field_px, y, x), share(thick, frame.field_px, y, x)


def _drawn(count: int) -> Iterator[str]:
    truth = _truth(count)
    clean = (truth.pen < 0.02) & (truth.fold < 0.02)
    plain = truth.tiles[clean]
    yield from ("", f"{count} drawn slides, {len(truth.tiles)} tiles, {len(plain)} of them without pen and fold:", "")
    yield from ("| flag | raised where it should be | not raised where it should not be |", "|---|---|---|")
    quiet = {flag: _share(~raised(plain, flag)) for flag in (BLUR, PEN, FOLD, SATURATED)}
    for sigma in SIGMAS:
        yield f"| blur, sigma {sigma} px | {_share(raised(blurred(plain, sigma), BLUR))} | {quiet[BLUR]} |"
    yield f"| pen, as drawn | {_share(raised(truth.tiles[truth.pen >= 0.1], PEN))} | {quiet[PEN]} |"
    yield f"| fold, as drawn | {_share(raised(truth.tiles[truth.fold >= 0.1], FOLD))} | {quiet[FOLD]} |"
    yield f"| fold, a strip laid twice | {_share(raised(folded(plain), FOLD))} | {quiet[FOLD]} |"
    yield f"| saturated, gain 1.5 | {_share(raised(clipped(plain), SATURATED))} | {quiet[SATURATED]} |"


def _share(found: NDArray[np.bool_]) -> str:
    return f"{found.mean():.3f} ({np.count_nonzero(found)} of {len(found)})"


# --- real tiles ---------------------------------------------------------------------------------------------------


def _real(data: Path) -> Iterator[str]:
    sources = dict(_sources(data))
    if not sources:
        yield from ("", "Real tiles: none here.")
        return
    yield from ("", "Real tiles, as they are: how many have which flag.", "")
    yield f"| tiles of | tiles | {' | '.join(NAMES)} |"
    yield "|---" * (2 + len(NAMES)) + "|"
    for name, tiles in sources.items():
        flags = tile_flags(tiles, MPP)
        yield f"| {name} | {len(tiles)} | {' | '.join(str(int((flags >> i & 1).sum())) for i in range(len(NAMES)))} |"
    changes: dict[str, tuple[int, Callable[[Tiles], Tiles]]] = {
        f"blur {s}": (BLUR, lambda t, s=s: blurred(t, s)) for s in SIGMAS
    }
    changes |= {ink: (PEN, lambda t, c=colour: inked(t, c)) for ink, colour in INKS.items()}
    changes |= {"fold": (FOLD, folded), "gain 1.5": (SATURATED, clipped)}
    yield from (
        "",
        "The same, changed: share that has the flag of the change.",
        "",
        f"| tiles of | {' | '.join(changes)} |",
    )
    yield "|---" * (1 + len(changes)) + "|"
    for name, tiles in sources.items():
        found = [raised(change(tiles), flag).mean() for flag, change in changes.values()]
        yield f"| {name} | {' | '.join(f'{share:.2f}' for share in found)} |"


def _sources(data: Path) -> Iterator[tuple[str, Tiles]]:
    patches = sorted((data / "patches" / "nct_crc_he").glob("*.tif"))
    if patches:
        yield "NCT-CRC-HE", np.stack([np.asarray(Image.open(path).convert("RGB")) for path in patches])
    for name, mpp in REAL.items():
        if (data / "slides" / name).exists():
            with open_slide(data / "slides" / name, mpp=mpp) as slide:
                grid = TileGrid.over(slide, detect_tissue(slide), TileSpec())
                yield name, np.concatenate([batch.pixels for batch in read_tiles(slide, grid)])


# --- cost ---------------------------------------------------------------------------------------------------------


def _cost() -> Iterator[str]:
    yield from ("", "Cost, medians of 7 rounds:", "")
    yield from (
        "| tiles at | reading, ms of CPU a tile | with flags | flags, ms | of reading |",
        "|---|---|---|---|---|",
    )
    plan = recipe(5, "adenocarcinoma", mpp=0.25, width_um=1150.0, height_um=850.0, pieces=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.svs"
        write_svs(path, draw(plan).pixels, SvsSpec(mpp=0.25))
        with open_slide(path, reader="fast") as slide:
            for mpp in (0.5, 0.25):
                mask = TissueMask(np.ones((1, 1), bool), max(slide.size))
                grid = TileGrid.over(slide, mask, TileSpec(mpp=mpp, min_tissue=1))
                rounds = [(_read(slide, grid, quality=False), _read(slide, grid, quality=True)) for _ in range(8)][1:]
                plain, flagged = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
                more = flagged - plain
                yield f"| {mpp} um/px | {plain:.2f} | {flagged:.2f} | {more:.2f} | {more / plain:.0%} |"


def _read(slide: Any, grid: TileGrid, *, quality: bool) -> float:
    """CPU-seconds a tile."""
    wanted = replace(grid, spec=replace(grid.spec, quality=quality))
    before = time.process_time()
    count = sum(len(batch) for batch in read_tiles(slide, wanted, threads=1))
    return (time.process_time() - before) / count


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--data", type=Path, default=Path("shared/data"), help="folder of real slides and patches")
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
