"""Words over cached features, through the command line: no slide is touched, and random weights get no labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cli import wsi

from features import FeatureGrid
from heads import Bag, train_head
from pipeline.pictures import read_image, read_values
from pipeline.synthetic import draw, recipe
from wsi.svs import SvsSpec, write_svs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo encoder over two drawn slides, whose slides are gone afterwards."""
    root = tmp_path_factory.mktemp("run")
    (root / "in").mkdir()
    for seed, diagnosis in ((21, "benign"), (22, "squamous carcinoma")):
        drawn = draw(recipe(seed, diagnosis, width_um=1000.0, height_um=900.0, mpp=0.5, pieces=1, pen=None))
        write_svs(root / "in" / f"s{seed}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    done = wsi("run", root / "in", "-o", root / "out", "--encoder", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "in").rename(root / "moved")
    return root / "out"


def result(out: Path, slide: str) -> dict:
    return json.loads((out / "slides" / slide / "zeroshot.json").read_text())


def rows(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "zeroshot.csv", newline="") as f:
        return {row["id"]: row for row in csv.DictReader(f)}


def test_a_result_holds_every_pooling_and_says_how(run: Path) -> None:
    found = result(run, "s22")
    assert found["label"] in ("normal glands", "adenocarcinoma", "squamous carcinoma")
    assert list(found["pooled"]) == ["top1", "top5", "top10", "top50", "top100", "mean", "share"]
    assert found["pooled"]["top100"]["k"] == min(100, found["tiles"])
    for scores in found["pooled"].values():
        assert sum(scores["p"]) == pytest.approx(1, abs=1e-5)
        context = [p for p, c in zip(scores["p"], found["context"], strict=True) if c]
        assert len(context) == 6 and set(context) == {0.0}
    spread = found["spread"]
    assert all(a <= b <= c for a, b, c in zip(spread["lower"], spread["median"], spread["upper"], strict=True))
    row = rows(run)["s22"]
    assert row["label"] == found["label"]
    assert float(row[f"top10:{found['label']}"]) == max(found["pooled"]["top10"]["p"])


def test_pictures_and_layers_show_the_raw_values(run: Path) -> None:
    folder = run / "slides" / "s22"
    (name,) = (m["file"] for m in result(run, "s22")["heatmaps"])
    values = read_values(folder / name)
    assert values.shape == (result(run, "s22")["tiles"],) and 0 <= values.min() <= values.max() <= 1
    assert min(read_image(folder / name).shape[:2]) > 300
    layer = json.loads((folder / "heatmaps" / "zeroshot.geojson").read_text())["features"]
    tumour = [sum(f["properties"]["measurements"][f"p({c} carcinoma)"] for c in ["squamous"]) for f in layer]
    tumour = [t + f["properties"]["measurements"]["p(adenocarcinoma)"] for t, f in zip(tumour, layer, strict=True)]
    assert np.allclose(tumour, values, atol=1e-6)
    shown = result(run, "s22")["tiles_shown"]
    assert shown["top"][0]["score"] == pytest.approx(float(values.max()), abs=1e-6)
    assert len(list((folder / "tiles").glob("*.jpg"))) == len(shown["top"]) + len(shown["bottom"])


def test_other_words_need_no_slide_and_the_same_words_no_work(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('templates = ["an image of {}."]\n[[classes]]\nname = "fat"\n[[classes]]\nname = "stroma"\n')
    done = wsi("zeroshot", run, "--prompts", mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(run, "s21")["prompts"] == "mine" and set(result(run, "s21")["classes"]) == {"fat", "stroma"}
    assert {m["file"] for m in result(run, "s21")["heatmaps"]} == {"heatmaps/fat.png", "heatmaps/stroma.png"}
    before = {p: p.stat().st_mtime_ns for p in run.glob("slides/*/heatmaps/*.png")}
    assert wsi("zeroshot", run, "--prompts", mine).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in run.glob("slides/*/heatmaps/*.png")} == before
    assert wsi("zeroshot", run, "--prompts", "demo").returncode == 0


def test_any_class_and_any_head_can_be_drawn(run: Path, tmp_path: Path) -> None:
    done = wsi("heatmap", run, "--of", "stroma", "--slide", "s22")
    assert done.returncode == 0 and done.stdout.strip().endswith("slides/s22/heatmaps/stroma.png")
    grids = [FeatureGrid.open(next(run.glob(f"slides/{s}/features/*.zarr"))) for s in ("s21", "s22")]
    head = train_head([Bag.from_grid(g) for g in grids], ["benign", "tumour"], epochs=5)
    head.save(tmp_path / "mine")
    done = wsi("heatmap", run, "--head", tmp_path / "mine")
    assert done.returncode == 0, done.stdout + done.stderr
    values = read_values(run / "slides" / "s22" / "heatmaps" / "attention-mine.png")
    assert values.mean() == pytest.approx(1, abs=1e-4)  # a multiple of the even share
    wrong = wsi("heatmap", run, "--of", "bone")
    assert wrong.returncode == 2 and "no class 'bone'" in wrong.stderr
    wrong = wsi("heatmap", run, "--slide", "s99")
    assert wrong.returncode == 2 and "s21, s22" in wrong.stderr


def test_random_weights_show_no_label_anywhere(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = wsi("run", run.parent / "moved", "-o", out, "--encoder", "demo", "--untrained")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none shown" in done.stdout
    for slide in ("s21", "s22"):
        found = result(out, slide)
        assert found["label"] is None and "random" in found["label_reason"]
        assert all(scores["p"] == [] for scores in found["pooled"].values())
    assert not list(out.glob("slides/*/heatmaps/*"))
    assert {row["label"] for row in rows(out).values()} == {""}
    page = (out / "report.html").read_text()
    assert page.count("Random weights") >= 3  # the page, and every slide's section
    refused = wsi("heatmap", out)
    assert refused.returncode == 2 and "random weights" in refused.stderr


def test_an_encoder_without_words_cannot_be_asked(run: Path, tmp_path: Path) -> None:
    done = wsi("run", run.parent / "moved", "-o", tmp_path / "out", "--encoder", "colour", "--prompts", "kather")
    assert done.returncode == 2 and "knows no words" in done.stderr
