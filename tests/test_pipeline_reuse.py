"""What is done again and what stands: a result is never shown for another file, scale, setting or prompt."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import FeatureGrid
from pipeline import ledger, lock, stages
from pipeline.config import RunConfig, load_config
from pipeline.console import noted, summary
from pipeline.crops import shown_cells
from pipeline.executor import SerialExecutor
from pipeline.heatmap import PROBABILITY, SIGNED
from pipeline.ledger import Outcome
from pipeline.manifest import SlideEntry, entries_from
from pipeline.output import OutputFolder
from pipeline.pictures import read_image, write_image
from pipeline.plan import plan_slides
from pipeline.record import SlideRecord
from pipeline.reporting import make_report
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.zeroshot import default_prompts
from wsi import Region, open_slide
from wsi.errors import NoSpace, StorageError, UsageError
from wsi.svs import SvsSpec, write_svs

DEMO = ['encoder.name="demo"', "encoder.batch_size=32", "zeroshot.draws=2"]


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for seed, diagnosis in ((31, "benign"), (32, "squamous carcinoma")):
        drawn = draw(recipe(seed, diagnosis, width_um=700.0, height_um=600.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / f"{seed}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


@pytest.fixture
def here(originals: Path, tmp_path: Path) -> Path:
    """A slide folder with one slide, in/s.svs."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "s.svs").write_bytes((originals / "31.svs").read_bytes())
    return tmp_path


def run(here: Path, *settings: str, entries: list[SlideEntry] | None = None, prompts: str = "") -> Outcome:
    config = load_config(settings=[*DEMO, *settings])
    return run_with(here, config, entries or entries_from([here / "in"]), prompts)


def run_with(here: Path, config: RunConfig, entries: list[SlideEntry], prompts: str = "") -> Outcome:
    job = Run(tuple(entries), OutputFolder(here / "out"), config, default_prompts(prompts, config.encoder.name))
    (outcome,) = job.outcomes(SerialExecutor(), Quiet())
    return outcome


def record(here: Path) -> SlideRecord:
    found = SlideRecord.read(OutputFolder(here / "out").slide("s"))
    assert found is not None
    return found


def grid(here: Path) -> FeatureGrid:
    return FeatureGrid.open(here / "out/slides/s/features" / record(here).current)


def rows(here: Path, table: str) -> list[dict[str, str]]:
    with open(here / "out" / table, newline="") as f:
        return list(csv.DictReader(f))


def test_settings_that_go_and_come_back_show_their_own_results(here: Path) -> None:
    run(here)
    first = grid(here)
    assert run(here, "tile.min_tissue=0.95").status == "done" and len(grid(here)) < len(first)
    overlay = (here / "out/slides/s/overlay.png").read_bytes()
    (planned,) = plan_slides(entries_from([here / "in"]), OutputFolder(here / "out"), load_config(settings=DEMO))
    assert (planned.state, planned.reason) == ("cached", "settings changed; its features are there already")
    again = run(here)
    assert "Its features were there already" in again.notes[-1] and "; 0 tiles in" in summary([again], 1.0)
    assert again.status == "done" and again.tiles == len(first) == len(grid(here))  # cheap: nothing was encoded
    assert grid(here).path == first.path and (here / "out/slides/s/overlay.png").read_bytes() != overlay
    zeroshot = json.loads((here / "out/slides/s/zeroshot.json").read_text())
    assert zeroshot["grid"] == record(here).current
    assert [int(r["tiles"]) for r in rows(here, "zeroshot.csv")] == [len(first)]


def test_the_type_of_stored_features_is_a_setting_too(here: Path) -> None:
    run(here)
    assert run(here, 'encoder.dtype="float32"').status == "done"
    assert grid(here).features.dtype == np.float32


def test_a_slide_that_is_away_stands_as_it_was_done(here: Path) -> None:
    """A disk that is not mounted, or a slide that was cleared away: nothing says that it changed."""
    entries = entries_from([here / "in"])
    assert run(here).status == "done"
    (here / "in").rename(here / "away")
    stood = run(here, entries=entries)
    note = f"The slide could not be checked, and stands as it was done: {here}/in/s.svs cannot be read"
    assert stood.status == "reused" and any(told.startswith(note) for told in stood.notes)
    (row,) = rows(here, "slides.csv")
    assert row["status"] == "reused" and row["features"] and note in row["warnings"]
    (planned,) = plan_slides(entries, OutputFolder(here / "out"), load_config(settings=DEMO))
    assert planned.state == "cached" and planned.warnings[0].startswith(note)
    assert [line.startswith(f"note: s.svs: {note}") for line in noted([stood])] == [True]
    assert run(here, "tile.min_tissue=0.95", entries=entries).code == "slide_missing"  # other settings need its pixels
    moved = [replace(entries[0], path=here / "elsewhere/s.svs")]
    assert run(here, entries=moved).code == "slide_missing"  # of another place nobody knows that it is the same slide
    (here / "away").rename(here / "in")
    assert (run(here).status, run(here).notes) == ("reused", ())


