"""`--tissue-from`: which file is whose, what an edit costs, and that no edit is lost or goes unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawings import box, collection, feature, written

from features import FeatureGrid
from pipeline import stages
from pipeline.commands import looking, wishes
from pipeline.config import load_config
from pipeline.executor import SerialExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import SlideEntry, entries_from
from pipeline.output import OutputFolder
from pipeline.plan import plan_slides
from pipeline.record import SlideRecord
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.tissuefiles import source_summary, with_tissue
from wsi.errors import UsageError
from wsi.svs import SvsSpec, write_svs

CONFIG = load_config(settings=['encoder.name="colour"', "encoder.batch_size=32"])
HALF = collection(feature(box(0, 0, 700, 1200)))  # of a slide of 1400 x 1200 px


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in ((41, "a"), (42, "b")):
        drawn = draw(recipe(seed, "benign", width_um=700.0, height_um=600.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / f"{name}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


def run(slides: Path, out: Path, edits: Path | None = None) -> dict[str, Outcome]:
    entries = entries_from([slides])
    if edits is not None:
        entries, _ = with_tissue(entries, edits)
    job = Run(tuple(entries), OutputFolder(out), CONFIG, None)
    return {o.slide_id: o for o in job.outcomes(SerialExecutor(), Quiet())}


def statuses(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {i: o.code or o.status for i, o in outcomes.items()}


def record(out: Path, slide: str) -> SlideRecord:
    found = SlideRecord.read(OutputFolder(out).slide(slide))
    assert found is not None
    return found


def grid(out: Path, slide: str) -> FeatureGrid:
    return FeatureGrid.open(out / "slides" / slide / "features" / record(out, slide).current)


def test_an_edited_file_does_its_slide_again_and_no_other(slides: Path, tmp_path: Path) -> None:
    out, edits = tmp_path / "out", tmp_path / "edits"
    written(edits / "a.geojson", HALF)
    assert statuses(run(slides, out)) == {"a": "done", "b": "done"}
    detected = grid(out, "a").coords

    ended = run(slides, out, edits)
    assert statuses(ended) == {"a": "done", "b": "reused"}
    assert "Tissue as drawn in a.geojson, not detected." in ended["a"].notes
    assert ended["b"].notes[-1] == f"No file of its tissue in {edits}: detected automatically."
    drawn = grid(out, "a")
    assert set(drawn.header.tissue_config) == {"kind", "digest", "mpp"} and len(drawn.coords) != len(detected)
    assert drawn.coords[:, 0].max() + 112 <= 700 and drawn.tissue_fraction.min() > 0.5

    assert statuses(run(slides, out, edits)) == {"a": "reused", "b": "reused"}
    again = json.loads((edits / "a.geojson").read_text())
    again["features"][0]["properties"]["name"] = "renamed"
    written(edits / "a.geojson", again)  # other bytes, the same areas
    assert statuses(run(slides, out, edits)) == {"a": "reused", "b": "reused"}
    written(edits / "a.geojson", collection(feature(box(0, 0, 1400, 1200))))
    assert statuses(run(slides, out, edits)) == {"a": "done", "b": "reused"}
    assert statuses(run(slides, out)) == {"a": "done", "b": "reused"}
    assert np.array_equal(grid(out, "a").coords, detected)


def test_an_output_folder_is_given_back_with_one_slide_edited(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(slides, out)
    unedited = run(slides, out, out)
    assert statuses(unedited) == {"a": "reused", "b": "reused"} and not unedited["a"].drawn
    mask = out / "slides/a/tissue.geojson"
    written(mask, HALF)
    ignored = run(slides, out)
    assert statuses(ignored) == {"a": "reused", "b": "reused"} and "was edited since" in ignored["a"].notes[-1]
    assert statuses(run(slides, out, out)) == {"a": "done", "b": "reused"}
    assert json.loads(mask.read_text()) == HALF  # the edit stays as it was
    again = run(slides, out, out)
    assert statuses(again) == {"a": "reused", "b": "reused"}
    assert {i: o.drawn for i, o in again.items()} == {"a": True, "b": False}

    elsewhere = run(slides, tmp_path / "other", out)
    assert statuses(elsewhere) == {"a": "done", "b": "done"}
    assert json.loads((tmp_path / "other/slides/a/tissue.geojson").read_text()) == HALF
    assert record(tmp_path / "other", "a").current == record(out, "a").current
    assert record(tmp_path / "other", "b").tissue == record(out, "b").tissue

    ended = run(slides, out)  # the flag forgotten: detected again, and the drawing is kept
    assert statuses(ended) == {"a": "done", "b": "reused"}
    (kept,) = (out / "slides/a").glob("tissue-edited-*.geojson")
    assert json.loads(kept.read_text()) == HALF and kept.name in " ".join(ended["a"].notes)
    assert json.loads(mask.read_text()) != HALF
    assert "is not in force" in ended["a"].notes[-1] and kept.name in (out / "slides.csv").read_text()
    for edits in (None, out):  # it is told as long as it lies there
        ended = run(slides, out, edits)
        assert (ended["a"].status, ended["a"].drawn) == ("reused", False) and kept.name in ended["a"].notes[-1]
        assert "not in force" not in " ".join(ended["b"].notes)
    assert kept.name in " ".join(run(slides, tmp_path / "third", out)["a"].notes)

    written(mask, HALF)
    kept.unlink()
    (out / "slides/a/slide.json").unlink()  # what a person is told to do about a damaged one
    run(slides, out)
    assert json.loads(kept.read_text()) == HALF


def test_a_drawing_exported_again_during_a_run_is_the_next_runs(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mask = tmp_path / "out", tmp_path / "out/slides/a/tissue.geojson"
    run(slides, out)
    written(mask, HALF)
    whole = collection(feature(box(0, 0, 1400, 1200)))
    as_it_was = stages.write_overview
    monkeypatch.setattr(stages, "write_overview", lambda *a: (as_it_was(*a), written(mask, whole)))
    assert statuses(run(slides, out, out)) == {"a": "done", "b": "reused"}
    monkeypatch.undo()
    assert statuses(run(slides, out, out)) == {"a": "done", "b": "reused"}  # not taken for the one that was parsed


def test_a_broken_file_refuses_its_slide_and_the_batch_goes_on(slides: Path, tmp_path: Path) -> None:
    written(tmp_path / "edits/a.geojson", json.dumps(HALF)[:-9])
    ended = run(slides, tmp_path / "out", tmp_path / "edits")
    assert statuses(ended) == {"a": "tissue_invalid", "b": "done"}
    assert ended["a"].stage == "tissue" and str(tmp_path / "edits/a.geojson") in ended["a"].detail
    written(tmp_path / "edits/a.geojson", HALF)
    assert statuses(run(slides, tmp_path / "out", tmp_path / "edits")) == {"a": "done", "b": "reused"}


def test_a_drawing_without_areas_is_a_slide_without_tissue(slides: Path, tmp_path: Path) -> None:
    written(tmp_path / "edits/a.geojson", collection())
    ended = run(slides, tmp_path / "out", tmp_path / "edits")
    assert statuses(ended) == {"a": "no tissue", "b": "done"}
    assert "holds no area" in " ".join(ended["a"].notes) and "no tile" not in " ".join(ended["a"].notes)


def test_tissue_that_no_tile_fits_is_told(slides: Path, tmp_path: Path) -> None:
    """A square of 100 um, its sides in um where px of 0.5 um are meant; and one of mm, that holds no px of the mask."""
    written(tmp_path / "edits/a.geojson", collection(feature(box(600, 600, 700, 700))))
    written(tmp_path / "edits/b.geojson", collection(feature(box(600.1, 600.1, 600.2, 600.2))))
    ended = run(slides, tmp_path / "out", tmp_path / "edits")
    assert statuses(ended) == {"a": "no tissue", "b": "no tissue"}
    note = next(n for n in ended["a"].notes if "no tile" in n)
    assert note.startswith("Tissue was drawn, 3,136 um2") and "no tile of 112 x 112 um is at least 50% tissue" in note
    assert "the slide is 700 x 600 um" in note and "pixels of the finest level, 0.5 um each" in note
    assert "Tissue was drawn, 0 um2" in " ".join(ended["b"].notes)
    assert "no tile of 112 x 112 um" in (tmp_path / "out/slides.csv").read_text()

    coarse = load_config(settings=["tile.mpp=50"])
    (planned, _) = plan_slides(entries_from([slides]), OutputFolder(tmp_path / "none"), coarse)
    (note,) = planned.warnings
    assert note.startswith("Tissue was found, ") and "11,200 x 11,200 um" in note and "Drawings" not in note


def test_a_damaged_record_beside_a_file_is_no_fault(slides: Path, tmp_path: Path) -> None:
    written(tmp_path / "edits/a/tissue.geojson", HALF)
    for content in ("[]", "3", '{"format": "slide-record"}', "{"):
        written(tmp_path / "edits/a/slide.json", content)
        (planned, _) = plan_slides(
            with_tissue(entries_from([slides]), tmp_path / "edits")[0], OutputFolder(tmp_path / "out"), CONFIG
        )
        assert (planned.state, planned.reason) == ("to do", "new")
        assert planned.warnings == ("Tissue as drawn in tissue.geojson, not detected.",)


def test_the_plan_tells_the_tissue(slides: Path, tmp_path: Path) -> None:
    out, edits = tmp_path / "out", tmp_path / "edits"
    run(slides, out)
    written(edits / "a.geojson", HALF)

    def planned() -> list[tuple[str, str]]:
        entries, _ = with_tissue(entries_from([slides]), edits)
        return [(p.state, p.reason) for p in plan_slides(entries, OutputFolder(out), CONFIG)]

    assert planned() == [("to do", "its tissue was detected and is drawn now"), ("cached", "")]
    written(edits / "a.geojson", "x")
    (state, reason), _ = planned()
    assert state == "refused" and reason.startswith("tissue_invalid: ")


def entries(*names: str) -> list[SlideEntry]:
    return [SlideEntry(name.replace("/", "__"), Path("/in") / f"{name}.svs", f"{name}.svs") for name in names]


def found(folder: Path, *names: str) -> dict[str, str | None]:
    given, _ = with_tissue(entries(*names), folder)
    files = {e.id: e.tissue.file if e.tissue else None for e in given}
    return {i: f.relative_to(folder).as_posix() if f else None for i, f in files.items()}


@pytest.mark.parametrize("name", ["x__s.geojson", "s.geojson", "slides/x__s/tissue.geojson", "x__s/tissue.geojson"])
def test_four_names_are_looked_for(name: str, tmp_path: Path) -> None:
    written(tmp_path / name, HALF)
    assert found(tmp_path, "x/s", "t") == {"x__s": name, "t": None}


def test_what_is_not_clear_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "s.geojson", HALF)
    with pytest.raises(UsageError, match=r"s\.geojson: 2 slides have that name"):
        found(tmp_path, "x/s", "y/s")
    assert found(tmp_path, "s", "y/s") == {"s": "s.geojson", "y__s": None}  # it is the first one's id
    written(tmp_path / "s/tissue.geojson", HALF)
    with pytest.raises(UsageError, match=r"s: 2 files, .*s\.geojson, .*s/tissue\.geojson"):
        found(tmp_path, "s", "t")
    with pytest.raises(UsageError, match=r"it is a file, not a folder\. .* such as s\.geojson"):
        found(tmp_path / "s.geojson", "s")
    with pytest.raises(UsageError, match="no such folder"):
        found(tmp_path / "gone", "s")
    written(tmp_path / "s.xml", "<x/>")
    with pytest.raises(UsageError, match="XML annotations are not read"):
        found(tmp_path / "s.xml", "s")


@pytest.mark.parametrize("name", ["CMU-1.svs.geojson", "cmu-1.geojson", "CMU_1.GeoJSON", "CMU 1.json"])
def test_a_folder_that_serves_no_slide_is_an_error_and_near_misses_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as empty:
        found(tmp_path, "CMU-1", "x/s", "y/s")
    assert "none of its files" in str(empty.value) and "Call that of CMU-1.svs CMU-1.geojson" in str(empty.value)
    written(tmp_path / name, HALF)
    with pytest.raises(UsageError, match=f"Did you mean CMU-1.geojson in place of {name}\\?"):
        found(tmp_path, "CMU-1", "x/s")
    written(tmp_path / "s.svs.geojson", HALF)
    with pytest.raises(UsageError, match=r"Did you mean x__s\.geojson in place of s\.svs\.geojson, y__s\.geojson in"):
        found(tmp_path, "x/s", "y/s")


def test_files_that_serve_no_slide_are_listed(tmp_path: Path) -> None:
    for name in ("s.geojson", "z.geojson", "gone/tissue.geojson", "t.xml", "t.json", "u.geojson.gz", "notes.txt"):
        written(tmp_path / name, HALF)
    given, warnings = with_tissue(entries("s", "t"), tmp_path)
    assert [w.split(": ")[-1] for w in warnings] == [
        "gone/tissue.geojson, z.geojson.",
        "t.json, t.xml, u.geojson.gz.",
        "Did you mean t.geojson in place of t.json?",
    ]
    assert "belong to no slide" in warnings[0] and "XML is never read" in warnings[1]
    assert source_summary(given, {"s": True, "t": False}) == (
        "tissue: 1 of 2 slides as drawn; 1 detected, for want of a file: t.svs"
    )
    assert source_summary(entries("s"), {}) == ""


def test_the_summary_counts_what_is_in_force(tmp_path: Path) -> None:
    for slide in "abcd":
        written(tmp_path / f"slides/{slide}/tissue.geojson", HALF)
    given, _ = with_tissue(entries(*"abcde"), tmp_path)
    assert source_summary(given, {"a": True, "b": False, "c": False, "e": False}) == (
        "tissue: 1 of 5 slides as drawn; 2 detected, since their files are as a run wrote them: b.svs, c.svs; "
        "1 detected, for want of a file: e.svs; 1 refused"
    )


def test_the_commands_tell_it(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "edits/a.geojson", HALF)
    written(tmp_path / "edits/c.geojson", HALF)
    given = wishes.with_drawn_tissue(entries_from([slides]), tmp_path / "edits")
    assert looking.plan(given, tmp_path / "out", CONFIG) == 0
    said = capsys.readouterr().out
    assert f"1 file belongs to no slide of this run in {tmp_path / 'edits'}: c.geojson" in said
    assert "tissue: 1 of 2 slides as drawn; 1 detected, for want of a file: b.svs" in said
    assert "new. Tissue as drawn in a.geojson, not detected." in said
