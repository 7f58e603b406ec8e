"""What opens, with what, and the one clear error for each thing that does not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from slides import FormulaReader, aperio_svs, hamamatsu_vms, noise, tiled_tiff

import wsi.identity
import wsi.opening
import wsi.tiff_index
from wsi import Region, Size, Slide, open_slide
from wsi.errors import (
    MppImplausible,
    SlideError,
    SlideImplausible,
    SlideMissing,
    SlideTruncated,
    SlideUnreadable,
    SlideUnsupported,
    UsageError,
)
from wsi.facts import SlideFacts
from wsi.limits import check_levels
from wsi.readers import companions
from wsi.readers.companions import files_of

ROOT = Path(__file__).resolve().parents[1]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, which may die."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


def tiff(*directories: dict[int, int], following: int | None = None) -> bytes:
    """A classic little-endian TIFF of nothing but directories of one number each, chained in order.

    `following` is where the last one says that the next is: 8 leads back to the first.
    """
    data, at = struct.pack("<2sHI", b"II", 42, 8), 8
    for number, tags in enumerate(directories):
        at += 2 + 12 * len(tags) + 4
        last = number == len(directories) - 1
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
        data += struct.pack("<H", len(tags)) + entries + struct.pack("<I", (following or 0) if last else at)
    return data


def page(width: int, height: int, tile: int = 256) -> dict[int, int]:
    return {256: width, 257: height, 258: 8, 259: 1, 262: 2, 277: 3, 322: tile, 323: tile, 324: 8, 325: 4}


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
@pytest.mark.parametrize("options", [{"compression": "jpeg"}, {"bigtiff": True}, {}], ids=["jpeg", "big", "plain"])
def test_a_copy_that_broke_off_is_called_so(percent: int, options: dict[str, object], tmp_path: Path) -> None:
    whole = aperio_svs(tmp_path / "whole.svs", noise(900, 1100), [noise(450, 550)], **options).read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: len(whole) * percent // 100])
    with pytest.raises(SlideTruncated, match="its index points to byte") as caught:
        open_slide(path)
    assert "copy it again" in caught.value.hint and str(path) in str(caught.value)


@pytest.mark.parametrize("bigtiff", [False, True], ids=["classic", "big"])
def test_a_copy_that_was_given_its_length_first_is_called_so(bigtiff: bool, tmp_path: Path) -> None:
    """Scanners write the index last: where a copy broke off in an allocated file, there are zeros in its place."""
    path = tiled_tiff(tmp_path / "a.tif", noise(900, 1100), [noise(450, 550)], bigtiff=bigtiff)
    second = index_of(path, 1)
    content = path.read_bytes()
    path.write_bytes(content[:second] + bytes(len(content) - second))
    with pytest.raises(SlideTruncated, match=rf"nothing at byte {second:,}, where its index points to.*copy it again"):
        open_slide(path)


def index_of(path: Path, page: int) -> int:
    """Where the directory of a page begins."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].offset


def test_big_endian_is_understood(tmp_path: Path) -> None:
    whole = tiled_tiff(tmp_path / "a.tif", noise(300, 300)).read_bytes()
    (tmp_path / "b.tif").write_bytes(struct.pack(">2sHI", b"MM", 42, 1 << 20) + whole[8:])
    with pytest.raises(SlideTruncated, match="points to byte 1,048,578"):
        open_slide(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(page(30_000, 30_000)), "900,000,000 pixels in"),
        (tiff(page(2**31, 2**31)), "2147483648 x 2147483648"),
        (tiff(page(65_535, 900)), "58,981,500 pixels in"),
        (tiff(page(16, 16, tile=2**20)), "tile or strip of 1048576 x 1048576"),
        (tiff(page(16, 16, tile=0)), "tile or strip of 0 x 0"),
        (tiff(page(257, 513)), "is made of 6 tiles or strips, of which its index names 1:"),
        (tiff(page(256, 256) | {277: 3, 284: 2}), "is made of 3 tiles or strips, of which its index names 1:"),
        (tiff(*[page(1, 1)] * 4_200), "more than 4096 pages"),
        (tiff(page(16, 16), page(8, 8), following=8), "leads in a circle"),
        (tiff(page(16, 16), page(8, 8), following=134), "leads in a circle"),
    ],
    ids=["30k", "2^31", "wide", "giant tile", "no tile", "left out", "planes", "pages", "circle", "itself"],
)
def test_bombs_are_refused_before_any_library_sees_them(
    content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsi.opening, "_open_with", lambda name, file: pytest.fail(f"{name} was called"))
    path = tmp_path / "bomb.tif"
    path.write_bytes(content)
    with pytest.raises(SlideImplausible, match=reason):
        open_slide(path)


