"""Every reader on every slide of a folder: who opens it, at what resolution, and whose pixels they get.

    python benchmarks/contract.py FOLDER [--results benchmarks/results/contract.md]

Pixels are compared with openslide's, or tiffslide's where openslide refuses, in 12 regions of every level both have:
mean and largest difference in grey levels. Then the regions are read by four threads at once, and by a process of its
own: both must give the same bytes as one thread did, or the cell says so.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

# ruff: noqa: E402
# This folder holds files named as packages are.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from wsi import Region, Size, Slide, open_slide
from wsi.errors import SlideError
from wsi.listing import find_slides
from wsi.opening import READERS

_SIDE = 256  # px of a region, at its level
Pixels = list[NDArray[np.uint8]]
Place = tuple[Region, Size]


def main() -> None:
    given = _arguments()
    lines = [
        "# Readers and slides",
        "",
        f"`benchmarks/contract.py`, {datetime.date.today()}. Pixels against the first of openslide and tiffslide that "
        "opens the slide: mean and largest difference in grey levels, level by level.",
        "",
        f"| slide | taken by auto | {' | '.join(READERS)} | um/px, from |",
        f"|---|---|{'---|' * len(READERS)}---|",
        *(_row(path) for path in find_slides(given.folder)),
    ]
    report = "\n".join(lines) + "\n"
    sys.stdout.write(report)
    if given.results:
        given.results.write_text(report)


def _row(path: Path) -> str:
    try:
        with open_slide(path) as slide:
            taken = slide.reader + (f" ({slide.reader_note})" if slide.reader_note else "")
            mpp = f"{slide.mpp:.4g}, {slide.mpp_source}" if slide.mpp_source != "none" else "none"
    except SlideError as error:
        taken, mpp = f"refused: {error.code}", ""
    base = next((reader for reader in ("openslide", "tiffslide", "image") if _opens(path, reader)), None)
    cells = [_cell(path, reader, base) if base else "refused" for reader in READERS]
    return f"| {path.name} | {taken} | {' | '.join(cells)} | {mpp} |"


def _opens(path: Path, reader: str) -> bool:
    try:
        open_slide(path, reader=reader).close()
    except SlideError:
        return False
    return True


def _cell(path: Path, reader: str, base: str) -> str:
    if not _opens(path, reader):
        return "refused"
    with open_slide(path, reader=reader) as slide, open_slide(path, reader=base) as oracle:
        levels = [places(slide, level) for level in range(min(len(slide.levels), len(oracle.levels)))]
        mine = [read(slide, level) for level in levels]
        faults = _unequal(path, reader, levels, mine) + ("" if slide.size == oracle.size else ", other size")
        if reader == base:
            return f"the measure{faults}"
        theirs = [read(oracle, level) for level in levels]
    return "; ".join(_difference(a, b) for a, b in zip(mine, theirs, strict=True)) + faults


def places(slide: Slide, level: int) -> list[Place]:
    """12 regions of a level, evenly spread over it, as they are there."""
    at = slide.levels[level]
    side = Size(min(_SIDE, at.size.width), min(_SIDE, at.size.height))
    xs, ys = np.linspace(0, at.size.width - side.width, 4), np.linspace(0, at.size.height - side.height, 3)
    span = Size(int(side.width * at.downsample_x), int(side.height * at.downsample_y))
    return [(Region(int(x * at.downsample_x), int(y * at.downsample_y), *span), side) for y in ys for x in xs]


def read(slide: Slide, wanted: Sequence[Place]) -> Pixels:
    return [slide.read(region, size) for region, size in wanted]


def read_elsewhere(path: Path, reader: str, wanted: Sequence[Place]) -> Pixels:
    with open_slide(path, reader=reader) as slide:
        return read(slide, wanted)


def _unequal(path: Path, reader: str, levels: list[list[Place]], expected: list[Pixels]) -> str:
    """What is not equal byte for byte to one thread's reading; "" if all is."""
    wanted, first = [place for level in levels for place in level], [tile for tiles in expected for tile in tiles]
    faults = ""
    with open_slide(path, reader=reader) as slide, ThreadPoolExecutor(4) as threads:
        if not _same(list(threads.map(lambda place: slide.read(*place), wanted)), first):
            faults += ", threads differ"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        if not _same(process.submit(read_elsewhere, path, reader, wanted).result(), first):
            faults += ", a process differs"
    return faults


def _same(some: Pixels, others: Pixels) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def _difference(mine: Pixels, theirs: Pixels) -> str:
    apart = np.concatenate([np.abs(a.astype(int) - b).ravel() for a, b in zip(mine, theirs, strict=True)])
    return "equal" if not apart.any() else f"{apart.mean():.2f}, {apart.max()}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