def test_a_larger_thumbnail_is_drawn_without_encoding(here: Path) -> None:
    assert run(here).status == "done"
    before = grid(here).records
    assert run(here, "pictures.thumbnail_px=300").status == "done"
    assert max(read_image(here / "out/slides/s/thumbnail.jpg").shape) == 300 and grid(here).records == before


def test_a_grid_that_is_not_the_recorded_one_does_not_stand(here: Path) -> None:
    assert run(here).status == "done"
    kept = record(here)
    files = tuple({**f, "sha256": "0" * 64} for f in kept.grid.files)
    replace(kept, grids={kept.current: replace(kept.grid, files=files)}).write(OutputFolder(here / "out").slide("s"))
    assert run(here).status == "done"


def test_overlapping_tiles_do_not_count_tissue_twice(here: Path) -> None:
    run(here)
    apart = record(here).grid.tissue_mm2
    run(here, "tile.stride_px=112")
    assert record(here).grid.tissue_mm2 == pytest.approx(apart, rel=0.15)


def test_a_refused_replacement_leaves_no_features_for_the_slide_it_replaced(here: Path, originals: Path) -> None:
    run(here)
    expected = np.asarray(grid(here).features)
    slide = here / "in" / "s.svs"
    slide.write_bytes((originals / "32.svs").read_bytes())
    config = load_config(settings=DEMO)
    strict = run_with(here, config, entries_from([here / "in"]))
    assert strict.status == "done"
    # the other slide's grid lies there, but its record is lost before it is written
    (here / "out/slides/s/slide.json").unlink()
    slide.write_bytes((originals / "31.svs").read_bytes())
    assert run(here).status == "done"
    assert np.array_equal(np.asarray(grid(here).features), expected)


def test_tile_pictures_are_of_the_slide_that_is_there(here: Path, originals: Path) -> None:
    run(here)
    before = {p.name: p.read_bytes() for p in (here / "out/slides/s/tiles").glob("*.jpg")}
    (here / "in/s.svs").write_bytes((originals / "32.svs").read_bytes())
    run(here)
    shown = shown_cells(OutputFolder(here / "out").slide("s").zeroshot())
    new = {p.name for p in (here / "out/slides/s/tiles").glob("*.jpg")} - set(before)
    assert len(new) == len(shown) > 0


def test_scores_of_another_encoder_or_of_a_refused_slide_are_not_shown(here: Path) -> None:
    run(here)
    assert [r["id"] for r in rows(here, "zeroshot.csv")] == ["s"]
    run(here, 'encoder.name="colour"', prompts="none")
    assert rows(here, "zeroshot.csv") == []
    make_report(OutputFolder(here / "out"))
    assert "p(tumour)" not in (here / "out/report.html").read_text()
    run(here)
    (here / "in/s.svs").write_bytes(b"")
    assert run(here).status == "refused" and rows(here, "zeroshot.csv") == []


def test_a_scale_given_for_this_slide_is_not_one_for_slides_without(here: Path) -> None:
    entry = entries_from([here / "in"])[0]
    from dataclasses import replace

    assert run(here, entries=[replace(entry, mpp=0.45)]).status == "done" and record(here).facts.mpp == 0.45
    assert run(here, entries=[replace(entry, mpp_if_missing=0.45)]).status == "done" and record(here).facts.mpp == 0.5
    assert run(here).status == "reused"


def test_a_resolution_that_was_assumed_is_told_of_each_slide(here: Path) -> None:
    with open_slide(here / "in/s.svs") as slide:
        write_image(here / "bare/s.png", slide.read(Region(0, 0, 1000, 900)))
    entries = entries_from([here / "bare"], mpp=0.5)
    note = "It has no resolution of its own: 0.5 um/px from --mpp."
    (planned,) = plan_slides(entries, OutputFolder(here / "out"), load_config(settings=DEMO))
    first, second = run(here, entries=entries), run(here, entries=entries)
    assert (first.status, second.status) == ("done", "reused")
    assert all(note in notes for notes in (planned.warnings, first.notes, second.notes))
    assert note in rows(here, "slides.csv")[0]["warnings"]
    assert f"note: s.png: {note}" in noted([first])
    assert run(here).notes == ()  # the same slide with a resolution


def test_a_moved_folder_and_new_labels_cost_nothing(here: Path) -> None:
    run(here)
    (here / "in").rename(here / "elsewhere")
    (here / "m.csv").write_text("slide,id,patient,status\nelsewhere/s.svs,s,P7,deceased\n")
    outcome = run(here, entries=entries_from([here / "m.csv"]), prompts="nsclc")
    assert outcome.status == "reused"
    assert record(here).facts.path == str(here / "elsewhere" / "s.svs")
    (row,) = rows(here, "slides.csv")
    assert (row["patient"], row["status"], row["label_status"]) == ("P7", "reused", "deceased")


