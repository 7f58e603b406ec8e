"""`wsi tiles`: the images are the tiles, whole or not there, and no slide stops or escapes."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli import wsi
from drawings import box, collection, feature, written

from pipeline import ledger, tilejob
from pipeline.batch import Batch
from pipeline.commands import running, wishes
from pipeline.commands import tiles as command
from pipeline.config import RunConfig, load_config
from pipeline.console import RunConsole, open_console
from pipeline.executor import SerialExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import SlideEntry, entries_from
from pipeline.notes import UNCHECKED
from pipeline.output import OutputFolder
from pipeline.synthetic import draw, recipe
from pipeline.tileimages import FolderSink, ImageConfig, ImageSink, ZipSink
from pipeline.tilejob import TileTask, save_tiles
from pipeline.tissuefiles import with_tissue
from tiling import TileGrid, TileSpec, detect_tissue, read_tiles
from wsi import open_slide
from wsi.errors import NoSpace, UsageError
from wsi.svs import SvsSpec, write_svs

CONFIG = load_config()
PNG = ImageConfig("png")
NAME = re.compile(r"(.+)_x(-?\d+)_y(-?\d+)\.(jpg|png|webp)")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in ((51, "a"), (52, "b")):
        drawn = draw(recipe(seed, "benign", width_um=700.0, height_um=600.0, mpp=0.5, pieces=1, pen=None))
        write_svs(folder / f"{name}.svs", drawn.pixels, SvsSpec(mpp=0.5))
    return folder


def save(
    entries: list[SlideEntry], out: Path, images: ImageConfig = PNG, config: RunConfig = CONFIG
) -> dict[str, Outcome]:
    """As the command does it, in this process."""
    folder = OutputFolder(out)
    folder.prepare()
    tasks = [TileTask(entry, out, config, images) for entry in entries]
    watcher = RunConsole(open_console(), len(entries))
    outcomes = Batch(folder, tasks, save_tiles, command._write_table).outcomes(SerialExecutor(), watcher)
    return {o.slide_id: o for o in outcomes}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def tiles_of(path: Path) -> Iterator[tuple[tuple[int, int], float, np.ndarray]]:
    with open_slide(path) as slide:
        grid = TileGrid.over(slide, detect_tissue(slide), TileSpec())
        shares = iter(grid.tissue_fraction.tolist())
        for batch in read_tiles(slide, grid):
            for cell, pixels in zip(batch.cells.tolist(), batch.pixels, strict=True):
                region = grid.region(cell)
                yield (region.x, region.y), next(shares), pixels


def test_png_tiles_are_the_tiles_bit_for_bit_and_all_are_listed(slides: Path, tmp_path: Path) -> None:
    assert {i: o.status for i, o in save(entries_from([slides]), tmp_path).items()} == {"a": "done", "b": "done"}
    expected = list(tiles_of(slides / "a.svs"))
    with zipfile.ZipFile(tmp_path / "slides/a/a.zip") as packed:
        assert packed.testzip() is None
        assert {i.compress_type for i in packed.infolist()} == {zipfile.ZIP_STORED}
        names = packed.namelist()
        matches = [NAME.fullmatch(name) for name in names]
        places = [(m[1], int(m[2]), int(m[3])) for m in matches if m]
        assert places == [("a", x, y) for (x, y), _, _ in expected] and len(places) > 12
        for name, (_, _, pixels) in zip(names, expected, strict=True):
            assert np.array_equal(decoded(packed.read(name)), pixels)
    table = rows(tmp_path / "slides/a/a.csv")
    assert [r["file"] for r in table] == names and {r["size"] for r in table} == {"224"}
    assert {r["status"] for r in table} <= {"ok", "padded"}
    for row, ((x, y), share, _) in zip(table, expected, strict=True):
        assert (int(row["x"]), int(row["y"])) == (x, y) and float(row["tissue"]) == pytest.approx(share, rel=1e-5)
    drawn = json.loads((tmp_path / "slides/a/a.geojson").read_text())["features"]
    assert [f["geometry"]["coordinates"][0][0] for f in drawn] == [list(map(float, xy)) for xy, _, _ in expected]
    assert [r["status"] for r in rows(tmp_path / "slides.csv")] == ["done", "done"]


@pytest.mark.parametrize(("kind", "signature"), [("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_lossy_images_in_a_folder_look_like_the_tiles(
    kind: str, signature: bytes, slides: Path, tmp_path: Path
) -> None:
    save(entries_from([slides / "a.svs"]), tmp_path, ImageConfig(kind, "folder"))
    weights = []
    for quality in (90, 30):
        images = ImageConfig(kind, "folder", quality)
        for (x, y), _, pixels in list(tiles_of(slides / "a.svs"))[:5]:
            data = (tmp_path / "slides/a/a" / f"a_x{x}_y{y}.{kind}").read_bytes()
            assert data.startswith(signature)
            assert np.abs(decoded(data).astype(int) - pixels).mean() < 6
            weights.append((quality, len(images.encoded(pixels))))
    assert sum(w for q, w in weights if q == 30) < 0.6 * sum(w for q, w in weights if q == 90)
    listed = {r["file"] for r in rows(tmp_path / "slides/a/a.csv")}
    assert {p.name for p in (tmp_path / "slides/a/a").iterdir()} == listed


def test_without_save_there_are_coordinates_only(slides: Path, tmp_path: Path) -> None:
    ended = save(entries_from([slides / "a.svs"]), tmp_path, ImageConfig())
    assert sorted(p.name for p in (tmp_path / "slides/a").iterdir()) == ["a.csv", "a.geojson", "a.json"]
    table = rows(tmp_path / "slides/a/a.csv")
    assert list(table[0]) == ["x", "y", "size", "tissue"] and len(table) == ended["a"].tiles > 12
    few = load_config(settings=["pictures.geojson_top=3"])
    ended = save(entries_from([slides / "a.svs"]), tmp_path / "few", ImageConfig(), few)
    assert "No GeoJSON" in ended["a"].notes[-1] and not (tmp_path / "few/slides/a/a.geojson").exists()


def test_flags_are_listed_and_images_of_dropped_tiles_left_out(tmp_path: Path) -> None:
    pixels = draw(recipe(53, "benign", width_um=500.0, height_um=400.0, mpp=0.5, pieces=1, pen=None)).pixels
    pixels[:, :450] = cv2.GaussianBlur(pixels[:, :450], (0, 0), 6)
    write_svs(tmp_path / "half.svs", pixels, SvsSpec(mpp=0.5))
    looked_over = load_config(settings=["tile.quality=true"])
    images = ImageConfig("png", drop=("blur", "pen"))
    ended = save(entries_from([tmp_path / "half.svs"]), tmp_path / "images", images, looked_over)["half"]
    table = rows(tmp_path / "images/slides/half/half.csv")
    blurred = {(row["x"], row["y"]) for row in table if "blur" in row["flags"].split()}
    assert 0 < len(blurred) < len(table) and {int(x) < 450 for x, _ in blurred} == {True}
    with zipfile.ZipFile(tmp_path / "images/slides/half/half.zip") as packed:
        assert packed.namelist() == [row["file"] for row in table if row["file"]]
    assert {(row["x"], row["y"]) for row in table if not row["file"]} == blurred
    assert any(f"{len(blurred)} of {len(table)} tiles are dropped" in note for note in ended.notes)
    save(entries_from([tmp_path / "half.svs"]), tmp_path / "table", ImageConfig(), looked_over)
    plain = rows(tmp_path / "table/slides/half/half.csv")
    assert [row["flags"] for row in plain] == [row["flags"] for row in table] and "file" not in plain[0]
    assert not (tmp_path / "table/slides/half/half.zip").exists()


def test_finished_slides_stand_and_whatever_is_not_whole_is_made_again(slides: Path, tmp_path: Path) -> None:
    entries = entries_from([slides])
    save(entries, tmp_path)
    packed = tmp_path / "slides/a/a.zip"
    whole = packed.read_bytes()

    def ended() -> tuple[str, str]:
        outcomes = save(entries, tmp_path)
        return outcomes["a"].status, outcomes["b"].status

    assert ended() == ("reused", "reused")
    packed.write_bytes(whole[:-1])
    assert ended() == ("done", "reused") and packed.read_bytes() == whole
    (tmp_path / "slides/a/a.csv").unlink()
    assert ended() == ("done", "reused") and packed.read_bytes() == whole
    written(tmp_path / "slides/a/a.json", "{")
    assert ended() == ("done", "reused")
    assert {o.status for o in save(entries, tmp_path, PNG, load_config(settings=["tile.mpp=1"])).values()} == {"done"}


def test_a_slide_that_was_replaced_is_done_again(slides: Path, tmp_path: Path) -> None:
    slide = tmp_path / "in/a.svs"
    slide.parent.mkdir()
    slide.write_bytes((slides / "a.svs").read_bytes())
    first = save(entries_from([slide]), tmp_path / "out")["a"]
    slide.write_bytes((slides / "b.svs").read_bytes())
    second = save(entries_from([slide]), tmp_path / "out")["a"]
    assert (first.status, second.status) == ("done", "done")
    away = slide.rename(tmp_path / "away.svs")
    stood = save([replace(entry, path=slide) for entry in entries_from([away])], tmp_path / "out")
    assert stood["away"].code == "slide_missing"  # never done under this id
    stood = save([replace(entry, path=slide, id="a") for entry in entries_from([away])], tmp_path / "out")
    assert stood["a"].status == "reused" and stood["a"].notes[0].startswith(UNCHECKED)
    away.rename(slide)
    with zipfile.ZipFile(tmp_path / "out/slides/a/a.zip") as packed:
        (x, y), _, pixels = next(tiles_of(slide))
        assert np.array_equal(decoded(packed.read(f"a_x{x}_y{y}.png")), pixels)


@pytest.mark.parametrize("place", ["zip", "folder"])
def test_what_a_kill_leaves_is_never_taken_for_a_slide(place: str, slides: Path, tmp_path: Path) -> None:
    """A kill inside a slide leaves the aside; one after it leaves the images without a record."""
    entry, images = entries_from([slides / "a.svs"]), ImageConfig("png", place)
    save(entry, tmp_path / "whole", images)
    aside = tmp_path / "out/slides/a" / (".a.zip.tmp" if place == "zip" else ".a.tmp")
    written(aside if place == "zip" else aside / "a_x0_y0.png", b"half")
    assert save(entry, tmp_path / "out", images)["a"].status == "done"
    (tmp_path / "out/slides/a/a.json").unlink()
    assert save(entry, tmp_path / "out", images)["a"].status == "done"
    made, expected = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file() and p.suffix != ".json"}
                      for d in (tmp_path / "out/slides", tmp_path / "whole/slides"))  # fmt: skip
    assert made == expected


@pytest.mark.parametrize("kind", [ZipSink, FolderSink])
def test_a_full_disk_ends_the_batch_and_leaves_nothing_half(
    kind: type[ImageSink], slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageConfig("png", "zip" if kind is ZipSink else "folder")
    calls: list[str] = []

    def full(sink: ImageSink, name: str, data: bytes) -> None:
        calls.append(name)
        if len(calls) > 3:
            raise NoSpace("the disk is full.", hint="Free some space.")
        before(sink, name, data)  # type: ignore[arg-type]

    before = kind.add
    with monkeypatch.context() as patched:
        patched.setattr(kind, "add", full)
        with pytest.raises(NoSpace):
            save(entries_from([slides]), tmp_path, images)
    assert ledger.last_outcomes(tmp_path / "ledger.jsonl")["a"].status == "stopped"
    assert not (tmp_path / "slides").exists()
    assert save(entries_from([slides]), tmp_path, images)["b"].status == "done"


def test_unreadable_tiles_are_listed_and_refused_slides_stop_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for name in ("abort-1", "patchy-2", "bug-3", "calm-4"):
        written(tmp_path / "in" / f"{name}.svs", b"any")
    own = ['reader.name="evil_readers:chosen_by_name"', "reader.max_unreadable=0.05"]
    ended = save(entries_from([tmp_path / "in"]), tmp_path / "out", PNG, load_config(settings=own))
    assert {i: o.code or o.status for i, o in ended.items()} == {
        "abort-1": "reader_crashed",
        "patchy-2": "done",
        "bug-3": "bug",
        "calm-4": "done",
    }
    (lost,) = (r for r in rows(tmp_path / "out/slides/patchy-2/patchy-2.csv") if r["status"] == "unreadable")
    assert lost["file"] == "" and ended["patchy-2"].unreadable == 1
    assert "1 tile cannot be decoded" in " ".join(ended["patchy-2"].notes)
    with zipfile.ZipFile(tmp_path / "out/slides/patchy-2/patchy-2.zip") as packed:
        assert len(packed.namelist()) == ended["patchy-2"].tiles - 1
        assert not [n for n in packed.namelist() if f"_x{lost['x']}_y{lost['y']}." in n]
    strict = load_config(settings=[own[0], "reader.max_unreadable=0"])
    again = save(entries_from([tmp_path / "in/patchy-2.svs"]), tmp_path / "out", PNG, strict)
    assert again["patchy-2"].code == "slide_unreadable"


def test_no_name_escapes_the_folder(slides: Path, tmp_path: Path) -> None:
    ids = ["../../out", "/abs", "CON", "-rf", "<b>", "x" * 300, "slide.json", "a/../../b", ".hidden", "=cmd"]
    listed = "slide,id\n"
    for i, name in enumerate(ids):
        (tmp_path / f"{i}.svs").symlink_to(slides / "a.svs")
        listed += f'{i}.svs,"{name}"\n'
    written(tmp_path / "m.csv", listed)
    few = load_config(settings=["tile.min_tissue=0.999", "tile.mpp=1"])
    ended = save(entries_from([tmp_path / "m.csv"]), tmp_path / "deep/out", ImageConfig("jpg", "folder"), few)
    assert {o.status for o in ended.values()} == {"done"} and len(ended) == len(ids)
    assert {p.name for p in tmp_path.iterdir()} == {"m.csv", "deep", *(f"{i}.svs" for i in range(len(ids)))}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out"}
    for slide_id in ended:
        (inside,) = (p for p in (tmp_path / "deep/out/slides").iterdir() if p.name == slide_id)
        names = [p.name for p in (inside / slide_id).iterdir()]
        assert names and all((NAME.fullmatch(n) or ["", ""])[1] == slide_id for n in names)


def test_a_slide_without_tissue_has_an_empty_table(tmp_path: Path) -> None:
    write_svs(tmp_path / "blank.svs", np.full((600, 800, 3), 243, np.uint8), SvsSpec(mpp=0.5))
    ended = save(entries_from([tmp_path / "blank.svs"]), tmp_path / "out")
    assert ended["blank"].status == "no tissue" and rows(tmp_path / "out/slides/blank/blank.csv") == []
    assert zipfile.ZipFile(tmp_path / "out/slides/blank/blank.zip").namelist() == [] and ended["blank"].notes == ()


def test_a_slide_with_less_tissue_than_a_tile_says_so(slides: Path, tmp_path: Path) -> None:
    large = load_config(settings=["tile.size_px=20000"])
    ended = save(entries_from([slides / "a.svs"]), tmp_path, PNG, large)["a"]
    assert ended.status == "no tissue" and "no tile of 10,000 x 10,000 um" in ended.notes[-1]
    assert ended.notes[-1] in rows(tmp_path / "slides.csv")[0]["warnings"]


def test_a_drawing_around_glass_is_named_where_stains_cannot_be_told(tmp_path: Path) -> None:
    write_svs(tmp_path / "glass.svs", np.full((600, 800, 3), 243, np.uint8), SvsSpec(mpp=0.5))
    written(tmp_path / "edits/glass.geojson", collection(feature(box(0, 0, 600, 600))))
    entries, _ = with_tissue(entries_from([tmp_path / "glass.svs"]), tmp_path / "edits")
    ended = save(entries, tmp_path / "out", PNG, load_config(settings=["tile.stain=macenko"]))["glass"]
    assert ended.code == "stains_unfit" and " are needed." in ended.detail
    assert ended.hint.startswith("Its tiles are where glass.geojson has tissue: is it drawn around glass? Leave it out")


def test_large_tiles_go_in_small_batches(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tilejob, "_BATCH_BYTES", 2 * 3 * 224**2)
    assert save(entries_from([slides / "a.svs"]), tmp_path)["a"].status == "done"
    with zipfile.ZipFile(tmp_path / "slides/a/a.zip") as packed:
        assert len(packed.namelist()) == len(rows(tmp_path / "slides/a/a.csv"))


def test_the_command_line(slides: Path, tmp_path: Path) -> None:
    written(tmp_path / "edits/a.geojson", collection(feature(box(0, 0, 700, 1200))))
    written(tmp_path / "in/c.svs", "no slide")
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.svs").write_bytes((slides / f"{name}.svs").read_bytes())
    done = wsi("tiles", "in", "out", "--save", "jpg", "--tissue-from", "edits", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    for told in (
        "1 refused",
        "slide_unsupported",
        "1 of 3 slides as drawn; 1 detected, for want of a file: b.svs; 1 refused",
        "<id>.zip",
    ):
        assert told in done.stdout
    drawn = rows(tmp_path / "out/slides/a/a.csv")
    assert drawn and max(int(r["x"]) + 112 for r in drawn) <= 700
    assert {r["id"]: r["status"] for r in rows(tmp_path / "out/slides.csv")} == {
        "a": "done", "b": "done", "c": "refused"
    }  # fmt: skip
    with pytest.raises(UsageError, match="holds the tiles of a `wsi tiles`"):
        running.run(entries_from([tmp_path / "in"]), tmp_path / "out", CONFIG, SerialExecutor())


def test_a_folder_keeps_one_setting_and_may_gain_images(tmp_path: Path) -> None:
    def keep(images: ImageConfig, *settings: str) -> None:
        config = load_config(settings=settings)
        command._keep_settings(tmp_path / "tiles.toml", command.TilesConfig(config.tile, config.tissue, images))

    keep(ImageConfig())
    keep(ImageConfig("jpg"), "reader.threads=1")
    keep(ImageConfig("jpg"))
    for images, settings, told in (
        (ImageConfig(), [], "images.save: jpg -> not given"),
        (ImageConfig("jpg", "folder"), [], "images.place"),
        (ImageConfig("jpg"), ["tile.stride_px=100"], "tile.stride_px: not given -> 100"),
        (ImageConfig("jpg"), ["tissue.mpp=4.0"], "tissue.mpp"),
    ):
        with pytest.raises(UsageError, match=re.escape(told)):
            keep(images, *settings)
    for damaged in ("images = [", "[images]", "images = 3"):
        (tmp_path / "tiles.toml").write_text(damaged)
        with pytest.raises(UsageError, match="tells no more which tiles are here"):
            keep(ImageConfig())


def test_options_that_do_not_go_together_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Say which"):
        command.image_config(None, "zip", None, ())
    with pytest.raises(UsageError, match="Say which"):
        command.image_config(None, None, None, ("blur",))
    with pytest.raises(UsageError, match="no quality"):
        command.image_config("png", None, 90, ())
    with pytest.raises(UsageError, match="jpg, png, webp, not 'tiff'"):
        command.image_config("tiff", None, None, ())
    with pytest.raises(UsageError, match="a zip or a folder, not 'tar'"):
        command.image_config("jpg", "tar", None, ())
    assert command.image_config("webp", None, None, ("pen",)) == ImageConfig("webp", "zip", 90, ("pen",))


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (ImageConfig(), "{0}/a.csv"),
        (ImageConfig("jpg"), "{0}/a.zip"),
        (ImageConfig("jpg", "folder"), "{0}/a.csv, and images in {0}/a"),
    ],
)
def test_it_is_said_where_tiles_lie_if_there_are_any(
    images: ImageConfig, told: str, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = tmp_path / "a.svs"
    written(slide, "no slide")
    assert command.tiles(entries_from([slide]), tmp_path / "out", CONFIG, images, SerialExecutor()) == 4
    assert "tiles: " not in capsys.readouterr().out
    slide.write_bytes((slides / "a.svs").read_bytes())
    assert command.tiles(entries_from([slide]), tmp_path / "out", CONFIG, images, SerialExecutor()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].replace("<id>", "a") == f"tiles: {told.format(tmp_path / 'out/slides/a')}"


def test_results_go_to_no_url() -> None:
    given, out = command.apart(["https://host/a.svs", "https://host/b.svs?sig=SECRET"], None, None)
    with pytest.raises(UsageError, match="The output folder is a URL") as caught:
        wishes.check_apart(given, out)
    assert "SECRET" not in str(caught.value)


def test_where_the_tiles_go_is_never_guessed(tmp_path: Path) -> None:
    slide, other = written(tmp_path / "in/s.svs", "x"), written(tmp_path / "other/t.svs", "x")
    assert command.apart([slide, tmp_path / "new"], None, None) == ([slide], tmp_path / "new")
    assert command.apart([slide], tmp_path / "new", None) == ([slide], tmp_path / "new")
    assert command.apart([tmp_path / "new"], None, tmp_path / "m.csv") == ([], tmp_path / "new")
    for given, told in (([slide], "Where do the tiles go"), ([slide, other], "is a file")):
        with pytest.raises(UsageError, match=told):
            command.apart(given, None, None)
    with pytest.raises(UsageError, match="holds other things, t.svs among them"):
        command.apart([slide, other.parent], None, None)
    written(other.parent / "tiles.toml", "")
    assert command.apart([slide], other.parent, None) == ([slide], other.parent)