def test_a_page_that_several_point_to_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Size] = []
    monkeypatch.setattr(wsi.tiff_index, "check_sizes", lambda path, sizes, n_bytes: seen.extend(sizes))
    second = 8 + 2 + 12 * 11 + 4  # where it begins, behind eleven entries
    path = tmp_path / "shared.tif"
    path.write_bytes(tiff(page(16, 16) | {330: second}, page(8, 8)))
    with open(path, "rb") as file:
        wsi.tiff_index.check_index(path, file, path.stat().st_size)
    assert seen == [Size(16, 16), Size(8, 8)]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([Size(100, 100)] * 65, "65 levels"),
        ([Size(100, 100), Size(100, 101)], "larger than its first"),
        ([Size(100, 0)], "100 x 0"),
        ([Size(2_000_001, 10)], "2000001 x 10"),
        ([Size(60_000, 60_000)], "3,600,000,000 pixels in 100,000 bytes"),
        ([], "0 levels"),
    ],
)
def test_implausible_pyramids(sizes: list[Size], reason: str) -> None:
    with pytest.raises(SlideImplausible, match=reason):
        check_levels(Path("a.mrxs"), sizes, 100_000)


def test_a_reader_that_declares_the_impossible_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\0" * 100)
    reader = FormulaReader((Size(60_000, 60_000),), lambda level, box: np.zeros((0, 0, 3), np.uint8), files=(path,))
    monkeypatch.setattr(wsi.opening, "_open_with", lambda name, file: reader)
    with pytest.raises(SlideImplausible):
        open_slide(path)
    assert reader.closed == 1


def test_a_reader_of_your_own_is_closed_when_the_slide_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FormulaReader((Size(10, 10),), lambda level, box: np.zeros((0, 0, 3), np.uint8))
    monkeypatch.setattr(wsi.opening, "_own_reader", lambda name: lambda path: reader)
    with pytest.raises(MppImplausible):
        open_slide(tmp_path / "a", reader="mine:own", mpp=250)
    assert reader.closed == 1


