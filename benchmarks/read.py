"""Reading speed: tiles per CPU-second from a JPEG slide, by the ways that tools read, and what it does to pixels.

    python benchmarks/read.py [--slide S.svs] [--tiles 500] [--rounds 5] [--results benchmarks/results/read.md]

The slide, unless one is given, is drawn: 30,000 x 20,000 px at 0.25 um/px, Aperio's layout, tiles of 240 px, JPEG Q80
4:2:0 with shared tables, levels 1, 4 and 16. Each contender opens it once; then they take turns, a round of the same
tiles each, in an order that turns too, so that whatever else the machine does falls on all. CPU-seconds are of the
whole process; the medians over the rounds are shown, with 1 and with 2 threads. The first row is what most tools do:
openslide's read_region and a bicubic resize, one tile at a time.

Then what normalising stains adds to a tile, from rounds of the same kind; what the ways do to pixels and embeddings,
against means over all pixels (exact); and the memory that streaming all tiles of a slide 100,000 px wide takes above
what the process had before.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# ruff: noqa: E402
# This folder holds files named as packages are.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import openslide
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import processor
from pipeline.synthetic import draw, recipe
from tiling import TileGrid, TileSpec, read_tiles
from tiling.grid import STAINS, TissueMask
from tiling.normalisation import StainNormaliser
from tiling.stainfit import fitted_normaliser
from wsi import Slide, open_slide
from wsi.svs import SvsSpec, write_svs

PX = 224
Tiles = NDArray[np.uint8]  # (n, 224, 224, 3)
Way = Callable[[TileGrid, int], Iterator[Tiles]]


@dataclass
class Contender:
    """A way to read, and how long its rounds took."""

    name: str
    read: Way

    def __post_init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def take_turn(self, grid: TileGrid, threads: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        n = sum(len(tiles) for tiles in self.read(grid, threads))
        assert n == len(grid), f"{self.name} read {n} of {len(grid)} tiles"
        self.cpu.append(n / (time.process_time() - cpu))
        self.wall.append(n / (time.perf_counter() - wall))


def main() -> None:
    given = _arguments()
    if given.stream:
        return _stream(given.stream)
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        slide = given.slide or draw_slide(Path(folder) / "slide.svs")
        lines = [*_heading(slide), *_speeds(slide, given), *_stains(slide, given), *_faithfulness(slide, given)]
        wide = write_wide(Path(folder) / "wide.svs")
        lines += _memory(wide)
    report = "\n".join(lines) + "\n"
    sys.stdout.write(report)
    if given.results:
        given.results.parent.mkdir(parents=True, exist_ok=True)
        given.results.write_text(report)


def draw_slide(path: Path) -> Path:
    """30,000 x 20,000 px, a third of it tissue: one drawn piece, mirrored over a square of four."""
    piece = draw(recipe(7, "adenocarcinoma", width_um=2000.0, height_um=1600.0, mpp=0.25, pen=None)).pixels
    four = np.concatenate([piece, piece[::-1]])
    four = np.concatenate([four, four[:, ::-1]], axis=1)
    canvas = np.full((20_000, 30_000, 3), 243, np.uint8)
    canvas[3000 : 3000 + four.shape[0], 6000 : 6000 + four.shape[1]] = four
    write_svs(path, canvas, SvsSpec(mpp=0.25, objective_power=40))
    return path


def write_wide(path: Path) -> Path:
    """100,000 x 6,000 px of tissue, one level."""
    piece = draw(recipe(7, "adenocarcinoma", width_um=1250.0, height_um=750.0, mpp=0.25, pen=None)).pixels
    write_svs(path, np.tile(piece, (2, 20, 1)), SvsSpec(mpp=0.25, objective_power=40, downsamples=(1,)))
    return path


# --- how fast -----------------------------------------------------------------------------------------------------


def contenders(path: Path) -> list[Contender]:
    handle = openslide.OpenSlide(path)

    def one_by_one(grid: TileGrid, threads: int) -> Iterator[Tiles]:
        span = grid.span_px

        def tile(corner: NDArray[np.int64]) -> Tiles:
            picture = handle.read_region((int(corner[0]), int(corner[1])), 0, (span, span)).convert("RGB")
            return np.asarray(picture.resize((PX, PX), Image.Resampling.BICUBIC) if span != PX else picture)[None]

        if threads == 1:
            yield from map(tile, grid.coords)
        else:
            with ThreadPoolExecutor(threads) as pool:
                yield from pool.map(tile, grid.coords)

    return [
        Contender("openslide, tile by tile", one_by_one),
        Contender("openslide, in blocks", in_blocks(path, "openslide")),
        Contender("tiffslide, in blocks", in_blocks(path, "tiffslide")),
        Contender("fast, exact", in_blocks(path, "fast", exact=True)),
        Contender("fast", in_blocks(path, "fast")),
    ]


def in_blocks(path: Path, reader: str, *, exact: bool = False) -> Way:
    slide = open_slide(path, reader=reader)

    def read(grid: TileGrid, threads: int) -> Iterator[Tiles]:
        asked = replace(grid, spec=replace(grid.spec, exact=exact))
        yield from (batch.pixels for batch in read_tiles(slide, asked, threads=threads))

    return read


def tissue_grids(path: Path, mpp: float, tiles: int, rounds: int) -> list[TileGrid]:
    """For each round as many tiles with tissue, whole rows of the lattice where they lie together."""
    with open_slide(path) as slide:
        picture, px = slide.overview(8)
        mask = TissueMask(picture.min(axis=2) < 225, px, (slide.bounds.x, slide.bounds.y))
        grid = TileGrid.over(slide, mask, TileSpec(mpp=mpp, min_tissue=0.6))
    kept = np.flatnonzero(grid.keep)
    step = max(1, (len(kept) - tiles) // max(1, rounds - 1))
    found = []
    for k in range(rounds):
        rows = np.arange(k * step, min(k * step + tiles, len(kept)))
        keep = np.zeros(grid.keep.size, bool)
        keep[kept[rows]] = True
        found.append(replace(grid, keep=keep.reshape(grid.keep.shape), tissue_fraction=grid.tissue_fraction[rows]))
    return found


def race(racing: Sequence[Contender], grids: Sequence[TileGrid], threads: int) -> None:
    for k, grid in enumerate(grids):
        turn = k % len(racing)
        for contender in [*racing[turn:], *racing[:turn]]:
            contender.take_turn(grid, threads)


def _speeds(path: Path, given: argparse.Namespace) -> list[str]:
    lines = []
    for mpp in (0.5, 0.25):
        for threads in (1, 2):
            racing = contenders(path)
            race(racing, tissue_grids(path, mpp, given.tiles, given.rounds), threads)
            lines += _speed_table(racing, mpp, threads)
    return lines


def _speed_table(racing: Sequence[Contender], mpp: float, threads: int) -> list[str]:
    first = statistics.median(racing[0].cpu)
    title = f"\n{mpp:g} um/px, {threads} thread{'s' if threads > 1 else ''}:\n"
    head = ["| way | tiles / CPU-s (range) | times the first | tiles / s |", "|---|---|---|---|"]
    rows = [
        f"| {c.name} | {statistics.median(c.cpu):.0f} ({min(c.cpu):.0f}-{max(c.cpu):.0f}) "
        f"| {statistics.median(c.cpu) / first:.1f} | {statistics.median(c.wall):.0f} |"
        for c in racing
    ]
    sys.stderr.write("\n".join([title, *rows]) + "\n")
    return [title, *head, *rows]


# --- what stains cost ----------------------------------------------------------------------------------------------


def _stains(path: Path, given: argparse.Namespace) -> list[str]:
    (whole,) = tissue_grids(path, 0.25, 1_000_000, 1)
    fit_s, racing = {}, []
    with open_slide(path, reader="fast") as slide:
        for stain in STAINS:
            began = time.process_time()
            normaliser = fitted_normaliser(slide, _stained(whole, stain))
            fit_s[stain] = time.process_time() - began
            racing.append(Contender(stain, _normalised(slide, stain, normaliser)))
        race(racing, tissue_grids(path, 0.25, given.tiles, given.rounds), 1)
    plain, *stained = racing
    lines = [
        f"\nNormalising stains, tiles of {PX} px, 1 thread; what it adds to a tile, and the fit, once a slide:\n",
        "| stain | CPU-ms a tile (range) | fit, CPU-s |",
        "|---|---|---|",
    ]
    for c in stained:
        added = [1000 / own - 1000 / without for own, without in zip(c.cpu, plain.cpu, strict=True)]
        spread = f"{statistics.median(added):.2f} ({min(added):.2f}-{max(added):.2f})"
        lines.append(f"| {c.name} | {spread} | {fit_s[c.name]:.2f} |")
    return lines


def _stained(grid: TileGrid, stain: str) -> TileGrid:
    return replace(grid, spec=replace(grid.spec, stain=stain))


def _normalised(slide: Slide, stain: str, normaliser: StainNormaliser | None) -> Way:
    def read(grid: TileGrid, threads: int) -> Iterator[Tiles]:
        asked = _stained(grid, stain)
        yield from (batch.pixels for batch in read_tiles(slide, asked, threads=threads, normaliser=normaliser))

    return read


# --- how true -----------------------------------------------------------------------------------------------------


def _faithfulness(path: Path, given: argparse.Namespace) -> list[str]:
    (grid,) = tissue_grids(path, 0.5, min(200, given.tiles), 1)
    exact, fast = (np.concatenate(list(in_blocks(path, "fast", exact=e)(grid, 2))) for e in (True, False))
    ways = {"openslide, tile by tile": np.concatenate(list(contenders(path)[0].read(grid, 1))), "fast": fast}
    lines = [
        f"\nAgainst means over all pixels, {len(exact)} tiles at 0.5 um/px; cosines of embeddings, median and worst "
        "(centred: the mean embedding taken off first, median):\n",
        "| way | mean difference, grey levels | demo encoder | random ViT-B/32 |",
        "|---|---|---|---|",
    ]
    encoders = {"demo": _demo(), "random": _random_vit()}
    base = {name: encode(exact) for name, encode in encoders.items()}
    for name, tiles in ways.items():
        cosines = " | ".join(_cosines(encode(tiles), base[which]) for which, encode in encoders.items())
        lines.append(f"| {name} | {np.abs(tiles.astype(int) - exact).mean():.2f} | {cosines} |")
    return lines


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> str:
    plain, centred = _cosine(a, b), _cosine(a - b.mean(axis=0), b - b.mean(axis=0))
    return f"{np.median(plain):.5f}, {plain.min():.5f} ({np.median(centred):.4f})"


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def _demo() -> Callable[[Tiles], NDArray[np.float32]]:
    from features import load_encoder

    encoder = load_encoder("demo")
    return lambda tiles: np.concatenate([encoder.encode_images(part) for part in np.array_split(tiles, 8)])


def _random_vit() -> Callable[[Tiles], NDArray[np.float32]]:
    """ViT-B/32 as PLIP has it, with open_clip's first weights."""
    from features.encoders.openclip import open_clip  # which knows how to import it beside a CPU's PyTorch

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std))

    def encode(tiles: Tiles) -> NDArray[np.float32]:
        found = []
        with torch.inference_mode():
            for part in np.array_split(tiles, 8):
                x = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255
                found.append(model.encode_image((x - mean) / std).numpy())
        return np.concatenate(found)

    return encode