def test_a_lost_picture_is_drawn_again_without_encoding(here: Path) -> None:
    run(here)
    before = grid(here).path.stat().st_mtime_ns
    (here / "out/slides/s/thumbnail.jpg").unlink()
    assert run(here).status == "done" and (here / "out/slides/s/thumbnail.jpg").exists()
    assert grid(here).path.stat().st_mtime_ns == before


def test_a_damaged_chunk_is_noticed_and_made_again(here: Path) -> None:
    run(here)
    chunk = grid(here).path / "features" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    expected, data[100] = bytes(data), data[100] ^ 1
    chunk.write_bytes(bytes(data))
    assert run(here).status == "done" and chunk.read_bytes() == expected


def test_a_name_that_is_no_text_is_one_slide_like_any_other(here: Path) -> None:
    name = os.fsencode(here / "in") + b"/caf\xe9.svs"
    (here / "in" / "s.svs").rename(os.fsdecode(name))
    (entry,) = entries_from([here / "in"])
    done = run(here, entries=[entry])
    assert (entry.name, done.status) == ("caf\\xe9.svs", "done"), done.detail
    os.truncate(name, 1000)
    assert run(here, entries=[entry]).status == "refused"
    make_report(OutputFolder(here / "out"))
    assert ledger.last_outcomes(here / "out/ledger.jsonl")[entry.id].status == "refused"


def test_a_second_run_in_the_same_folder_is_refused(here: Path) -> None:
    folder = OutputFolder(here / "out")
    folder.prepare()
    with folder.alone(), pytest.raises(StorageError, match="another run is working"):
        run(here)
    assert run(here).status == "done"


def test_runs_share_a_folder_if_all_that_a_result_depends_on_is_the_same(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PAUSE_S", 0)
    config = load_config(settings=DEMO)
    spec = stages.encoder_for(config).spec
    prompts = default_prompts("", "demo")
    at_work = Run((), OutputFolder(here / "out"), config, prompts, spec)
    OutputFolder(here / "out").prepare()
    with OutputFolder(here / "out").shared(at_work.settings()):
        for other in ("tile.min_tissue=0.9", "zeroshot.seed=1", 'encoder.dtype="float32"', "reader.max_unreadable=0.5"):
            with pytest.raises(UsageError, match=f"with other settings.*{other.split('=')[0]}: "):
                run(here, other)
        with pytest.raises(UsageError, match="prompts: "):
            run(here, prompts="none")
        gpu = Run((), OutputFolder(here / "out"), config, prompts, replace(spec, precision="bfloat16"))
        with pytest.raises(UsageError, match="loaded encoder.precision: float32 there, bfloat16 here"):
            gpu.outcomes(SerialExecutor(), Quiet())
        assert run(here, 'device="cpu"', "reader.threads=1", "reader.timeout_s=100", "encoder.batch_size=64").good


def test_a_torn_line_costs_only_itself(here: Path) -> None:
    run(here)
    with open(here / "out/ledger.jsonl", "a") as f:
        f.write('{"event": "slide", "slide_id": "t", "sta')
    assert run(here).status == "reused"
    assert ledger.last_outcomes(here / "out/ledger.jsonl")["s"].status == "reused"


def test_a_full_disk_ends_the_run_and_the_next_one_completes_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise NoSpace("the disk is full.", hint="Free some space.")

    with monkeypatch.context() as patched:
        patched.setattr(stages, "write_overview", full)
        with pytest.raises(NoSpace):
            run(here)
    assert ledger.last_outcomes(here / "out/ledger.jsonl")["s"].status == "stopped"
    assert run(here).status == "done"


def test_an_attention_map_of_other_tiles_is_left_out_of_the_report(here: Path) -> None:
    from heads import Bag, train_head
    from pipeline.headmaps import head_maps
    from pipeline.pictures import drawn_maps, write_heatmap

    run(here)
    folder = OutputFolder(here / "out").slide("s")
    bags = [Bag.from_grid(grid(here))] * 2
    head = train_head(bags, ["a", "b"], epochs=1)
    maps = head_maps(grid(here), record(here), head, "mine")
    for drawn in maps:
        write_heatmap(folder, record(here), grid(here).grid, drawn)
    found = list(drawn_maps(folder, record(here)))
    assert [m.source for m in found] == ["head mine", "head mine", "prompts demo"]
    assert [m.style for m in found] == [maps[0].style, maps[1].style, PROBABILITY]  # as drawn, so shown in the report
    assert maps[1].style == SIGNED
    run(here, "tile.min_tissue=0.95")
    assert [m.source for m in drawn_maps(folder, record(here))] == ["prompts demo"]
    make_report(OutputFolder(here / "out"))
    assert "Not all of this slide can be shown" not in (here / "out/report.html").read_text()
