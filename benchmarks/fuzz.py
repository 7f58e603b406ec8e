"""Damaged slides against the reader: what becomes of thousands of mutants of sound slides.

    python benchmarks/fuzz.py [--count 10000] [--first 0] [--log FILE] [--results benchmarks/results/fuzz.md]
    python benchmarks/fuzz.py --again svs.svs 4711 [--keep FILE]

Each mutant is opened as `wsi info` opens it; then its thumbnail, its tissue and its tiles are read as a run reads them.
All in the supervised reader process, one for thousands of mutants, replaced only when a mutant kills it. A mutant is
its seed, the sound slide that was damaged, and its number: `--again` makes it once more. `--log` keeps a line for each
and goes on where it was cut off; the logs of several runs, put together, are one.

What may never happen, and ends with exit code 1: this process dies; a mutant takes its reader more than 30 s of the
processor, 120 s by the clock, or 2 GiB; an error that is not the slide's own, or no sentence; a file left behind. Sound
slides are drawn, and real ones where they are present (tests/fuzzing.py); tests/mutants.py has the kinds of damage.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# ruff: noqa: E402
# This folder holds files named as packages are; mutants and sound slides are the tests'.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

from fuzzing import DEADLINE_S, Laboratory, Seed, Trial, drawn_seeds, real_seeds

from benchmarks.machine import processor

REAL = ROOT.parent / "shared" / "data"
MOST_SECONDS, MOST_MIB = 30.0, 2048
OFTEN, SOMETIMES = 5, 2  # turns of a drawn slide; of a small real one and of JPEG 2000; of a large real one, one
LARGE_BYTES = 1_200_000
FLAT = 0.5  # share of a good tile in one colour, beyond that of any tile of the sound slide, from which it is told


def turns(drawn: list[Seed], real: list[Seed]) -> list[str]:
    """Names of seeds, one for each trial, over and over."""
    often = {s.name: SOMETIMES if "j2k" in s.name else OFTEN for s in drawn}
    often |= {s.name: SOMETIMES if sum(map(len, s.files.values())) < LARGE_BYTES else 1 for s in real}
    return [name for turn in range(OFTEN) for name, times in often.items() if turn < times]


def is_slow(trial: Trial) -> bool:
    return trial.cpu_seconds > MOST_SECONDS or trial.outcome == "reader_timeout"


def broken(trial: Trial) -> Iterator[str]:
    """What about a trial may never be."""
    if trial.outcome.startswith("bug"):
        yield trial.outcome
    if is_slow(trial):
        yield f"took {trial.cpu_seconds:.1f} s"
    if trial.peak_mib > MOST_MIB:
        yield f"took {trial.peak_mib} MiB"
    if trial.strays:
        yield f"left {', '.join(trial.strays)}"


def campaign(laboratory: Laboratory, names: list[str], options: argparse.Namespace) -> list[Trial]:
    """All trials; those in the log are taken from there."""
    done = _logged(options.log)
    with open(options.log or os.devnull, "a", encoding="utf-8") as log:
        for number in range(options.first, options.first + options.count):
            if number not in done:
                trial = done[number] = laboratory.trial(names[number % len(names)], number)
                log.write(json.dumps(dataclasses.asdict(trial)) + "\n")
                log.flush()
                for fault in broken(trial):
                    print(f"{trial.seed} {number}: {fault}. {trial.told}", flush=True)
            if number % 500 == 499:
                print(f"{number + 1} trials", flush=True)
    return [done[number] for number in range(options.first, options.first + options.count)]


def _logged(log: Path | None) -> dict[int, Trial]:
    if log is None or not log.exists():
        return {}
    rows = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return {row["number"]: Trial(**{**row, "strays": tuple(row["strays"])}) for row in rows}


def table(trials: list[Trial]) -> str:
    """Outcomes in rows, what read the mutants in columns."""
    readers = ("auto", "fast", "openslide", "tiffslide")
    counts = collections.Counter((trial.outcome, trial.reader) for trial in trials)
    totals = collections.Counter({"reader_crashed": 0, "reader_timeout": 0, "reader_memory": 0})
    totals.update(trial.outcome for trial in trials)
    rows = [("outcome", *readers, "all"), ("---",) * 6]
    rows += [(told, *(str(counts[told, r]) for r in readers), str(n)) for told, n in totals.most_common()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summary(trials: list[Trial], seeds: list[Seed]) -> str:
    """The page of results."""
    faults = collections.Counter(fault.split()[0] for trial in trials for fault in broken(trial))
    seconds = sorted(trial.cpu_seconds for trial in trials)
    half, nearly_all = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
    slow, slowest = sum(map(is_slow, trials)), f"the slowest {seconds[-1]:.1f}"
    most = max(trial.peak_mib for trial in trials)
    flat = ", ".join(f"`{t.seed} {t.number}` ({t.reader})" for t in trials if t.flat > FLAT) or "none"
    return f"""# Damaged slides

`benchmarks/fuzz.py`. {datetime.date.today()}, {processor()}, {os.cpu_count()} shared cores.
{len(trials):,} mutants of {len(seeds)} sound slides, numbers {trials[0].number} to {trials[-1].number}.

- deaths of the main process: 0
- readers over {MOST_SECONDS:.0f} CPU-s, or {DEADLINE_S:.0f} s by the clock: {slow}; {slowest} CPU-s
- readers over {MOST_MIB} MiB: {sum(trial.peak_mib > MOST_MIB for trial in trials)}; the largest {most} MiB
- errors that are not the slide's own, or no sentence: {faults["bug:"]}
- files left behind: {faults["left"]}

Half of the trials took at most {max(half, 0.01):.2f} CPU-s, 99 % at most {nearly_all:.1f}.

{table(trials)}

"changed" are pixels that decode and are others, which nothing but a checksum can tell: most are of BMP and other files
that are not compressed. In these a tile that passed for good is in one colour by half more than any tile of the sound
slide: {flat}.
"""


def again(laboratory: Laboratory, name: str, number: int, keep: Path | None) -> int:
    """One trial once more, told in full."""
    trial = laboratory.trial(name, number)
    for field, value in dataclasses.asdict(trial).items():
        print(f"{field:8} {value}")
    if keep is not None:
        keep.write_bytes(laboratory.seeds[name].mutant(number)[1])
    return any(broken(trial))


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged slides against the reader.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--log", type=Path, help="a line of JSON a trial; those in it are not done again")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--again", nargs=2, metavar=("SEED", "NUMBER"))
    parser.add_argument("--keep", type=Path, help="where --again writes the damaged file")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    os.environ["PYTHONPATH"] = str(ROOT)  # the reader process is that of this checkout
    os.environ["TMPDIR"] = str(work / "laboratory")  # what is left behind there is seen
    try:
        (work / "drawn").mkdir()
        drawn, real = drawn_seeds(work / "drawn"), real_seeds(REAL)
        with Laboratory(work / "laboratory", drawn + real) as laboratory:
            if options.again:
                return again(laboratory, options.again[0], int(options.again[1]), options.keep)
            trials = campaign(laboratory, turns(drawn, real), options)
    finally:
        shutil.rmtree(work)
    text = summary(trials, drawn + real)
    print(text)
    if options.results:
        options.results.write_text(text, encoding="utf-8")
    return any(fault for trial in trials for fault in broken(trial))


if __name__ == "__main__":
    sys.exit(main())