# --- how much memory ----------------------------------------------------------------------------------------------


def _memory(path: Path) -> list[str]:
    command = [sys.executable, __file__, "--stream", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return ["", said.strip()]


def _stream(path: Path) -> None:
    """In a process of its own: streams all tiles of a slide and says what that took."""
    with open_slide(path) as slide:
        size = slide.size
        mask = TissueMask(np.ones((1, 1), bool), max(size), (0, 0))
        grid = TileGrid.over(slide, mask, TileSpec(mpp=0.5, min_tissue=0))
        before = _peak_kib()
        n = sum(len(batch) for batch in read_tiles(slide, grid))
        peak = _peak_kib()
    sys.stdout.write(
        f"All {n:,} tiles of a slide of {size.width:,} x {size.height:,} px, streamed with 2 threads: "
        f"{(peak - before) / 1024:.0f} MiB above the {before / 1024:.0f} MiB of the process.\n"
    )


def _peak_kib() -> int:
    """Of this process alone: `ru_maxrss` would remember the one that started it."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))


def _heading(path: Path) -> list[str]:
    with open_slide(path) as slide:
        about = f"{slide.size.width:,} x {slide.size.height:,} px at {slide.mpp:g} um/px"
    return [
        "# Reading",
        "",
        f"`benchmarks/read.py`. {datetime.date.today()}, {processor()}, 2 shared cores. {about}, "
        f"openslide {openslide.__library_version__}.",
    ]


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="an SVS of JPEG tiles at 0.25 um/px; one is drawn otherwise")
    parser.add_argument("--tiles", type=int, default=500, help="tiles of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for 2 GB of slides, deleted afterwards")
    parser.add_argument("--results", type=Path, help="a Markdown file to write the report to")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
