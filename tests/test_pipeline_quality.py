"""Quality flags through a run: stored, counted, dropped when bags are made, and remembered by a head."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from features import FeatureGrid
from heads import Bag, train_head
from pipeline import stages
from pipeline.cli import app
from pipeline.config import dump_toml, load_config
from pipeline.executor import SerialExecutor
from pipeline.headfolder import dropped_by
from pipeline.headmaps import head_maps
from pipeline.inforce import InForce
from pipeline.ledger import Outcome
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.pictures import read_values
from pipeline.record import SlideRecord
from pipeline.reporting import make_report
from pipeline.rescore import rescore
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.training import features_of_run
from pipeline.zeroshot import default_prompts
from tiling import TileGrid, TileSpec, detect_tissue, read_tiles
from tiling.quality import BLUR, PEN, flag_counts, tile_flags
from wsi import open_slide
from wsi.errors import ConfigError, UsageError
from wsi.svs import SvsSpec, write_svs

DEMO = ['encoder.name="demo"', "encoder.batch_size=32", "zeroshot.draws=2", "tile.quality=true"]


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


def run(folder: Path, *settings: str) -> list[Outcome]:
    config = load_config(settings=[*DEMO, *settings])
    entries = tuple(entries_from([folder / "in"]))
    job = Run(entries, OutputFolder(folder / "out"), config, default_prompts("", "demo"))
    return sorted(job.outcomes(SerialExecutor(), Quiet()), key=lambda outcome: outcome.slide_id)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """half.svs: sharp above, out of focus below, with a stroke of ink. all.svs: out of focus all over."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "in").mkdir()
    pixels = draw(recipe(31, "squamous carcinoma", width_um=900.0, height_um=700.0, pieces=1, pen=None)).pixels
    soft = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 4))
    half = pixels.copy()
    half[len(half) // 2 :] = soft[len(half) // 2 :]
    half[:, 970:1040] = (half[:, 970:1040] * np.array((0.13, 0.24, 0.62))).astype(np.uint8)
    for name, image in (("half", half), ("all", soft)):
        write_svs(folder / "in" / f"{name}.svs", image, SvsSpec(mpp=0.5))
    assert [outcome.status for outcome in run(folder)] == ["done", "done"]
    return folder


def folder_of(here: Path, slide: str = "half") -> tuple[OutputFolder, SlideRecord, FeatureGrid]:
    out = OutputFolder(here / "out")
    record = SlideRecord.read(out.slide(slide))
    assert record is not None
    return out, record, FeatureGrid.open(out.slide(slide).features / record.current)


def scores(here: Path, slide: str = "half") -> dict:
    return json.loads((here / "out" / "slides" / slide / "zeroshot.json").read_text())


def test_flags_are_those_of_the_pixels_and_are_counted_everywhere(here: Path) -> None:
    out, record, grid = folder_of(here)
    assert grid.quality is not None
    with open_slide(here / "in" / "half.svs") as slide:
        lattice = TileGrid.over(slide, detect_tissue(slide), TileSpec(quality=True))
        pixels = np.concatenate([batch.pixels for batch in read_tiles(slide, lattice)])
    np.testing.assert_array_equal(grid.quality, tile_flags(pixels, 0.5))
    counts = flag_counts(grid.quality)
    assert 5 < counts["blur"] < len(grid) - 5 and counts["pen"] > 3
    assert record.grid.flagged == counts
    (row,) = (r for r in csv.DictReader((out.path / "slides.csv").read_text().splitlines()) if r["id"] == "half")
    assert {name: int(row[f"n_{name}"]) for name in counts} == counts
    make_report(out)
    assert f"blur {counts['blur']}, pen {counts['pen']}" in out.report.read_text()


def test_a_change_of_mind_scores_again_and_encodes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a tile was encoded anew")

    monkeypatch.setattr(stages, "encode_tiles", refuse)
    _, _, grid = folder_of(here)
    before = scores(here)
    assert before["tiles"] == len(grid)
    assert [o.status for o in run(here, 'zeroshot.drop=["blur", "pen"]')] == ["reused", "reused"]
    kept = (grid.quality & (BLUR | PEN)) == 0
    found = scores(here)
    assert found["tiles"] == kept.sum() and "without those flagged blur or pen" in found["label_reason"]
    (name,) = (m["file"] for m in found["heatmaps"])
    values = read_values(here / "out/slides/half" / name)
    np.testing.assert_array_equal(np.isfinite(values), kept)
    run(here)
    assert scores(here) == before


def test_a_slide_with_nothing_left_says_so(here: Path) -> None:
    everything, half = run(here, 'zeroshot.drop=["blur"]')
    assert everything.slide_id == "all" and everything.good and half.notes == ()
    assert "no tile is left to score" in everything.notes[0] and "(blur)" in everything.notes[0]
    found = scores(here, "all")
    assert found["label"] is None and found["tiles"] == 0 and found["heatmaps"] == []
    out = OutputFolder(here / "out")
    rows = {r["id"]: r for r in csv.DictReader((out.path / "zeroshot.csv").read_text().splitlines())}
    assert rows["all"]["label"] == "" and "no tile is left" in rows["all"]["label_reason"] and rows["half"]["label"]
    make_report(out)
    assert "no tile is left to score" in out.report.read_text()
    run(here)


def test_scores_of_another_drop_are_not_shown_until_they_are_made(here: Path) -> None:
    out, record, _ = folder_of(here)
    config = load_config(settings=[*DEMO, 'zeroshot.drop=["pen"]'])
    out.config.write_text(dump_toml(config))
    assert InForce.of(out).scores(out.slide("half"), record) is None
    assert rescore(out, config, default_prompts("", "demo")) == (2, [])
    assert InForce.of(out).scores(out.slide("half"), record) is not None
    run(here)


def test_bags_of_a_run_and_maps_of_a_head_leave_them_out(here: Path) -> None:
    out, record, grid = folder_of(here)
    kept = (grid.quality & BLUR) == 0
    features = features_of_run(out, ("blur",))
    assert len(features.bags["half"]) == kept.sum()
    assert "all" not in features.bags and "1 without tiles" in features.notes[0]
    x = Bag.from_grid(grid, ("blur",))
    head = train_head([x, x], ["a", "b"], epochs=1)
    assert dropped_by(head) == ()
    (attention, *_) = head_maps(grid, record, head, "mine", drop=("blur",))
    np.testing.assert_array_equal(np.isfinite(attention.values), kept)
    head.card.about["asked"] = {"drop": ["blur"]}  # as `wsi train --drop blur` writes it
    (remembered, *_) = head_maps(grid, record, head, "mine")
    np.testing.assert_array_equal(remembered.values, attention.values)


def test_a_head_trained_without_them_is_asked_without_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _, grid = folder_of(here)
    x = Bag.from_grid(grid)
    head = train_head([x, x], ["a", "b"], epochs=1)
    head.card.about["asked"] = {"drop": ["blur"]}
    head.save(here / "head")
    asked = CliRunner().invoke(app, ["predict", str(out.path), "--head", str(here / "head")])
    assert asked.exit_code == 0, asked.output
    assert "tiles flagged blur are left out" in asked.output and "1 slide scored" in asked.output
    asked = CliRunner().invoke(app, ["predict", str(out.path), "--head", str(here / "head"), "--drop", "none"])
    assert "left out" not in asked.output and "2 slides scored" in asked.output


def test_what_cannot_be_dropped_is_told_before_anything_is_done(here: Path, tmp_path: Path) -> None:
    def refused(*words: str) -> Exception:
        result = CliRunner().invoke(app, list(words))
        assert result.exception is not None
        return result.exception

    slides, out = str(here / "in"), str(tmp_path / "out")
    assert "Did you mean blur?" in str(refused("run", slides, "-o", out, "--drop", "blurr,pen"))
    assert "Did you mean pen?" in str(refused("train", out, "--target", "x", "--drop", "pe"))
    foreign = refused("train", "--features", str(tmp_path), "--target", "x", "--drop", "pen")
    assert isinstance(foreign, UsageError) and "features of other tools" in str(foreign)
    with pytest.raises(ConfigError, match=r"--quality.*tile\.quality = true"):
        load_config(settings=['zeroshot.drop=["blur"]'])
    with pytest.raises(ConfigError, match="Did you mean fold"):
        load_config(settings=['zeroshot.drop=["folds"]', "tile.quality=true"])


def test_features_without_flags_ask_for_them(here: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "half.svs").write_bytes((here / "in" / "half.svs").read_bytes())
    run(tmp_path, "tile.quality=false", "zeroshot.draws=0")
    out, record, grid = folder_of(tmp_path)
    assert grid.quality is None and record.grid.flagged is None
    assert "n_blur" not in (out.path / "slides.csv").read_text()
    with pytest.raises(UsageError, match="wsi run --quality"):
        features_of_run(out, ("blur",))


def test_drop_implies_quality_on_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline.commands import running, wishes

    seen = []
    monkeypatch.setattr(wishes, "chosen_slides", lambda *_: [])
    monkeypatch.setattr(running, "run", lambda entries, out, config, where, **_: seen.append(config) or 0)
    for words in ((), ("--quality",), ("--drop", "pen,blur"), ("--drop", "none")):
        CliRunner().invoke(app, ["run", str(tmp_path), "-o", str(tmp_path / "out"), *words])
    assert [(c.tile.quality, c.zeroshot.drop) for c in seen] == [
        (False, ()), (True, ()), (True, ("blur", "pen")), (False, ()),
    ]  # fmt: skip
