"""OME-Zarr as slides: the same pixels in every layout, what was not scanned is white, the rest is refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from slides import aperio_svs, noise, ome_zarr

from features.header import FORMAT
from pipeline.manifest import entries_from
from wsi import Region, Size, open_slide
from wsi.errors import MppMissing, SlideError, SlideImplausible, SlideMissing, SlideUnreadable, SlideUnsupported
from wsi.files import count_bytes
from wsi.listing import find_slides
from wsi.ngff import read_multiscale

PIXELS = noise(300, 400)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("axes", ["yxc", "cyx", "czyx", "tczyx"])
def test_it_holds_what_a_tiff_of_the_same_pixels_holds(zarr_format: Any, axes: str, tmp_path: Path) -> None:
    """Written by plain zarr, against openslide on a TIFF."""
    levels = [PIXELS, PIXELS[::2, ::2]]
    folder = ome_zarr(tmp_path / "a.ome.zarr", levels, axes=axes, zarr_format=zarr_format, um=0.25)
    tiff = aperio_svs(tmp_path / "a.svs", PIXELS, levels[1:], mpp=0.25)
    with open_slide(folder) as slide, open_slide(tiff, reader="openslide") as other:
        assert (slide.reader, slide.vendor, slide.reader_note) == ("omezarr", "ome-zarr", "")
        assert (slide.levels, slide.bounds, slide.mpp) == (other.levels, other.bounds, other.mpp)
        assert slide.mpp_source == "ome-zarr.scale" and slide.files == (folder,)
        for region, size in ((Region(0, 0, 400, 300), None), (Region(-7, 33, 200, 100), Size(100, 50))):
            np.testing.assert_array_equal(slide.read(region, size), other.read(region, size))
        np.testing.assert_array_equal(slide.thumbnail(200), other.thumbnail(200))


def test_levels_of_any_ratio(tmp_path: Path) -> None:
    coarse = noise(43, 57, seed=1)  # 300 / 43 = 6.98, 400 / 57 = 7.02
    with open_slide(ome_zarr(tmp_path / "a.zarr", [PIXELS, coarse])) as slide:
        assert [level.size for level in slide.levels] == [Size(400, 300), Size(57, 43)]
        np.testing.assert_array_equal(slide.read(Region(0, 0, 400, 300), Size(57, 43)), coarse)


def test_sharded_and_packed(tmp_path: Path) -> None:
    folder = ome_zarr(tmp_path / "a.zarr", [PIXELS], axes="yxc", chunks=(64, 64), shards=(128, 192, 3))
    with open_slide(folder) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 400, 300)), PIXELS)


@pytest.mark.parametrize(
    ("um", "unit", "mpp"),
    [(0.25, "micrometer", 0.25), (250.0, "nanometer", 0.25), (0.00025, "millimeter", 0.25), (2500.0, "angstrom", 0.25)],
)
def test_units_of_length_are_converted(um: float, unit: str, mpp: float, tmp_path: Path) -> None:
    with open_slide(ome_zarr(tmp_path / "a.zarr", [PIXELS], um=um, unit=unit)) as slide:
        assert slide.mpp == pytest.approx(mpp, rel=1e-12)


def test_scales_of_level_and_image_multiply(tmp_path: Path) -> None:
    folder = ome_zarr(tmp_path / "a.zarr", [PIXELS], um=0.5)
    change(
        folder,
        lambda ome: ome["multiscales"][0].update(coordinateTransformations=[{"type": "scale", "scale": [1, 2, 2]}]),
    )
    assert read_multiscale(folder).um_per_px == (1.0, 1.0)


@pytest.mark.parametrize("options", [{"um": None}, {"unit": "pixel"}, {"unit": ""}])
def test_without_a_scale_in_a_unit_the_resolution_is_missing(options: dict[str, Any], tmp_path: Path) -> None:
    folder = ome_zarr(tmp_path / "a.zarr", [PIXELS], **options)
    with open_slide(folder) as slide, pytest.raises(MppMissing, match="--mpp"):
        _ = slide.mpp
    with open_slide(folder, mpp=0.5) as slide:
        assert slide.mpp == 0.5


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_is_not_there_is_white_however_it_is_asked_for(zarr_format: Any, tmp_path: Path) -> None:
    """Zarr gives the fill value, 0, which tissue detection would take for tissue."""
    folder = ome_zarr(tmp_path / "a.zarr", [PIXELS], chunks=(128, 96), zarr_format=zarr_format)
    (folder / ("0/0/1/2" if zarr_format == 2 else "0/c/0/1/2")).unlink()
    expected = PIXELS.copy()
    expected[128:256, 192:288] = 255
    with open_slide(folder) as slide:
        np.testing.assert_array_equal(slide.read(Region(0, 0, 400, 300)), expected)
        np.testing.assert_array_equal(slide.read(Region(180, 120, 30, 30)), expected[120:150, 180:210])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_one_channel_lacks_is_lost(zarr_format: Any, tmp_path: Path) -> None:
    """Each channel in chunks of its own, as most writers have it: zeros for red would be a blue-green tile."""
    folder = per_channel(tmp_path / "a.zarr", [PIXELS], zarr_format)
    (folder / ("0/0/1/2" if zarr_format == 2 else "0/c/0/1/2")).unlink()
    with open_slide(folder) as slide:
        with pytest.raises(SlideUnreadable, match=r"level 0 at \(192, 128\), 96 x 128 px .*a channel that others have"):
            slide.read(Region(200, 130, 20, 20))
        np.testing.assert_array_equal(slide.read(Region(0, 0, 192, 300)), PIXELS[:, :192])


def test_a_channel_of_stored_zeros_is_a_colour(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[..., 0] = 0
    with (
        zarr.config.set({"array.write_empty_chunks": True}),
        open_slide(per_channel(tmp_path / "a", [pixels])) as slide,
    ):
        np.testing.assert_array_equal(slide.read(Region(0, 0, 400, 300)), pixels)
        assert slide.warnings == ()


def test_a_chunk_that_no_channel_has_is_white_and_told(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[:128, :192] = 0  # two chunks, which zarr leaves out
    with open_slide(per_channel(tmp_path / "a.zarr", [pixels, pixels[::4, ::4]])) as slide:
        assert (slide.read(Region(0, 0, 192, 128)) == 255).all()
        assert slide.warnings == ("2 of 15 chunks of level 0 are not there: taken for never scanned, white.",)


def test_a_chunk_that_a_coarser_level_shows_is_lost(tmp_path: Path) -> None:
    """All channels in one file, which is gone; the overview still shows tissue there."""
    folder = ome_zarr(tmp_path / "a.zarr", [PIXELS, PIXELS[::4, ::4], PIXELS[::64, ::64]])
    (folder / "0/c/0/1/2").unlink()
    with open_slide(folder) as slide:
        with pytest.raises(SlideUnreadable, match="its chunk is not there"):
            slide.read(Region(200, 130, 20, 20))
        np.testing.assert_array_equal(slide.read(Region(0, 0, 192, 300)), PIXELS[:, :192])


def per_channel(folder: Path, levels: list[Any], zarr_format: Any = 3) -> Path:
    """As `ome_zarr`, each channel in chunks of its own."""
    return ome_zarr(folder, levels, zarr_format=zarr_format, channels_apart=True)


def test_black_inside_a_chunk_stays_black(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[10:60, 10:60] = 0
    with open_slide(ome_zarr(tmp_path / "a.zarr", [pixels])) as slide:
        np.testing.assert_array_equal(slide.read(Region(20, 20, 30, 30)), pixels[20:50, 20:50])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_chunk_costs_itself_only(damage: str, tmp_path: Path) -> None:
    """Zstd with its checksum, and zarr's own crc32c."""
    packed = [zarr.codecs.ZstdCodec(checksum=True), zarr.codecs.Crc32cCodec()]
    folder = ome_zarr(tmp_path / "a.zarr", [PIXELS], chunks=(128, 96), compressors=packed)
    chunk = folder / "0/c/0/1/2"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 4
    chunk.write_bytes({"flip": content, "cut": content[: len(content) // 2], "empty": b""}[damage])
    with open_slide(folder) as slide:
        for _ in range(2):
            with pytest.raises(SlideUnreadable, match=r"level 0 at \(200, 130\), 20 x 20 px") as caught:
                slide.read(Region(200, 130, 20, 20))
            assert caught.value.path == str(folder)
            np.testing.assert_array_equal(slide.read(Region(0, 0, 192, 128)), PIXELS[:128, :192])


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits the NGFF attributes of a Zarr v3 group in place."""
    found = json.loads((folder / "zarr.json").read_text())
    edit(found["attributes"]["ome"])
    (folder / "zarr.json").write_text(json.dumps(found))


def colours(*names: str) -> dict[str, Any]:
    return {"omero": {"channels": [{"label": f"dye {n}", "color": name} for n, name in enumerate(names)]}}


def test_what_is_no_brightfield_slide_is_refused_with_what_it_is(tmp_path: Path) -> None:
    def refused(name: str, told: str, kind: type[SlideError] = SlideUnsupported) -> None:
        with pytest.raises(kind, match=told) as caught:
            open_slide(tmp_path / name)
        assert type(caught.value) is kind and caught.value.hint

    ome_zarr(tmp_path / "deep.zarr", [PIXELS.astype(np.uint16)])
    refused("deep.zarr", "3 x uint16, not 3 channels of 8 bits")
    ome_zarr(tmp_path / "four.zarr", [noise(300, 400, 4)])
    refused("four.zarr", "4 x uint8")
    ome_zarr(tmp_path / "grey.zarr", [PIXELS[..., :1]])
    refused("grey.zarr", "1 x uint8")
    change(ome_zarr(tmp_path / "dyes.zarr", [PIXELS]), lambda ome: ome.update(colours("0000FF", "00FF00", "FF0000")))
    refused("dyes.zarr", "its channels are dye 0, dye 1, dye 2, not red, green and blue")
    zarr.create_array(tmp_path / "stack.zarr" / "0", shape=(3, 5, 64, 64), dtype="uint8", chunks=(3, 1, 64, 64))
    attributes = {"ome": {"multiscales": [{"axes": list("czyx"), "datasets": [{"path": "0"}]}]}}
    zarr.open_group(tmp_path / "stack.zarr", mode="a", attributes=attributes)
    refused("stack.zarr", r"it is a stack \(5 z\)")
    change(
        ome_zarr(tmp_path / "out.zarr", [PIXELS]), lambda ome: ome["multiscales"][0]["datasets"][0].update(path="../x")
    )
    refused("out.zarr", "lead out of its folder")
    change(ome_zarr(tmp_path / "short.zarr", [PIXELS]), lambda ome: ome["multiscales"][0].pop("datasets"))
    refused("short.zarr", "its `multiscales` lack 'datasets'")
    shutil.rmtree(ome_zarr(tmp_path / "gone.zarr", [PIXELS]) / "0")
    refused("gone.zarr", "its metadata cannot be decoded", SlideUnreadable)
    (ome_zarr(tmp_path / "torn.zarr", [PIXELS]) / "zarr.json").write_text('{"zarr_format": 3, "attr')
    refused("torn.zarr", r"its metadata cannot be decoded \(zarr.json is no JSON: ", SlideUnreadable)
    (ome_zarr(tmp_path / "half.zarr", [PIXELS]) / "0/zarr.json").write_text('{"zarr_format": 3, "attr')
    refused("half.zarr", "its metadata cannot be decoded", SlideUnreadable)
    zarr.create_group(tmp_path / "group.zarr")
    refused("group.zarr", "it is Zarr, but no OME-Zarr: there are no `multiscales` in its metadata")
    refused("stack.zarr/0", "without DICOM files, and no OME-Zarr")
    (tmp_path / "empty.zarr").mkdir()
    refused("empty.zarr", "it is empty")
    (tmp_path / "part.zarr/0").mkdir(parents=True)
    refused("part.zarr", r"the metadata of Zarr \(zarr.json or .zattrs\) are not there")
    shutil.move(tmp_path / "stack.zarr/0", tmp_path / "array.zarr")
    refused("array.zarr", "it is a single array of Zarr")


def test_readers_are_told_apart(tmp_path: Path) -> None:
    folder, tiff = ome_zarr(tmp_path / "a.zarr", [PIXELS]), aperio_svs(tmp_path / "a.svs", PIXELS)
    with pytest.raises(SlideUnsupported, match="it is an OME-Zarr, which the reader openslide does not know"):
        open_slide(folder, reader="openslide")
    with pytest.raises(SlideUnsupported, match="it is no OME-Zarr"):
        open_slide(tiff, reader="omezarr")
    with pytest.raises(SlideMissing):
        open_slide(tmp_path / "b.zarr", reader="omezarr")
    change(folder, lambda ome: ome.update(colours("FF0000", "00FF00", "0000FF")))
    with open_slide(folder, reader="omezarr") as slide:
        assert slide.reader == "omezarr"


def test_sizes_that_cannot_be_are_refused_before_a_pixel_is_read(tmp_path: Path) -> None:
    def declare(name: str, shape: list[int], chunk: list[int]) -> Path:
        folder = ome_zarr(tmp_path / name, [PIXELS])
        found = json.loads((folder / "0/zarr.json").read_text())
        found["shape"], found["chunk_grid"]["configuration"]["chunk_shape"] = shape, chunk
        (folder / "0/zarr.json").write_text(json.dumps(found))
        return folder

    with pytest.raises(SlideImplausible, match=r"1,000,000,000,000 pixels in \d{3},\d{3} bytes"):
        open_slide(declare("wide.zarr", [3, 10**6, 10**6], [3, 512, 512]))
    with pytest.raises(SlideImplausible, match="declares a chunk of 20000 x 20000 px"):
        open_slide(declare("chunk.zarr", [3, 20_000, 20_000], [3, 20_000, 20_000]))


def test_bytes_are_counted_as_far_as_they_are_asked_for(tmp_path: Path) -> None:
    for name, count in (("a/1", 10), ("a/b/2", 20), ("c", 5)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(count))
    assert count_bytes([tmp_path / "c", tmp_path / "a"], enough=1000) == 35
    assert count_bytes([tmp_path / "c", tmp_path / "gone"], enough=5) == 5


def test_what_bioformats2raw_writes_is_its_first_image(tmp_path: Path) -> None:
    """Images `0`, `1`, ... below a group that says so; the slide, then label and overview."""
    root = tmp_path / "a.zarr"
    zarr.create_group(root, zarr_format=2, attributes={"bioformats2raw.layout": 3})
    ome_zarr(root / "0", [PIXELS], zarr_format=2, axes="tczyx")
    ome_zarr(root / "1", [noise(50, 60)], zarr_format=2, axes="tczyx")
    (root / "OME").mkdir()
    (root / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    assert find_slides(tmp_path) == [root]
    with open_slide(root) as slide:
        assert (slide.size, slide.mpp) == (Size(400, 300), 0.5)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 400, 300)), PIXELS)


def test_a_folder_of_them_lists_each_once(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "deep" / "a.ome.zarr", [PIXELS], zarr_format=2)
    ome_zarr(tmp_path / "b.zarr", [PIXELS])
    ome_zarr(tmp_path / "plain" / "c", [PIXELS])  # no ending
    zarr.create_array(tmp_path / "features.zarr" / "x", shape=(4,), dtype="uint8")  # no image
    (tmp_path / "features.zarr" / "x" / "d.png").write_bytes(b"chunk")
    zarr.create_group(tmp_path / "grid.zarr", attributes={"format": FORMAT})  # features among slides
    (tmp_path / "void.zarr").mkdir()
    ome_zarr(tmp_path / "many.zarr" / "images" / "he", [PIXELS])  # a slide in a larger whole
    (tmp_path / "torn.zarr").mkdir()
    (tmp_path / "torn.zarr" / "zarr.json").write_text("{")  # refused by name later, not passed over
    (tmp_path / "deep.zarr").mkdir()
    (tmp_path / "deep.zarr" / ".zattrs").write_text("[" * 100_000)  # deeper than Python goes
    names = [path.relative_to(tmp_path).as_posix() for path in find_slides(tmp_path)]
    assert names == [
        "b.zarr", "deep/a.ome.zarr", "deep.zarr", "features.zarr", "many.zarr/images/he", "plain/c", "torn.zarr",
        "void.zarr",
    ]  # fmt: skip
    assert find_slides(tmp_path / "b.zarr") == [tmp_path / "b.zarr"]
    assert [entry.id for entry in entries_from([tmp_path / "b.zarr"])] == ["b"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_fingerprint_follows_metadata_and_chunks(zarr_format: Any, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        with open_slide(folder) as slide:
            return slide.fingerprint

    folder = ome_zarr(tmp_path / "one" / "a.zarr", [PIXELS], zarr_format=zarr_format, compressors=None)
    first = fingerprint(folder)
    shutil.copytree(folder, tmp_path / "two" / "a.zarr")
    assert fingerprint(tmp_path / "two" / "a.zarr") == first
    ome_zarr(tmp_path / "three" / "a.zarr", [255 - PIXELS], zarr_format=zarr_format, compressors=None)
    assert fingerprint(tmp_path / "three" / "a.zarr") != first  # equal names, equal lengths
    metadata = tmp_path / "two" / "a.zarr" / (".zattrs" if zarr_format == 2 else "zarr.json")
    metadata.write_text(metadata.read_text().replace("0.5", "0.4", 1))
    assert fingerprint(tmp_path / "two" / "a.zarr") != first
    next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.name == "0").unlink()
    assert fingerprint(folder) != first


def test_the_fingerprint_of_a_large_one_touches_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ome_zarr(tmp_path / "a.zarr", [np.full((600, 600, 3), 9, np.uint8)], chunks=(20, 20), compressors=None)
    assert sum(1 for path in folder.rglob("*") if path.is_file()) == 900 + 2
    asked: list[Path] = []
    stat = Path.stat
    with open_slide(folder) as slide:
        monkeypatch.setattr(Path, "stat", lambda self, **options: asked.append(self) or stat(self, **options))
        assert len(slide.fingerprint) == 64
    assert len(set(asked)) < 300  # 16 x 16, and the metadata
