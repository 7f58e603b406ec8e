"""Damaged results against `wsi verify`: random flips, cuts and losses in the files of a finished run.

    python benchmarks/damage.py [--count 3000] [--seed 0] [--results benchmarks/results/damage.md]

Draws two slides, runs them with the demo encoder under two settings and back, and damages one file at a time, each
file as often as any other: one bit flipped, cut at a random length, emptied, removed. Whether it is found is asked of
the slide it belongs to, or of the folder itself. What is not found is listed; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# ruff: noqa: E402
# This folder holds files named as packages are; ways to damage files are the tests'.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from damage import artefacts, empty, flip, found_in, found_near, restored

from benchmarks.machine import processor
from pipeline.config import load_config
from pipeline.executor import SerialExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.reporting import make_report
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.zeroshot import default_prompts
from wsi.svs import SvsSpec, write_svs

DEMO = ['encoder.name="demo"', "encoder.batch_size=32", "zeroshot.draws=2"]
WAYS = ("flip", "cut", "empty", "remove")
SHARES = (0.55, 0.25, 0.1, 0.1)


class Quiet:
    """A watcher that says nothing."""

    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


def finished_run(folder: Path) -> Path:
    """The output of runs over two drawn slides."""
    (folder / "slides").mkdir()
    for seed, name in ((31, "a"), (32, "b")):
        drawn = draw(recipe(seed, "benign", width_um=500.0, height_um=400.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / "slides" / f"{name}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    entries = tuple(entries_from([folder / "slides"]))
    for settings in ([], ["tile.min_tissue=0.9"], []):
        config = load_config(settings=[*DEMO, *settings])
        job = Run(entries, OutputFolder(folder / "out"), config, default_prompts("", "demo"))
        job.outcomes(SerialExecutor(), Quiet())
    make_report(OutputFolder(folder / "out"))
    return folder / "out"


def damage(path: Path, way: str, rng: np.random.Generator) -> str:
    """Damages a file, and says where."""
    size = path.stat().st_size
    if way == "flip":
        bit = int(rng.integers(size * 8))
        flip(path, bit)
        return f"bit {bit}"
    if way == "cut":
        length = int(rng.integers(1, size)) if size > 1 else 0
        os.truncate(path, length)
        return f"to {length} of {size}"
    if way == "empty":
        empty(path)
    else:
        path.unlink()
    return ""


def kind(path: Path, out: Path) -> str:
    """What sort of file it is, for the table."""
    name = path.relative_to(out).as_posix()
    if ".zarr/" in name:
        return re.sub(r"^(\w+/)?", "", "chunks" if "/c/" in name else "metadata of grids")
    if name.startswith("slides/"):
        name = name.split("/", 2)[2]
        return re.sub(r"(heatmaps|tiles)/.*(\.\w+)$", r"\1/*\2", name)
    return name


def table(counts: dict[tuple[str, str], list[int]]) -> str:
    """Found of damaged, by sort of file and way."""
    kinds = sorted({k for k, _ in counts})
    rows = [("file", *WAYS), ("---",) * 5]
    rows += [(k, *(f"{counts[k, w][0]} of {counts[k, w][1]}" for w in WAYS)) for k in kinds]
    whole = [[sum(counts[k, w][i] for k in kinds) for i in (0, 1)] for w in WAYS]
    rows.append(("**all**", *(f"{found} of {done}" for found, done in whole)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@dataclass
class Tally:
    """What became of the damages."""

    files: int
    counts: dict[tuple[str, str], list[int]]  # by kind of file and way: found, done
    codes: Counter[str]
    missed: list[str]
    seconds: float


def campaign(work: Path, count: int, seed: int) -> Tally:
    """Damages the files of a finished run one at a time, and puts each back."""
    rng, started = np.random.default_rng(seed), time.monotonic()
    out = finished_run(work)
    assert found_in(out) == [], "a sound folder"
    files = artefacts(out)
    tally = Tally(len(files), defaultdict(lambda: [0, 0]), Counter(), [], 0.0)
    for number in range(count):
        path = files[number % len(files)]
        way = str(rng.choice(WAYS, p=SHARES))
        with restored(path):
            where = damage(path, way, rng)
            found = found_near(out, path)
        cell = tally.counts[kind(path, out), way]
        cell[0], cell[1] = cell[0] + bool(found), cell[1] + 1
        tally.codes.update({f.code for f in found})
        if not found:
            tally.missed.append(f"{path.relative_to(out)}: {way} {where}".strip())
    assert found_in(out) == [], "all restored"
    tally.seconds = time.monotonic() - started
    return tally


def report(tally: Tally, count: int) -> str:
    told = ", ".join(f"{n} {code}" for code, n in tally.codes.most_common())
    return f"""# Damaged results

`benchmarks/damage.py`. {datetime.date.today()}, {processor()}, {os.cpu_count()} shared cores, {tally.seconds:.0f} s.
{count:,} times one of {tally.files} files of a finished run was damaged; each file as often as any other.

- found: {count - len(tally.missed):,} of {count:,}
- not found: {"; ".join(tally.missed) or "none"}
- found in the sound folder, before and after: nothing

{table(tally.counts)}

Codes: {told}.

Left out are `report.html`, which is made from all else and is only looked at for its end, and `.lock`, which is empty.
`tissue.geojson` is there to be edited: where it is still GeoJSON, a change is told (`tissue_edited`), and is no damage.
A picture of a tile that is gone is told too (`crop_missing`), since `wsi zeroshot` leaves some to `wsi report`.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged results against `wsi verify`.")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tally = campaign(Path(work), options.count, options.seed)
    text = report(tally, options.count)
    print(text)
    if options.results:
        options.results.write_text(text, encoding="utf-8")
    return bool(tally.missed)


if __name__ == "__main__":
    sys.exit(main())
