"""Whole runs through the command line: real processes, real files, real kills."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli import digests, wsi

from features import FeatureGrid
from pipeline import ledger
from pipeline.synthetic import draw, recipe
from wsi.svs import SvsSpec, write_svs

COLOUR = ["--encoder", "colour", "--set", "encoder.batch_size=32"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn slides: about 40 and 100 tiles."""
    folder = tmp_path_factory.mktemp("slides")
    for seed, diagnosis, width in ((11, "benign", 900.0), (12, "adenocarcinoma", 1500.0)):
        drawn = draw(recipe(seed, diagnosis, width_um=width, height_um=1200.0, mpp=0.5, pieces=1))
        write_svs(folder / f"s{seed}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


@pytest.fixture(scope="module")
def finished(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed serial run over them."""
    out = tmp_path_factory.mktemp("finished")
    done = wsi("run", slides, "-o", out, *COLOUR)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def names(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.match("features/*.zarr/**"))


def statuses(out: Path) -> dict[str, str]:
    return {slide_id: o.status for slide_id, o in ledger.last_outcomes(out / "ledger.jsonl").items()}


def test_a_run_leaves_what_was_promised(finished: Path, slides: Path) -> None:
    assert statuses(finished) == {"s11": "done", "s12": "done"}
    for name in ("run.toml", "slides.csv", "report.html", "ledger.jsonl"):
        assert (finished / name).stat().st_size > 0
    for slide in ("s11", "s12"):
        folder = finished / "slides" / slide
        for name in ("slide.json", "thumbnail.jpg", "overlay.png", "tissue.geojson"):
            assert (folder / name).stat().st_size > 0
        record = json.loads((folder / "slide.json").read_text())
        grid = FeatureGrid.open(folder / "features" / record["current"])
        assert grid.verify() == [] and len(grid) == record["grids"][record["current"]]["tiles"] > 20
        listed = {f["path"]: f["sha256"] for f in record["grids"][record["current"]]["files"]}
        on_disk = {k.split(".zarr/")[1]: v for k, v in digests(finished).items() if f"/{slide}/" in k}
        assert listed.items() <= on_disk.items() and any(p.startswith("features/c/") for p in listed)
    with open(finished / "slides.csv", newline="") as f:
        rows = {row["id"]: row for row in csv.DictReader(f)}
    assert rows["s12"]["mpp"] == "0.5" and rows["s12"]["vendor"] == "aperio" and int(rows["s12"]["tiles"]) > 20


def test_the_same_command_again_does_nothing_twice(finished: Path, slides: Path) -> None:
    before = digests(finished)
    done = wsi("run", slides, "-o", finished, *COLOUR)
    assert done.returncode == 0 and statuses(finished) == {"s11": "reused", "s12": "reused"}
    assert digests(finished) == before


def test_worker_processes_give_the_same_bytes(finished: Path, slides: Path, tmp_path: Path) -> None:
    done = wsi("run", slides, "-o", tmp_path / "out", *COLOUR, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(tmp_path / "out") == digests(finished)


def test_killed_at_any_moment_it_ends_with_the_same_bytes(finished: Path, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "run", str(slides), "-o", str(out), *COLOUR]
    kills = 0
    for milestone in ("run.toml", "slides/s11/features", "slides/s11/slide.json", "slides/s12/features"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / milestone).exists():
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        for grid in out.glob("slides/*/features/*.zarr"):
            assert FeatureGrid.open(grid).verify() == []  # what is there is whole
    assert kills >= 3
    assert wsi("run", slides, "-o", out, *COLOUR).returncode == 0
    assert digests(out) == digests(finished)
    assert not list(out.glob("slides/*/features/.*"))  # no leftovers


def test_killed_inside_a_slide_it_goes_on_from_there(slides: Path, tmp_path: Path) -> None:
    """Tiles of 32 px: thousands of them, so that rows are on disk before the slide is done."""
    fine = [slides / "s12.svs", *COLOUR, "--set", "tile.size_px=32", "--set", "tissue.min_piece_um2=10000"]
    assert wsi("run", *fine, "-o", tmp_path / "whole").returncode == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "run", *map(str, fine), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("slides/s12/features/.*.partial/rows/*.rows")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (piece,) = list(out.glob("slides/s12/features/.*.partial/rows/000000.rows"))
    written = piece.stat().st_mtime_ns
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    looks = 0
    while process.poll() is None:
        for kept in out.glob("slides/s12/features/.*.partial/rows/000000.rows"):
            with contextlib.suppress(FileNotFoundError):  # renamed, or done
                assert kept.stat().st_mtime_ns == written  # kept, not made again
                looks += kept.parent.parent != piece.parent.parent  # by the new owner
        time.sleep(0.02)
    assert process.wait() == 0 and looks
    assert digests(out) == digests(tmp_path / "whole") and len(digests(out)) > 0


def test_two_runs_on_one_folder_share_the_work(finished: Path, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "run", str(slides), "-o", str(out), *COLOUR]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert digests(out) == digests(finished)
    ended = [(e["slide_id"], e["status"]) for e in ledger.events(out / "ledger.jsonl") if e["event"] == "slide"]
    assert sorted(ended) == [("s11", "done"), ("s11", "reused"), ("s12", "done"), ("s12", "reused")]
    with open(out / "slides.csv", newline="") as f:
        assert {row["id"]: int(row["tiles"]) > 20 for row in csv.DictReader(f)} == {"s11": True, "s12": True}
    assert names(out) == names(finished)


def test_a_run_takes_over_from_one_that_was_killed_beside_it(finished: Path, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "run", str(slides), "-o", str(out), *COLOUR]
    dead = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while dead.poll() is None and not (out / "slides/s11/features").exists():
        time.sleep(0.002)
    dead.send_signal(signal.SIGSTOP)
    other = subprocess.Popen([*command, "--encoder", "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    heir = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    refused = other.communicate()[0].decode()
    assert other.returncode == 2 and "a run with other settings is working in this folder" in refused
    assert heir.stdout is not None
    said = next(line for line in heir.stdout if "being done by another run" in line)
    dead.kill()
    dead.wait()
    said += heir.communicate()[0]
    assert heir.returncode == 0 and statuses(out) == {"s11": "done", "s12": "done"}, said
    assert digests(out) == digests(finished) and names(out) == names(finished)


def test_a_changed_slide_or_setting_is_done_again(slides: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.svs").write_bytes((slides / "s11.svs").read_bytes())
    assert wsi("run", folder, "-o", out, *COLOUR).returncode == 0
    first = digests(out)
    (folder / "a.svs").write_bytes((slides / "s12.svs").read_bytes())
    assert wsi("run", folder, "-o", out, *COLOUR).returncode == 0
    assert statuses(out) == {"a": "done"} and digests(out) != first
    assert wsi("run", folder, "-o", out, *COLOUR, "--set", "tile.min_tissue=0.9").returncode == 0
    assert statuses(out) == {"a": "done"} and len(list(out.glob("slides/a/features/*.zarr"))) == 2


def test_one_bad_slide_never_stops_a_batch(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("calm-1", "abort-2", "tile-3", "sleep-4", "patchy-5", "bug-6", "calm-7"):
        (folder / f"{name}.svs").write_bytes(b"any")
    own = [
        "--set",
        'reader.name="evil_readers:chosen_by_name"',
        "--slide-timeout",
        "4",
        "--set",
        "reader.max_unreadable=0.05",
    ]
    done = wsi("run", folder, "-o", out, *COLOUR, *own)
    assert done.returncode == 1, done.stdout + done.stderr  # one of them is a bug of ours
    ended = ledger.last_outcomes(out / "ledger.jsonl")
    assert {k: (o.status, o.code) for k, o in ended.items()} == {
        "calm-1": ("done", ""),
        "abort-2": ("refused", "reader_crashed"),
        "tile-3": ("refused", "reader_crashed"),
        "sleep-4": ("refused", "reader_timeout"),
        "patchy-5": ("done", ""),
        "bug-6": ("crashed", "bug"),
        "calm-7": ("done", ""),
    }
    assert "ZeroDivisionError: ours" in ended["bug-6"].detail
    assert ended["patchy-5"].unreadable == 1
    page = (out / "report.html").read_text()
    assert "reader_timeout" in page and "SIGABRT" in page


def test_a_share_of_unreadable_tiles_refuses_a_slide(tmp_path: Path) -> None:
    (tmp_path / "patchy-1.svs").write_bytes(b"any")
    own = ["--set", 'reader.name="evil_readers:chosen_by_name"', "--set", "reader.max_unreadable=0"]
    done = wsi("run", tmp_path / "patchy-1.svs", "-o", tmp_path / "out", *COLOUR, *own)
    assert done.returncode == 4 and "slide_unreadable" in done.stdout


def test_a_slide_that_is_lost_is_not_encoded_to_its_end(tmp_path: Path) -> None:
    """The broken corner is in the first batch of many: the verdict falls there, and the rest costs nothing."""
    (tmp_path / "patchy-1.svs").write_bytes(b"any")
    own = ["--set", 'reader.name="evil_readers:chosen_by_name"', "--set", "reader.max_unreadable=0"]
    fine = ["--set", "tile.size_px=32", "--set", "tissue.min_piece_um2=10000"]
    done = wsi("run", tmp_path / "patchy-1.svs", "-o", tmp_path / "out", *COLOUR, *own, *fine)
    assert done.returncode == 4 and "slide_unreadable" in done.stdout
    assert not list((tmp_path / "out").glob("slides/*/features/.*/rows/*.rows"))  # not one piece of 1,024 rows


def test_an_empty_slide_is_a_result(tmp_path: Path) -> None:
    import numpy as np

    write_svs(tmp_path / "blank.svs", np.full((1200, 1600, 3), 243, np.uint8), SvsSpec(mpp=0.5))
    done = wsi("run", tmp_path / "blank.svs", "-o", tmp_path / "out", *COLOUR)
    assert done.returncode == 0 and statuses(tmp_path / "out") == {"blank": "no tissue"}
    (grid,) = (tmp_path / "out").glob("slides/blank/features/*.zarr")
    assert len(FeatureGrid.open(grid)) == 0


def test_an_interrupt_ends_with_130_and_can_be_continued(finished: Path, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "run", str(slides), "-o", str(out), *COLOUR]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not (out / "slides/s11/features").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130 and "same command continues" in said
    assert wsi("run", slides, "-o", out, *COLOUR).returncode == 0
    assert digests(out) == digests(finished)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["run", "nowhere", "-o", "out"], 2, "no such file"),
        (["run", "-o", "out"], 2, "no slides"),
        (["run", ".", "-o", "."], 2, "folder of the slides"),
        (["run", ".", "-o", "out", "--encoder", "plipp"], 2, "plip"),
        (["run", ".", "-o", "out", "--set", "tile.mmp=1"], 2, "Did you mean tile.mpp"),
        (["run", ".", "-o", "out", "--encoder", "demo", "--prompts", "one.toml"], 2, "one.toml"),
        (["zeroshot", "nowhere", "--prompts", "kather"], 2, "no run"),
        (["run", ".", "-o", "out", "--workers", "2", "--scheduler", "tcp://x"], 2, "exclude"),
        (["run", ".", "-o", "s.svs/out", "--encoder", "colour"], 5, "a file lies where its folder"),
        (["run", ".", "-o", "out", "--weights", "not-there"], 5, "no weight file"),
    ],
)
def test_mistakes_are_sentences_with_their_exit_code(tmp_path: Path, words: list[str], code: int, told: str) -> None:
    (tmp_path / "s.svs").write_bytes(b"any")
    (tmp_path / "one.toml").write_text('templates = ["{}"]\n[[classes]]\nname = "alone"\n')
    done = wsi(*words, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert told in " ".join((done.stdout + done.stderr).split()) and "Traceback" not in done.stderr