@pytest.mark.parametrize(
    ("name", "content", "kind", "sentence"),
    [
        ("empty.svs", b"", SlideTruncated, "empty.svs is empty"),
        (
            "page.svs",
            b"<html>404 Not Found</html>",
            SlideUnsupported,
            "is a text file, not a slide; it begins '<html>404",
        ),
        ("bytes.svs", bytes(range(256)), SlideUnsupported, "Unsupported or missing image file"),
        ("bytes.tif", b"II*\0" + bytes(4), SlideUnsupported, "openslide: .*; tiffslide: "),
        ("short.tif", b"II*\0", SlideTruncated, "ends at byte 4, but its index points to byte 8"),
        ("half.png", b"\x89PNG\r\n\x1a\n" + bytes(20), SlideUnsupported, "half.png cannot be opened"),
        ("half.jpg", b"\xff\xd8\xff\xe0" + bytes(20), SlideUnsupported, "half.jpg cannot be opened"),
        (
            "alone.mrxs",
            b"\xff\xd8\xff\xe0" + bytes(20),
            SlideMissing,
            r"its folder .*/alone is not there\. .* copy both",
        ),
    ],
)
def test_what_is_no_slide(name: str, content: bytes, kind: type[SlideError], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(kind, match=sentence) as caught:
        open_slide(path)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert caught.value.path == str(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "link.svs").symlink_to(tmp_path / "gone.svs")
    os.mkfifo(tmp_path / "pipe.svs")
    for name in ("gone.svs", "link.svs", "pipe.svs", "zero\0byte.svs", "gone/folder"):
        with pytest.raises(SlideMissing, match="cannot be read"):
            open_slide(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by a stub, since tests may run as a user who may read everything."""
    path = tiled_tiff(tmp_path / "a.tif", noise(300, 300))

    def refuse(file: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(wsi.opening, "_inspect", refuse)
    with pytest.raises(SlideMissing, match=r"a.tif cannot be read: Permission denied\."):
        open_slide(path)


def failing_open(name: str, number: int) -> Callable[..., object]:
    """The builtin `open`, but the file called `name` fails with this errno, as on storage that breaks down."""

    def attempt(file: Path, *arguments: object, **options: object) -> object:
        if Path(file).name == name:
            raise OSError(number, os.strerror(number), str(file))
        return open(file, *arguments, **options)  # type: ignore[call-overload]

    return attempt


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, SlideUnreadable),
        (errno.ESTALE, SlideUnreadable),
        (errno.EACCES, SlideMissing),
        (errno.ENOENT, SlideMissing),
    ],
    ids=errno.errorcode.get,
)
def test_storage_that_fails_later_is_the_slides_fault(
    number: int, kind: type[SlideError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiled_tiff(tmp_path / "a.tif", noise(300, 300))
    with open_slide(path) as slide:
        monkeypatch.setattr(wsi.identity, "open", failing_open("a.tif", number), raising=False)
        with pytest.raises(kind, match=rf"a\.tif cannot be read: {os.strerror(number)}\.") as caught:
            SlideFacts.of(slide)
    assert type(caught.value) is kind
    assert caught.value.path == str(path) and caught.value.hint


def test_storage_that_fails_at_the_first_byte_is_not_a_file_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiled_tiff(tmp_path / "a.tif", noise(300, 300))
    monkeypatch.setattr(wsi.opening, "open", failing_open("a.tif", errno.EIO), raising=False)
    with pytest.raises(SlideUnreadable, match="Input/output error.*copy it to a local disk"):
        open_slide(path)


def test_a_companion_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key file opens; only when all files of the slide are gathered one is found closed."""
    path = tmp_path / "a.vms"
    path.write_text("ImageFile=b.jpg\n")
    (tmp_path / "b.jpg").write_bytes(b"x")

    class Gathers(FormulaReader):
        @property
        def files(self) -> tuple[Path, ...]:
            return files_of(path)

        @files.setter
        def files(self, _: object) -> None: ...

    reader = Gathers((Size(10, 10),), lambda level, box: np.zeros((0, 0, 3), np.uint8))
    monkeypatch.setattr(wsi.opening, "_open_with", lambda name, file: reader)
    monkeypatch.setattr(companions, "open", failing_open("a.vms", errno.EACCES), raising=False)
    with pytest.raises(SlideMissing, match=r"a\.vms cannot be read: Permission denied"):
        open_slide(path)
    assert reader.closed == 1

    monkeypatch.undo()
    with Slide(path, reader) as slide:
        monkeypatch.setattr(wsi.identity, "open", failing_open("b.jpg", errno.EACCES), raising=False)
        with pytest.raises(SlideMissing, match=r"a\.vms cannot be read: .*b\.jpg: Permission denied") as caught:
            _ = slide.fingerprint
        assert caught.value.path == str(path)
        monkeypatch.setattr(companions, "open", failing_open("a.vms", errno.ESTALE), raising=False)
        with pytest.raises(SlideUnreadable, match=r"a\.vms cannot be read"):
            _ = slide.files


def test_mistaken_arguments(tmp_path: Path) -> None:
    path = tiled_tiff(tmp_path / "a.tif", noise(300, 300))
    with pytest.raises(UsageError, match="no reader 'bioformats'.*Choose from: auto, fast, openslide"):
        open_slide(path, reader="bioformats")
    for mpp in (0.0, -0.5, float("nan"), 250.0):
        with pytest.raises(MppImplausible, match="outside 0.05-20"):
            open_slide(path, mpp=mpp)
    with pytest.raises(SlideUnsupported):
        open_slide(path, reader="image")


def test_auto_takes_what_fits(tmp_path: Path) -> None:
    pixels = noise(300, 300)
    tiled_tiff(tmp_path / "a.tif", pixels)
    tiled_tiff(tmp_path / "b.tif", pixels, compression="webp")  # openslide knows the file, but not this codec
    for name in ("c.png", "d.jpg", "e.bmp", "f.svs"):
        Image.fromarray(pixels).save(tmp_path / name, format="PNG" if name == "f.svs" else None)
    readers = {"a.tif": "openslide", "b.tif": "tiffslide"}
    for name in ("a.tif", "b.tif", "c.png", "d.jpg", "e.bmp", "f.svs"):
        with open_slide(str(tmp_path / name)) as slide:
            assert slide.reader == readers.get(name, "image")


def test_a_picture_too_large_for_memory(tmp_path: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "large.png")
    Image.new("1", (10_000, 9_500)).save(tmp_path / "warned.png")
    for name in ("large.png", "warned.png"):
        with pytest.raises(SlideImplausible, match="decompression bomb"):
            open_slide(tmp_path / name)


def test_a_broken_picture_opens_and_refuses_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(noise(300, 300)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    with open_slide(tmp_path / "b.png") as slide, pytest.raises(SlideUnreadable, match="its picture"):
        slide.read(Region(0, 0, 300, 300))


def test_folders(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    with pytest.raises(SlideUnsupported, match="is a folder without DICOM files"):
        open_slide(tmp_path)
    slide, other = shared_data("slides/dicom_CMU-1-Small-Region"), shared_data("slides/camelyon_overview.dcm")
    shutil.copytree(slide, tmp_path / "two", copy_function=shutil.copyfile)
    (tmp_path / "two").chmod(0o755)
    shutil.copyfile(other, tmp_path / "two" / "other.dcm")
    with pytest.raises(SlideUnsupported, match="holds 2 DICOM series"):
        open_slide(tmp_path / "two")
    with open_slide(tmp_path / "two" / "other.dcm") as overview:
        assert overview.size == Size(1152, 700)
    assert files_of(tmp_path / "two" / "other.dcm") == (tmp_path / "two" / "other.dcm",)


def test_companions_count_as_the_slide(tmp_path: Path) -> None:
    """A changed tile file of an MRXS or VMS is a changed slide; a neighbour's file is not."""
    for name in ("a.mrxs", "a/Data0000.dat", "a/Slidedat.ini", "b/Data0000.dat", "c_1.jpg", "c_2.jpg", "d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=c_1.jpg\nMapFile=c_2.jpg\nOptimisation=../d.jpg\n"
    )

    def names(name: str) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in files_of(tmp_path / name)]

    assert names("a.mrxs") == ["a.mrxs", "a/Data0000.dat", "a/Slidedat.ini"]
    assert names("c.vms") == ["c.vms", "c_1.jpg", "c_2.jpg"]
    assert names("d.jpg") == ["d.jpg"]


@pytest.mark.parametrize("lost", ["image.jpg", "map.jpg", "macro.jpg"])
def test_a_slide_without_one_of_its_files_is_refused_by_name(lost: str, tmp_path: Path) -> None:
    path = hamamatsu_vms(tmp_path / "slide", noise(640, 800))
    with open_slide(path) as slide:
        assert slide.size == Size(800, 640) and lost in [file.name for file in slide.files]
        whole = slide.fingerprint
    content = (tmp_path / "slide" / lost).read_bytes()
    (tmp_path / "slide" / lost).unlink()
    with pytest.raises(SlideUnreadable, match=rf"a\.vms cannot be opened .*{lost}: No such file.* Copy it again"):
        open_slide(path)
    (tmp_path / "slide" / lost).write_bytes(content + b"\0")
    with open_slide(path) as slide:
        assert slide.fingerprint != whole


def test_fingerprint_tells_a_replaced_slide(tmp_path: Path) -> None:
    path = tiled_tiff(tmp_path / "a.tif", noise(300, 300))
    with open_slide(path) as slide:
        first = slide.fingerprint
    with open_slide(path) as slide:
        assert slide.fingerprint == first
    tiled_tiff(path, noise(300, 300, seed=1))
    with open_slide(path) as slide:
        assert slide.fingerprint != first


def test_associated_images_are_rgb(shared_data: Callable[[str], Path]) -> None:
    with open_slide(shared_data("slides/CMU-1-Small-Region.svs")) as slide:
        assert slide.associated_names == ("label", "macro", "thumbnail")
        assert slide.associated("macro").shape == (431, 1280, 3)


OPEN_AND_READ = """
import json, sys
from wsi import Region, open_slide
from wsi.errors import ToolkitError
try:
    with open_slide(sys.argv[1]) as slide:
        mean = float(slide.read(Region(0, 0, *slide.size)).mean())
        print(json.dumps({"reader": slide.reader, "source": slide.mpp_source, "mean": round(mean)}))
except ToolkitError as error:
    print(json.dumps({"code": error.code, "message": str(error)}))
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aborts_libopenslide.svs", "slide_truncated"),  # a tag's data lies far behind the end: never reaches openslide
        ("histolab_broken.svs", "slide_unsupported"),
        ("libtiff_segfault.tif", "slide_implausible"),
        ("openslidepy_unopenable.tiff", "slide_unreadable"),
        ("openslidepy_unreadable.svs", "slide_unreadable"),
        ("large_image_test_orient6.tif", "none"),
        ("openslidepy_boxes.tiff", "none"),
        ("openslidepy_small.svs", "openslide.mpp-x"),
        ("panimg_invalid_resolutions_tiff.tif", "none"),
    ],
)
def test_odd_files_never_end_the_process(name: str, expected: str, shared_data: Callable[[str], Path]) -> None:
    done = run(OPEN_AND_READ, str(shared_data(f"odd/{name}")))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.get("code", told.get("source")) == expected
    assert "Traceback" not in done.stderr


def test_importing_wsi_loads_no_imaging_library() -> None:
    heavy = ["cv2", "numpy", "openslide", "PIL", "tifffile", "tiffslide", "torch", "zarr"]
    done = run(f"import sys, wsi; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr
