"""`wsi verify`: every planted damage is found and named, nothing is found in what is sound, and repair mends it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import (
    artefacts,
    cut,
    empty,
    flip,
    flip_middle,
    found_in,
    found_near,
    relist,
    reseal,
    restored,
    rewrite,
)
from features_samples import tree

from features.writer import GridWriter
from pipeline.audit.findings import KINDS
from pipeline.audit.repair import Repair
from pipeline.commands import verifying
from pipeline.config import dump_toml, load_config
from pipeline.executor import SerialExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.record import SlideRecord
from pipeline.reporting import make_report
from pipeline.run import Run
from pipeline.seal import Seal, jpeg_seal, json_seal, sealed_jpeg, sealed_json, sealed_toml, toml_seal
from pipeline.synthetic import draw, recipe
from pipeline.zeroshot import default_prompts
from wsi.errors import StorageError, UsageError
from wsi.svs import SvsSpec, write_svs

DEMO = ['encoder.name="demo"', "encoder.batch_size=32", "zeroshot.draws=2", "pictures.top_tiles=2"]
OTHER = "tile.min_tissue=0.9"
PAD = 3 << 20  # behind a slide's last byte: between the samples of its fingerprint there are gaps then


class Quiet:
    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


def run(slides: Path, out: Path, *settings: str) -> dict[str, Outcome]:
    config = load_config(settings=[*DEMO, *settings])
    job = Run(tuple(entries_from([slides])), OutputFolder(out), config, default_prompts("", "demo"))
    with pytest.MonkeyPatch.context() as said:
        said.setattr(sys, "argv", ["wsi", "run", str(slides)])  # a worker of the test runner has none
        ended = {outcome.slide_id: outcome for outcome in job.outcomes(SerialExecutor(), Quiet())}
    make_report(OutputFolder(out))
    return ended


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small slides, a.svs and b.svs."""
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in ((31, "a"), (32, "b")):
        drawn = draw(recipe(seed, "benign", width_um=400.0, height_um=300.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / f"{name}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


@pytest.fixture(scope="module")
def finished(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder in which settings came and went: two grids a slide, the current one made first."""
    out = tmp_path_factory.mktemp("finished") / "out"
    for settings in ([], [OTHER], []):
        assert {o.status for o in run(slides, out, *settings).values()} == {"done"}
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def record_of(out: Path, slide: str = "a") -> SlideRecord:
    record = SlideRecord.read(OutputFolder(out).slide(slide))
    assert record is not None
    return record


def current(out: Path, slide: str = "a") -> Path:
    return out / "slides" / slide / "features" / record_of(out, slide).current


def other(out: Path) -> Path:
    return next(p for p in (out / "slides/a/features").glob("*.zarr") if p != current(out))


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def test_nothing_is_found_in_what_is_sound(finished: Path) -> None:
    before = tree(finished)
    assert found_in(finished, slides=True) == []
    assert tree(finished) == before and len(list(finished.glob("slides/*/features/*.zarr"))) == 4


def with_nan(out: Path) -> None:
    rewrite(current(out), "features", lambda values: values[2].fill(np.nan))


def with_unmarked(out: Path) -> None:
    rewrite(current(out), "read_status", lambda status: status[1:2].fill(2))


def with_status(out: Path) -> None:
    rewrite(current(out), "read_status", lambda status: status[1:2].fill(7))


def with_coords(out: Path) -> None:
    rewrite(current(out), "coords", lambda coords: np.add(coords, 1, out=coords))


def of_another_version(out: Path) -> None:
    path = current(out) / "zarr.json"
    told = json.loads(path.read_text())
    told["attributes"]["version"] = 0
    path.write_text(json.dumps(told))
    relist(current(out))


def of_another_slide(out: Path) -> None:
    here = current(out)
    shutil.rmtree(here)
    shutil.copytree(current(out, "b"), here)


def renamed(out: Path) -> None:
    current(out).rename(current(out).with_name("demo-000000000000.zarr"))


def with_count(out: Path) -> None:
    name = record_of(out).current
    reseal(out / "slides/a/slide.json", lambda told: told["grids"][name].update(tiles=99))


def with_stain(out: Path, stain: str = "macenko") -> None:
    name = record_of(out).current
    reseal(out / "slides/a/slide.json", lambda told: told["grids"][name].update(stain=stain))


def test_a_record_that_says_nothing_of_stains_is_sound(out: Path) -> None:
    """As of before they were written down."""
    with_stain(out, "")
    assert [finding.code for finding in found_in(out)] == ["table_differs"]  # which tells what the record does


def with_other_settings(out: Path) -> None:
    (out / "run.toml").write_text(sealed_toml(dump_toml(load_config(out / "run.toml", ["tile.mpp=0.6"]))))


def older_record(out: Path) -> None:
    told = json.loads((out / "slides/a/slide.json").read_text())
    (out / "slides/a/slide.json").write_text(json.dumps({**told, "version": 1}))


def staged(out: Path) -> None:
    staging = current(out).with_name(f".{current(out).name}.partial")
    (staging / "rows").mkdir(parents=True)
    (staging / "grid.json").write_text("{}")


def planted(name: str) -> Callable[[Path], None]:
    def plant(out: Path) -> None:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")

    return plant


def replaced(out: Path) -> None:
    shutil.copytree(current(out), current(out).with_name(f".{current(out).name}.old"))


def at(harm: Callable[[Path], None], where: str) -> Callable[[Path], None]:
    """`harm` to a file of the current grid (`grid/...`), of the other one, of the slide a, or of the folder."""

    def plant(out: Path) -> None:
        kind, _, name = where.partition("/")
        root = {"grid": lambda: current(out), "other": lambda: other(out), "a": lambda: out / "slides/a"}
        harm(first(root[kind](), name) if kind in root else out / where)

    return plant


def swapped_record(out: Path) -> None:
    shutil.copy(out / "slides/b/slide.json", out / "slides/a/slide.json")


DAMAGE = {
    "chunk cut": (at(cut, "grid/features/c/0/0"), "chunk_truncated", "features/c/0/0"),
    "chunk lost": (at(Path.unlink, "grid/features/c/0/0"), "chunk_missing", "features/c/0/0"),
    "chunk emptied": (at(empty, "grid/keep/c/0/0"), "chunk_emptied", "keep/c/0/0"),
    "chunk flipped": (at(flip_middle, "grid/coords/c/0/0"), "chunk_altered", "coords/c/0/0"),
    "chunk of another grid": (at(flip_middle, "other/features/c/0/0"), "chunk_altered", "features/c/0/0"),
    "array's metadata": (at(flip_middle, "grid/features/zarr.json"), "chunk_altered", "features/zarr.json"),
    "group's metadata": (at(Path.unlink, "grid/zarr.json"), "chunk_missing", "zarr.json"),
    "list lost": (at(Path.unlink, "grid/manifest/zarr.json"), "grid_unreadable", "manifest/zarr.json"),
    "list cut": (at(cut, "grid/manifest/zarr.json"), "grid_unreadable", "manifest/zarr.json"),
    "list reworded": (at(lambda p: flip(p, 100), "grid/manifest/zarr.json"), "manifest_altered", "manifest/zarr.json"),
    "grid lost": (lambda out: shutil.rmtree(current(out)), "grid_missing", ".zarr"),
    "NaN where read": (with_nan, "rows_not_finite", ".zarr"),
    "numbers where failed": (with_unmarked, "rows_unmarked", ".zarr"),
    "unknown status": (with_status, "status_invalid", ".zarr"),
    "coordinates": (with_coords, "lattice_differs", ".zarr"),
    "older grid": (of_another_version, "grid_older", ".zarr"),
    "another slide's grid": (of_another_slide, "grid_foreign", ".zarr"),
    "renamed grid": (renamed, "grid_misnamed", "000000000000.zarr"),
    "record's count": (with_count, "record_differs", "a/slide.json"),
    "record's stain": (with_stain, "record_differs", "a/slide.json"),
    "record lost": (at(Path.unlink, "a/slide.json"), "record_missing", "a/slide.json"),
    "record cut": (at(cut, "a/slide.json"), "record_damaged", "a/slide.json"),
    "record flipped": (at(flip_middle, "a/slide.json"), "record_damaged", "a/slide.json"),
    "record of another slide": (swapped_record, "record_foreign", "a/slide.json"),
    "older record": (older_record, "record_older", "a/slide.json"),
    "folder lost": (lambda out: shutil.rmtree(out / "slides/a"), "record_missing", "a/slide.json"),
    "other settings": (with_other_settings, "settings_differ", ".zarr"),
    "settings cut": (lambda out: (out / "run.toml").write_text("[tile"), "config_unreadable", "run.toml"),
    "settings flipped": (at(lambda p: flip(p, p.stat().st_size * 8 - 80), "run.toml"), "config_altered", "run.toml"),
    "settings lost": (at(Path.unlink, "run.toml"), "config_missing", "run.toml"),
    "scores lost": (at(Path.unlink, "a/zeroshot.json"), "scores_missing", "zeroshot.json"),
    "scores flipped": (at(flip_middle, "a/zeroshot.json"), "scores_damaged", "zeroshot.json"),
    "thumbnail lost": (at(Path.unlink, "a/thumbnail.jpg"), "picture_missing", "thumbnail.jpg"),
    "thumbnail flipped": (at(flip_middle, "a/thumbnail.jpg"), "picture_altered", "thumbnail.jpg"),
    "overlay cut": (at(cut, "a/overlay.png"), "picture_altered", "overlay.png"),
    "outline lost": (at(Path.unlink, "a/tissue.geojson"), "tissue_missing", "tissue.geojson"),
    "outline cut": (at(cut, "a/tissue.geojson"), "tissue_unreadable", "tissue.geojson"),
    "map flipped": (at(flip_middle, "a/heatmaps/*.png"), "map_altered", ".png"),
    "map's values cut": (at(cut, "a/heatmaps/*.npy"), "map_altered", ".npy"),
    "map's label flipped": (at(flip_middle, "a/heatmaps/*.json"), "map_altered", ".json"),
    "map's label lost": (at(Path.unlink, "a/heatmaps/*.json"), "map_missing", ".json"),
    "layer flipped": (at(flip_middle, "a/heatmaps/zeroshot.geojson"), "map_altered", "zeroshot.geojson"),
    "layer lost": (at(Path.unlink, "a/heatmaps/zeroshot.geojson"), "map_missing", "zeroshot.geojson"),
    "tile's picture flipped": (at(flip_middle, "a/tiles/*.jpg"), "crop_altered", ".jpg"),
    "rows left": (staged, "leftover", ".partial"),
    "replaced grid left": (replaced, "leftover", ".old"),
    "temporary file left": (planted("slides/a/heatmaps/.tumour.png.4711.tmp"), "leftover", ".tmp"),
    "disk test left": (planted(".write-test"), "leftover", ".write-test"),
    "ledger flipped": (at(flip_middle, "ledger.jsonl"), "ledger_altered", "ledger.jsonl"),
    "ledger cut": (at(cut, "ledger.jsonl"), "ledger_altered", "ledger.jsonl"),
    "ledger lost": (at(Path.unlink, "ledger.jsonl"), "ledger_missing", "ledger.jsonl"),
    "table flipped": (at(flip_middle, "slides.csv"), "table_differs", "slides.csv"),
    "table lost": (at(Path.unlink, "zeroshot.csv"), "table_missing", "zeroshot.csv"),
    "head without weights": (planted("heads/mine/head.json"), "head_damaged", "heads/mine"),
    "report cut": (at(cut, "report.html"), "report_cut", "report.html"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_named_and_repaired_without_harm_to_what_is_sound(out: Path, name: str) -> None:
    harm, code, where = DAMAGE[name]
    sound = tree(out / "slides/b") | {f"other/{k}": v for k, v in tree(other(out)).items()}
    damaged_other, kept = other(out), name not in ("chunk of another grid", "folder lost")
    harm(out)
    found = found_in(out)
    mine = [f for f in found if f.code == code and str(f.path).endswith(where)]
    assert mine and mine[0].damage and mine[0].message and mine[0].remedy, [str(f) for f in found]
    mend = Repair(OutputFolder(out))
    for slide in ("a", "b", ""):
        mend.of([f for f in found if f.slide == slide])
    assert mend.refused == []
    left = found_in(out)
    again = [f for f in left if f.remove and f.code != "table_differs"]  # tables differ where a record went
    assert again == [], [str(f) for f in again]  # nothing is left that a run could trip over
    now = tree(out / "slides/b") | {f"other/{k}": v for k, v in tree(damaged_other).items() if kept}
    assert now == {k: v for k, v in sound.items() if kept or not k.startswith("other/")}


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda out: (out / "slides/a/tissue.geojson").write_text('{"type":"FeatureCollection"}'), "tissue_edited"),
        (planted("slides/a/features/x.txt"), None),
        (at(Path.unlink, "a/tiles/*.jpg"), "crop_missing"),
        (at(Path.unlink, "report.html"), "report_missing"),
        (lambda out: reseal(out / "slides/a/slide.json", lambda r: r["grids"].pop(other(out).name)), "grid_unlisted"),
        (lambda out: (current(out) / "notes.txt").write_text("mine"), "file_unknown"),
    ],
)
def test_what_is_only_worth_a_word_is_no_damage(out: Path, harm: Callable[[Path], None], code: str | None) -> None:
    harm(out)
    before = tree(out)
    found = found_in(out)
    assert [f.code for f in found] == ([code] if code else []) and not any(f.damage for f in found)
    Repair(OutputFolder(out)).of(found)
    assert tree(out) == before


def test_of_random_flipped_bits_all_are_found(out: Path) -> None:
    rng, files, missed = np.random.default_rng(5), artefacts(out), []
    assert len(files) > 60
    for path in [*files, *rng.choice(files, 200 - len(files))]:  # every file once at least
        bit = int(rng.integers(path.stat().st_size * 8))
        with restored(path):
            flip(path, bit)
            if not found_near(out, path):
                missed.append((path, bit))
    assert missed == [] and found_in(out) == []


def test_repair_and_the_same_run_give_the_bytes_of_an_undisturbed_run(slides: Path, out: Path) -> None:
    before = {s: tree(out / f"slides/{s}") for s in "ab"}
    for name in ("chunk cut", "overlay cut", "map flipped", "layer lost", "tile's picture flipped", "ledger cut"):
        DAMAGE[name][0](out)
    for part in ("record cut", "scores flipped", "thumbnail lost"):
        DAMAGE[part][0](out)
    shutil.rmtree(current(out, "b") / "keep")
    assert verifying.verify(out, slides=True, repair=True, as_json=False) == verifying.NOT_WHOLE
    assert {o.status for o in run(slides, out).values()} == {"done"}
    assert {f.code for f in found_in(out, slides=True)} == {"grid_unlisted"}  # of the record that went
    for slide, files in before.items():
        now = tree(out / f"slides/{slide}")
        alike = {
            k: v for k, v in files.items() if not k.endswith((".json", ".jpg", ".png")) or k.startswith("features")
        }
        assert {k: now[k] for k in alike} == alike
        assert set(now) == set(files)


def test_a_repair_that_is_killed_is_taken_up_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for harm in ("chunk cut", "replaced grid left", "thumbnail flipped"):
        DAMAGE[harm][0](out)
    whole = tree(other(out))
    unlink = Path.unlink
    for after in (0, 1, 2, 3):
        left = iter(range(after))

        def killed(path: Path, missing_ok: bool = False, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            unlink(path, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Repair(OutputFolder(out)).of(found_in(out))
        assert [f for f in found_in(out) if f.damage]
    monkeypatch.undo()
    Repair(OutputFolder(out)).of(found_in(out))
    assert {f.code for f in found_in(out)} == {"grid_missing", "picture_missing"}
    assert tree(other(out)) == whole


def test_nothing_is_followed_out_of_the_folder(out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    grid = current(out)
    grid.rename(tmp_path / "elsewhere" / grid.name)
    grid.symlink_to(tmp_path / "elsewhere" / grid.name)
    flip_middle(grid / "features/c/0/0")
    (current(out, "b") / "mine").mkdir()
    (current(out, "b") / "mine/list.csv").write_text("kept")
    (current(out, "b") / "coords/c/0/0").unlink()
    (current(out, "b") / "coords/c/0/0").symlink_to(tmp_path / "elsewhere" / "coords")
    outside = tree(tmp_path / "elsewhere")
    mend = Repair(OutputFolder(out))
    for slide in "ab":
        mend.of([f for f in found_in(out) if f.slide == slide])
    assert tree(tmp_path / "elsewhere") == outside and grid.is_symlink()
    there = out / "slides/b/features" / grid.name
    left = sorted(p.relative_to(there).as_posix() for p in there.rglob("*") if not p.is_dir())
    assert left == ["coords/c/0/0", "mine/list.csv"]
    assert len(mend.refused) == 3 and "is a link" in mend.refused[0]


def test_a_run_that_was_cut_off_is_told_and_goes_on(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: GridWriter) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(GridWriter, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(slides, tmp_path / "out")
    found = found_in(tmp_path / "out")
    assert [f.code for f in found if f.damage] == ["run_unfinished"] and found[0].slide == "a"
    Repair(OutputFolder(tmp_path / "out")).of(found)
    assert list((tmp_path / "out/slides/a/features").glob(".*/rows/*.rows"))  # work that is done is no rubbish
    run(slides, tmp_path / "out")
    assert found_in(tmp_path / "out") == []


def test_a_run_and_a_verify_keep_out_of_each_others_way(out: Path, slides: Path) -> None:
    folder = OutputFolder(out)
    with folder.alone(), pytest.raises(StorageError, match="a run is working"):
        verifying.verify(out, slides=False, repair=False, as_json=False)
    with folder.unchanging(), pytest.raises(StorageError, match="another run is working"):
        run(slides, out)


def test_the_command_tells_people_and_scripts(out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert verifying.verify(out, slides=False, repair=False, as_json=False) == 0
    assert "2 slides verified" in capsys.readouterr().out
    flip_middle(current(out) / "features/c/0/0")
    assert verifying.verify(out, slides=False, repair=False, as_json=True) == 3
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["slide"], told["code"], told["damage"], told["removed"]) == ("a", "chunk_altered", True, False)
    assert told["path"].startswith("slides/a/features/") and "run" in told["remedy"]
    assert verifying.verify(out, slides=False, repair=True, as_json=False) == 3
    said = capsys.readouterr().out
    assert (
        "a: not whole (chunk_altered)" in said and "to be encoded again: 1 slide;" in said and "run again: wsi" in said
    )
    with pytest.raises(UsageError, match="holds no run"):
        verifying.verify(tmp_path, slides=False, repair=False, as_json=False)


def test_a_slide_whose_bytes_changed_in_silence_is_told(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    slide, out = tmp_path / "in/a.svs", tmp_path / "out"
    slide.write_bytes((slides / "a.svs").read_bytes() + np.random.default_rng(1).bytes(PAD))
    assert run(tmp_path / "in", out)["a"].status == "done" and record_of(out).sha256 == {}
    assert run(tmp_path / "in", out, 'reader.hash="full"')["a"].status == "reused"
    assert list(record_of(out).sha256) == ["a.svs"] and found_in(out, slides=True) == []
    features, times = tree(out / "slides/a/features"), slide.stat()
    flip(slide, (slide.stat().st_size - 100_000) * 8)
    os.utime(slide, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(tmp_path / "in", out)["a"].status == "reused"  # samples and length are as they were
    (found,) = found_in(out, slides=True)
    assert (found.code, found.path, found.slide) == ("slide_changed", slide, "a") and "silent" in found.message
    for settings in ([], [OTHER]):  # whether or not its features are made already
        ended = run(tmp_path / "in", out, 'reader.hash="full"', *settings)["a"]
        assert (ended.status, ended.code) == ("refused", "slide_changed") and "a.svs" in ended.detail
    assert tree(out / "slides/a/features") == features
    flip(slide, (slide.stat().st_size - 100_000) * 8)
    assert run(tmp_path / "in", out, 'reader.hash="full"')["a"].status == "reused"
    slide.unlink()
    assert [f.code for f in found_in(out, slides=True)] == ["slide_missing"]
    slide.write_bytes((slides / "b.svs").read_bytes())
    assert [f.code for f in found_in(out, slides=True)] == ["slide_changed"]
    assert run(tmp_path / "in", out, 'reader.hash="full"')["a"].status == "done"
    assert found_in(out, slides=True) == []


def test_seals_hold_for_what_was_written_and_for_nothing_else() -> None:
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.effect_noise((40, 30), 50).convert("RGB").save(stream, "JPEG")
    jpeg = sealed_jpeg(stream.getvalue())
    assert np.array_equal(Image.open(BytesIO(jpeg)), Image.open(stream))
    line = sealed_json({"name": 'caf\xe9 \udce9 ", "seal": "', "p": 1e-7}).encode(errors="backslashreplace")
    assert json.loads(line)["name"] == 'caf\xe9 \udce9 ", "seal": "'
    samples = ((json_seal, line), (toml_seal, sealed_toml('a = "x"\n').encode()), (jpeg_seal, jpeg))
    for seal, data in samples:
        assert seal(data) is Seal.WHOLE
        flipped = bytearray(data)
        for bit in range(len(data) * 8):
            flipped[bit // 8] ^= 1 << bit % 8
            assert seal(bytes(flipped)) is not Seal.WHOLE
            flipped[bit // 8] ^= 1 << bit % 8
        assert all(seal(data[:n]) is not Seal.WHOLE for n in range(len(data) - 1))


def test_every_code_says_what_to_do() -> None:
    assert all(kind.remedy.endswith(".") for kind in KINDS.values())
