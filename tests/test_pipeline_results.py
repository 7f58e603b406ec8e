"""What the output folder shows after `wsi zeroshot`, `wsi heatmap` and `wsi report`: the words in force, no others."""

from __future__ import annotations

import csv
import gc
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features import FeatureGrid, load_encoder
from heads import Bag, PromptSet, train_head
from heads.prompts import PromptClass
from pipeline import ledger, reporting, rescore
from pipeline.commands import results
from pipeline.config import load_config, setting
from pipeline.console import open_console
from pipeline.executor import SerialExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.pictures import read_values
from pipeline.report import RunReport
from pipeline.reporting import make_report
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.tables import scored, slide_rows
from pipeline.zeroshot import class_file, default_prompts, file_name
from wsi.errors import NoSpace, UsageError
from wsi.svs import SvsSpec, write_svs

DEMO = ['encoder.name="demo"', "encoder.batch_size=32", "zeroshot.draws=2"]


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


def run(out: Path, slides: list[Path], *settings: str) -> list[Outcome]:
    config = load_config(settings=[*DEMO, *settings])
    prompts = default_prompts(config.zeroshot.prompts, config.encoder.name)
    job = Run(tuple(entries_from(slides)), OutputFolder(out), config, prompts)
    return job.outcomes(SerialExecutor(), Quiet())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/ with slides a and b, and out/ with a run of the demo encoder over them."""
    root = tmp_path_factory.mktemp("original")
    (root / "in").mkdir()
    for name, seed, diagnosis in (("a", 41, "benign"), ("b", 42, "squamous carcinoma")):
        drawn = draw(recipe(seed, diagnosis, width_um=700.0, height_um=600.0, mpp=0.5, pieces=1, pen=None))
        write_svs(root / "in" / f"{name}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    assert [o.status for o in run(root / "out", [root / "in"])] == ["done", "done"]
    return root


@pytest.fixture
def out(original: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(original / "out", tmp_path / "out"))


def prompts_file(path: Path, **classes: str) -> str:
    """A prompt file with one wording for each class."""
    tables = [f'[[classes]]\nname = "{name}"\nnames = ["{words}"]\n' for name, words in classes.items()]
    path.write_text('templates = ["an image of {}."]\n' + "".join(tables), encoding="utf-8")
    return str(path)


# File names


@pytest.mark.parametrize(
    "plain", ["tumour", "normal glands", "normal-glands", "LUAD", "cancer-associated stroma", "g_3"]
)
def test_a_plain_name_is_its_own_file_name(plain: str) -> None:
    assert file_name(plain) == plain.lower().replace(" ", "-")


def test_names_that_differ_in_signs_alone_have_files_of_their_own() -> None:
    names = [
        "HER2+",
        "HER2-",
        "HER2",
        "опухоль",
        "строма",
        "class",
        "a/b",
        "a.b",
        "x" * 300,
        "x" * 301,
        "n\u00e9",
        "..",
        "",
    ]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(len(f) <= 100 and set(f) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for f in files)
    assert files[0].startswith("her2-") and files[2] == "her2"


def test_no_class_takes_the_file_of_another_map() -> None:
    """`tumour` is the sum over tumour classes where there are such; a dash may stand in a name itself."""
    names = ("Tumour", "lymph node", "lymph-node")
    plain = PromptSet("p", tuple(PromptClass(n, (n,)) for n in names), ("{}",))
    assert class_file(plain, 0) == "tumour"
    assert len({class_file(plain, c) for c in range(3)}) == 3
    summed = PromptSet("p", (PromptClass("Tumour", ("Tumour",), tumour=True), *plain.classes[1:]), ("{}",))
    assert class_file(summed, 0) != "tumour"


def test_two_receptors_have_two_maps(out: Path, tmp_path: Path) -> None:
    assert results.zeroshot(out, prompts_file(tmp_path / "mine.toml", **{"HER2+": "stroma", "HER2-": "fat"}), None) == 0
    found = OutputFolder(out).slide("a").zeroshot()
    assert found is not None
    plus, minus = (read_values(out / "slides/a" / m["file"]) for m in found["heatmaps"])
    assert np.allclose(plus + minus, 1, atol=1e-5) and not np.array_equal(plus, minus)


# Slides that cannot be drawn or scored


def refuse(out: Path, slide: str) -> None:
    ended = Outcome(slide, f"{slide}.svs", ledger.REFUSED, "open", "slide_truncated", "It ends early.")
    ledger.record(out / "ledger.jsonl", ended)


def spoil_grid(out: Path, slide: str) -> None:
    (grid,) = (out / "slides" / slide / "features").glob("*.zarr")
    for chunk in (grid / "features" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:-7])


@pytest.mark.parametrize("harm", ["thumbnail", "grid", "record", "refused", "unreadable"])
def test_a_slide_that_cannot_be_drawn_costs_its_own_map_only(
    out: Path, harm: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Bag.from_grid
    match harm:
        case "thumbnail":
            (out / "slides/a/thumbnail.jpg").unlink()
        case "grid":
            spoil_grid(out, "a")
        case "record":
            (out / "slides/a/slide.json").write_text("{")
        case "refused":
            refuse(out, "a")
        case "unreadable":
            emptied = lambda g, _: without_tiles(read(g)) if g.slide_id == "a" else read(g)  # noqa: E731
            monkeypatch.setattr(Bag, "from_grid", emptied)
    assert results.heatmap(out, "stroma", None, None) == 3
    said = capsys.readouterr().out
    assert "slides/b/heatmaps/stroma.png" in said and "a: " in said and "slides/a/heatmaps" not in said
    assert results.heatmap(out, "stroma", None, ["a"]) == 4


def without_tiles(bag: Bag) -> Bag:
    return replace(bag, x=bag.x[:0], cells=bag.cells[:0])


def test_a_head_of_another_encoder_is_a_sentence_for_each_slide(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags = [Bag(np.eye(4, dtype=np.float32), np.arange(4), name, "0" * 64) for name in "ab"]
    train_head(bags, ["x", "y"], epochs=1).save(tmp_path / "head")
    assert results.heatmap(out, "", tmp_path / "head", None) == 4
    said = capsys.readouterr().out
    assert "a: encoder_mismatch." in said and "b: encoder_mismatch." in said


def test_a_mistake_or_a_full_disk_ends_the_command_at_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no class 'bone'"):
        results.heatmap(out, "bone", None, None)

    def full(*_: object, **__: object) -> None:
        raise NoSpace("the disk is full.")

    monkeypatch.setattr(rescore, "write_heatmap", full)
    monkeypatch.setattr(rescore, "score_slide", full)
    with pytest.raises(NoSpace):
        results.heatmap(out, "stroma", None, None)
    with pytest.raises(NoSpace):
        results.zeroshot(out, "nsclc", None)


def test_a_slide_that_cannot_be_scored_costs_its_own_scores_only(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(out, "a")
    assert results.zeroshot(out, "nsclc", None) == 3
    said = capsys.readouterr().out
    assert "a: its last run ended refused (slide_truncated)" in said and "1 slide in" in said


# Whose words


def labels(out: Path) -> dict[str, tuple[str, str]]:
    """(prompts, label) by slide, as zeroshot.csv has them."""
    with open(out / "zeroshot.csv", newline="") as f:
        return {row["id"]: (row["prompts"], row["label"]) for row in csv.DictReader(f)}


def told(out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Slides in the table on the console."""
    capsys.readouterr()
    results.show_scores(open_console(), OutputFolder(out), load_encoder("demo").spec)
    return [line[0] for line in capsys.readouterr().out.splitlines() if line[:2] in ("a ", "b ")]


