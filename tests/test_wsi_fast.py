"""The fast reader: scaled decoding, colours, what it leaves to others, and streams that lie.

That its pixels are those of openslide and tiffslide is in test_wsi_readers.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from slides import aperio_svs, forget_tile, noise, tile_bytes, tiled_tiff

from wsi import Region, Size, open_slide
from wsi.errors import SlideUnreadable, SlideUnsupported
from wsi.readers.fast import FastReader
from wsi.svs import SvsSpec, write_svs

JPEG = {"compression": "jpeg"}


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Pixels as tissue has them: detail at every scale, little of it at the finest."""
    rng = np.random.default_rng(3)
    image = np.zeros((height, width, 3))
    for cell in (4, 16, 64):
        coarse = rng.normal(size=(height // cell + 2, width // cell + 2, 3))
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * cell**0.5
    return np.clip(150 + 12 * image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 x 1,503 px in tiles of 240, one level; sides that no reduction divides at the lower edge."""
    path = tmp_path_factory.mktemp("fast") / "slide.svs"
    write_svs(path, smooth(1503, 2000), SvsSpec(downsamples=(1,), quality=90))
    return path


def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The reductions that reads go through from now on."""
    seen: list[int] = []
    whole = FastReader.read_into

    def watched(self: FastReader, level: int, reduction: int, boxes: list[Region], rooms: list[Any]) -> None:
        seen.append(reduction)
        whole(self, level, reduction, boxes, rooms)

    monkeypatch.setattr(FastReader, "read_into", watched)
    return seen


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_scaled_decoding_is_close_to_the_mean_and_in_its_place(
    svs: Path, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = 32 * factor
    regions = [Region(x, y, span, span) for y in range(0, 1400, span) for x in range(0, 2000, span)]
    with open_slide(svs) as slide:
        exact, padded = slide.read_many(regions, Size(32, 32))
        seen = asked(monkeypatch)
        scaled, again = slide.read_many(regions, Size(32, 32), exact=False)
    assert seen == [factor] and (padded == again).all()
    difference = scaled.astype(float) - exact
    assert 0 < np.abs(difference).mean() < 3 and abs(difference.mean()) < 0.3
    # A shift by half a pixel would be several grey levels.
    moved = np.abs(scaled[:, :, 1:].astype(float) - exact[:, :, :-1]).mean()
    assert np.abs(difference).mean() < moved / 3


@pytest.mark.parametrize(
    ("region", "size", "factor"),
    [
        (Region(0, 0, 448, 448), 224, 2),
        (Region(2, 4, 448, 448), 224, 2),
        (Region(1, 0, 448, 448), 224, 1),  # not of whole blocks
        (Region(0, 0, 449, 449), 224, 1),
        (Region(0, 0, 444, 444), 224, 1),  # less than two pixels for each
        (Region(0, 0, 896, 896), 224, 4),
        (Region(2, 2, 896, 896), 224, 2),
        (Region(0, 0, 896, 896), 150, 4),
        (Region(-448, 8, 448, 448), 56, 8),  # outside
    ],
)
def test_decoding_is_scaled_only_by_whole_blocks(
    svs: Path, region: Region, size: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = asked(monkeypatch)
    with open_slide(svs) as slide:
        slide.read_many([region], Size(size, size), exact=False)
        assert set(seen) <= {factor} and (seen or region.x < 0)
        del seen[:]
        slide.read(region, Size(size, size))
        assert set(seen) <= {1}


def test_tiles_of_both_kinds_read_together_equal_tiles_read_alone(svs: Path) -> None:
    """At a stride of 225 every second tile begins in the middle of a block."""
    regions = [Region(x, y, 448, 448) for y in range(-225, 1500, 225) for x in range(-225, 2000, 225)]
    with open_slide(svs) as slide:
        together, _ = slide.read_many(regions, Size(224, 224), exact=False)
        for region, tile in zip(regions, together, strict=True):
            np.testing.assert_array_equal(slide.read_many([region], Size(224, 224), exact=False)[0][0], tile)


def test_an_overview_of_a_flat_slide_is_that_of_openslide(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(svs, reader="openslide") as slow:
        expected, px = slow.overview(8)
    seen = asked(monkeypatch)
    with open_slide(svs) as fast:
        found, same = fast.overview(8)
    assert set(seen) == {8} and (px, expected.shape) == (same, found.shape)
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() < 1.5


def test_colours_go_by_the_index_whatever_a_stream_says(tmp_path: Path) -> None:
    """JFIF's marker (YCbCr) in a page that says RGB, and the other way round: openslide goes by the page."""
    for photometric, marker in (("rgb", jfif), ("ycbcr", adobe_rgb)):
        path = tmp_path / f"{photometric}.svs"
        tiles_of_their_own(path, smooth(480, 480), photometric, marker)
        with open_slide(path) as fast, open_slide(path, reader="openslide") as slow:
            assert fast.reader == "fast"
            region = Region(0, 0, 480, 480)
            np.testing.assert_array_equal(fast.read(region), slow.read(region))


def jfif(stream: bytes) -> bytes:
    return stream  # as Pillow writes it


def adobe_rgb(stream: bytes) -> bytes:
    return stream[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + stream[20:]


def tiles_of_their_own(
    path: Path, pixels: NDArray[np.uint8], photometric: str, marked: Callable[[bytes], bytes]
) -> None:
    def stream(tile: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, "JPEG", quality=90, subsampling="4:4:4")
        return marked(buffer.getvalue())

    tiles = (stream(pixels[y : y + 240, x : x + 240]) for y in range(0, 480, 240) for x in range(0, 480, 240))
    description = "Aperio Image Library v12.0.0\r\n480x480 (240x240) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tiles, shape=(480, 480, 3), dtype=np.uint8, photometric="rgb", compression=7, subsampling=(1, 1),
            tile=(240, 240), description=description, metadata=None, software=False,
        )  # fmt: skip
        tiff.filehandle.flush()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(2 if photometric == "rgb" else 6)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"compression": "deflate"}, "compressed as DEFLATE"),
        ({"compression": "jpeg", "photometric": "minisblack"}, "not RGB"),
        ({"compression": "jpeg", "tile": (272, 272)}, ""),
        ({"compression": "jpeg", "planarconfig": "separate"}, "lie apart"),
    ],
)
def test_what_it_cannot_be_exact_about_it_leaves_and_says_why(
    tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    pixels = smooth(600, 700)
    path = tmp_path / "a.tif"
    given = {"photometric": "rgb", "tile": (256, 256), **options}
    shown = pixels[..., 0] if given["photometric"] == "minisblack" else pixels
    if given.get("planarconfig") == "separate":
        shown = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, shown, metadata=None, **given)
    with open_slide(path) as slide:
        assert (slide.reader == "fast", slide.reader_note == "") == (not why, not why)
        assert why in slide.reader_note
        assert slide.read(Region(0, 0, 50, 50)).shape == (50, 50, 3)
    if why:
        with pytest.raises(SlideUnsupported, match=f"the fast reader cannot be exact about it: .*{why}"):
            open_slide(path, reader="fast")


def test_tiles_left_out_are_white_in_a_plain_tiff_and_openslides_in_an_svs(tmp_path: Path) -> None:
    """openslide draws what Aperio left out from the level below; this reader does not try to."""
    pixels = smooth(700, 900)
    plain, svs = tiled_tiff(tmp_path / "a.tif", pixels, **JPEG), aperio_svs(tmp_path / "a.svs", pixels, **JPEG)
    forget_tile(plain, 5)
    forget_tile(svs, 5)
    with open_slide(plain) as slide:
        assert slide.reader == "fast" and (slide.read(Region(256, 256, 256, 256)) == 255).all()
    with open_slide(svs) as slide:
        assert slide.reader == "openslide" and "leaves tiles out" in slide.reader_note


def test_a_stream_of_another_size_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """The header of one tile says 60,000 x 60,000 px: 10 GB of colours, were it believed."""
    path = tiled_tiff(tmp_path / "a.tif", smooth(700, 900), **JPEG)
    offset, length = tile_bytes(path, 5)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0", offset, offset + length) + 5
    content[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    path.write_bytes(content)
    with open_slide(path) as slide:
        with pytest.raises(SlideUnreadable, match="tile 5 of level 0"):
            slide.read(Region(256, 256, 256, 256))
        assert slide.read(Region(0, 0, 256, 256)).std() > 5


@pytest.mark.parametrize("damage", ["cut", "no jpeg", "flipped"])
def test_a_tile_that_is_no_whole_jpeg_is_no_white_square(tmp_path: Path, damage: str) -> None:
    path = tiled_tiff(tmp_path / "a.tif", noise(700, 900), **JPEG)
    offset, length = tile_bytes(path, 5)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content[offset + length // 2 : offset + length] = bytes(length - length // 2)
    elif damage == "no jpeg":
        content[offset : offset + 2] = b"PK"
    else:
        content[offset + length // 3 : offset + length // 3 + 200] = b"\xff\xd8" * 100
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(SlideUnreadable, match="tile 5 of level 0"):
        slide.read(Region(256, 256, 256, 256))


def test_each_compressed_tile_of_a_block_is_decoded_once(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    whole = FastReader._decoded
    monkeypatch.setattr(
        FastReader, "_decoded", lambda self, key, room: decoded.append(key[2]) or whole(self, key, room)
    )
    with open_slide(svs) as slide:
        for x in range(0, 1792, 224):
            slide.read_many([Region(x, y, 224, 224) for y in range(0, 1344, 224)], Size(224, 224))
    assert len(decoded) == len(set(decoded)) == 6 * 8


def test_rooms_are_filled_where_they_are_and_what_lies_between_them_is_not_decoded(
    svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regions over corners of the slide and of its tiles, none, four, and with 4 tiles between; rooms of one array."""
    regions = [Region(x, y, 100, 100) for x, y in ((-30, -40), (200, 210), (1440, 220), (1950, 1450), (2000, 300))]
    with open_slide(svs, reader="openslide") as slow:
        expected, padded = slow.read_many(regions, Size(100, 100))
    decoded: set[int] = set()
    whole = FastReader._decoded
    monkeypatch.setattr(FastReader, "_decoded", lambda self, key, room: decoded.add(key[2]) or whole(self, key, room))
    with open_slide(svs) as slide:
        room = np.full((5, 100, 100, 3), 7, np.uint8)
        assert (slide.read_into(list(room), regions) == padded).all()
        np.testing.assert_array_equal(room, expected)
    assert decoded == {0, 1, 9, 10, 6, 15, 62}  # of 9 columns


def test_a_closed_slide_reads_nothing(svs: Path) -> None:
    with open_slide(svs) as slide:
        pass
    for size in (None, Size(50, 50)):  # straight, and resampled
        with pytest.raises(ValueError, match="is closed"):
            slide.read(Region(0, 0, 100, 100), size)


def test_decoded_tiles_are_kept_within_bounds(svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi.readers.fast.KEPT_BYTES", 5 * 240 * 240 * 3)
    with open_slide(svs) as slide:
        slide.read(Region(0, 0, 2000, 1503))
        reader = slide._reader
        assert isinstance(reader, FastReader)
        assert sum(tile.nbytes for tile in reader._kept.values()) == reader._kept_bytes == 5 * 240 * 240 * 3