def page(out: Path) -> str:
    make_report(OutputFolder(out))
    return (out / "report.html").read_text()


def labelled(out: Path) -> list[str]:
    """Slides whose section of the report shows a label."""
    sections = page(out).split('<section class="slide"')[1:]
    return [s.split("<h2>")[1][0] for s in sections if '<p class="label"><span>Zero-shot label' in s]


def maps(out: Path) -> set[str]:
    """Titles of the heatmaps in the report."""
    return set(re.findall(r'alt="Heatmap of ([^"]*) over', page(out)))


def test_a_slide_skipped_by_new_words_does_not_keep_its_old_label(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(labels(out)) == set(labelled(out)) == {"a", "b"}
    spoil_grid(out, "a")
    assert results.zeroshot(out, "nsclc", None) == 3
    assert "1 slide is not shown" in capsys.readouterr().out
    assert {k: v[0] for k, v in labels(out).items()} == {"b": "nsclc"}
    assert told(out, capsys) == ["b"] and labelled(out) == ["b"]
    assert "scored with other prompts" in page(out)


def test_without_prompts_in_force_nothing_is_shown(
    original: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(out, [original / "in"], 'zeroshot.prompts="none"')
    assert labels(out) == {} and told(out, capsys) == [] and labelled(out) == [] and maps(out) == set()
    run(out, [original / "in"])
    assert set(labels(out)) == {"a", "b"} and maps(out) == {"p(tumour)"}


@pytest.mark.parametrize("other", ['zeroshot.prompts="nsclc"', "zeroshot.label_k=1"])
def test_a_run_over_some_slides_mixes_no_words(
    original: Path, out: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(out, [original / "in/b.svs"], other)
    assert set(labels(out)) == {"b"} and told(out, capsys) == ["b"] and labelled(out) == ["b"]


def test_an_encoder_without_words_has_no_labels(original: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(out, [original / "in"], 'zeroshot.prompts="tumour-normal"')
    assert set(labels(out)) == {"a", "b"}
    config = load_config(settings=['encoder.name="colour"'])  # tumour-normal goes with it, if anything does
    job = Run(tuple(entries_from([original / "in/b.svs"])), OutputFolder(out), config, None)
    assert [o.status for o in job.outcomes(SerialExecutor(), Quiet())] == ["done"]
    assert labels(out) == {} and told(out, capsys) == [] and labelled(out) == []


def test_words_that_are_gone_or_changed(out: Path, tmp_path: Path, original: Path) -> None:
    mine = tmp_path / "mine.toml"
    assert results.zeroshot(out, prompts_file(mine, tall="stroma", small="fat"), None) == 0
    text = mine.read_text()
    mine.unlink()
    assert labelled(out) == ["a", "b"] and maps(out) == {"p(tall)", "p(small)"}  # all agree
    mine.write_text(text.replace("fat", "necrosis"))
    assert labelled(out) == [] and maps(out) == set()
    run(out, [original / "in/b.svs"], setting("zeroshot.prompts", str(mine)))
    assert labelled(out) == ["b"]
    mine.unlink()
    assert labelled(out) == []  # a and b were scored with different words, and nobody knows which are in force
    mine.write_text(text)
    assert labelled(out) == ["a"]


def test_maps_of_other_words_are_left_out(out: Path, tmp_path: Path) -> None:
    mine = prompts_file(tmp_path / "mine.toml", tall="stroma", small="fat")
    assert results.zeroshot(out, mine, None) == 0
    assert results.heatmap(out, "small", None, None) == 0
    prompts_file(tmp_path / "mine.toml", tall="stroma", thin="fat", small="mucus")
    (tmp_path / "mine.toml").write_text((tmp_path / "mine.toml").read_text() + "context = true\n")
    assert results.zeroshot(out, mine, None) == 0
    assert maps(out) == {"p(tall)", "p(thin)"}
    assert results.heatmap(out, "small", None, None) == 0
    assert maps(out) == {"p(tall)", "p(thin)", "p(small)"}
    (tmp_path / "mine.toml").write_text((tmp_path / "mine.toml").read_text().replace("mucus", "necrosis"))
    assert results.zeroshot(out, mine, None) == 0
    assert maps(out) == {"p(tall)", "p(thin)"}


def test_maps_of_a_head_that_was_trained_anew_are_left_out(out: Path) -> None:
    grids = [FeatureGrid.open(next(out.glob(f"slides/{s}/features/*.zarr"))) for s in "ab"]
    bags = [Bag.from_grid(g) for g in grids]
    train_head(bags, ["x", "y"], epochs=1).save(out / "heads" / "mine")
    assert results.heatmap(out, "", out / "heads" / "mine", None) == 0
    attention = {m for m in maps(out) if m.startswith("attention of mine")}
    assert len(attention) == 1
    train_head(bags, ["x", "y"], epochs=2).save(out / "heads" / "mine")
    assert maps(out) == {"p(tumour)"}
    assert results.heatmap(out, "", out / "heads" / "mine", ["a"]) == 0
    drawn = maps(out)
    assert {"p(tumour)", *attention} < drawn and all(" of mine" in m for m in drawn - {"p(tumour)"})
    shutil.rmtree(out / "heads")  # or it lies elsewhere: nothing says that the maps are old
    assert maps(out) >= drawn


def test_the_layer_for_qupath_is_linked_where_it_is_of_the_words_in_force(original: Path, out: Path) -> None:
    assert page(out).count("heatmaps/zeroshot.geojson") == 2
    run(out, [original / "in/b.svs"], 'zeroshot.prompts="nsclc"')
    assert page(out).count("heatmaps/zeroshot.geojson") == 1


# The report of a cohort


def test_a_report_holds_no_grid_and_no_picture_until_a_page_is_written(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of slides are gathered before the first page: each may cost some kilobytes, not its heatmaps."""
    held: list[RunReport] = []
    monkeypatch.setattr(reporting, "write_report", lambda _, report: held.append(report))
    make_report(OutputFolder(out))
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is FeatureGrid]
    (report,) = held
    assert len(report.slides[0].heatmaps) == 1
    once = len(pickle.dumps(report.slides[0]))
    assert len(pickle.dumps(report.slides)) - once < 20_000
    assert report.slides[0].heatmaps[0].scale.colours is report.slides[1].heatmaps[0].scale.colours


def test_every_encoder_and_way_with_stains_of_the_folder_is_named(original: Path, out: Path) -> None:
    assert "stain normalisation" not in page(out)
    config = load_config(settings=['encoder.name="colour"', "tile.stain=macenko"])
    job = Run(tuple(entries_from([original / "in/b.svs"])), OutputFolder(out), config, None)
    assert [o.status for o in job.outcomes(SerialExecutor(), Quiet())] == ["done"]
    facts = page(out).split("<dt>encoder</dt>", 1)[1][:200]
    assert "demo, " in facts and "colour, 82-d" in facts
    assert "none; macenko (pictures show the slides&#39; own colours)" in page(out)
    assert page(out).count("<dt>stain normalisation</dt><dd>macenko</dd>") == 1  # of the slide it was done to
    assert {row["id"]: row["stain"] for row in slide_rows(OutputFolder(out))} == {"a": "none", "b": "macenko"}
    ended = {e["slide_id"]: e["stain"] for e in ledger.events(OutputFolder(out).ledger) if e["event"] == "slide"}
    assert ended == {"a": "", "b": "macenko"}


def test_tiles_that_are_there_are_shown_though_the_slide_has_gone(original: Path, out: Path, tmp_path: Path) -> None:
    moved(original, out, tmp_path)
    pictures = sorted((out / "slides/a/tiles").glob("*.jpg"))
    pictures[0].unlink()
    (tmp_path / "in/a.svs").unlink()
    assert results.report(out) == 0
    html = (out / "report.html").read_text()
    assert html.count("tile 1 of a") >= 1 and "Not all of this slide can be shown" in html


def test_no_tile_is_cut_from_another_file_of_the_same_name(original: Path, out: Path, tmp_path: Path) -> None:
    moved(original, out, tmp_path)
    for picture in (out / "slides/a/tiles").glob("*.jpg"):
        picture.unlink()
    shutil.copy(tmp_path / "in/b.svs", tmp_path / "in/a.svs")
    assert results.report(out) == 0
    assert not list((out / "slides/a/tiles").glob("*.jpg"))
    assert "not the file" in (out / "report.html").read_text()


def test_a_bug_in_a_reader_costs_the_tiles_of_its_slide(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a.svs: the reader failed\nZeroDivisionError: ours")

    monkeypatch.setattr(reporting, "cut_crops", broken)
    assert results.report(out) == 0
    assert "ZeroDivisionError: ours" in (out / "report.html").read_text()


def moved(original: Path, out: Path, tmp_path: Path) -> None:
    """The slides lie in tmp_path/in from now on."""
    shutil.copytree(original / "in", tmp_path / "in")
    assert [o.status for o in run(out, [tmp_path / "in"])] == ["reused", "reused"]


# What is asked for


def test_a_shipped_set_is_kept_by_its_name_whatever_lies_here(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nsclc").write_text("no prompts")
    assert results.zeroshot(out, "nsclc", None) == 0
    assert load_config(out / "run.toml").zeroshot.prompts == "nsclc" and labelled(out) == ["a", "b"]


def test_a_class_and_a_head_cannot_both_be_drawn(out: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        results.heatmap(out, "stroma", tmp_path, None)


def test_a_slide_without_tissue_is_not_told_to_be_scored_again(original: Path, out: Path) -> None:
    ended = run(out, [original / "in/a.svs"], "tile.min_tissue=1.0", "tile.size_px=1120")
    assert [o.status for o in ended] == ["no tissue"]
    assert scored(OutputFolder(out)).left_out == []
