"""Slides by URL: what a local file gives, few bytes for it, and one sentence for each thing that goes wrong."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pytest
import tifffile
from slide_server import SlideServer, serving
from slides import aperio_svs, noise, tiled_tiff

import wsi.remote
from features import FeatureGrid
from pipeline.config import load_config
from pipeline.crops import cut_crops
from pipeline.executor import SerialExecutor
from pipeline.ledger import Outcome
from pipeline.manifest import entries_from
from pipeline.output import OutputFolder
from pipeline.run import Run
from pipeline.synthetic import draw, recipe
from pipeline.tables import slide_rows
from tiling.supervised import ReaderConfig, ReaderProcess
from wsi import Region, open_slide
from wsi.errors import (
    ManifestError,
    ReaderTimeout,
    SlideError,
    SlideImplausible,
    SlideMissing,
    SlideTruncated,
    SlideUnreachable,
    SlideUnsupported,
    UsageError,
)
from wsi.location import RemoteFile
from wsi.remote import BLOCK, RemoteBytes
from wsi.svs import SvsSpec, write_svs

PIXELS = noise(1500, 1700)
SIGNED = "?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SlideServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsi.remote, "PAUSES_S", (0, 0))


@pytest.fixture
def svs(server: SlideServer) -> Path:
    """About 6 MB of noise."""
    return aperio_svs(server.folder / "a.svs", PIXELS, [PIXELS[::2, ::2]], compression="jpeg")


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_a_remote_slide_is_the_local_one(compression: str, server: SlideServer) -> None:
    """JPEG goes to `fast`, the other to tiffslide; openslide reads the local one."""
    path = aperio_svs(server.folder / "a.svs", PIXELS, [PIXELS[::2, ::2]], compression=compression)
    with open_slide(server.at("a.svs", SIGNED)) as remote, open_slide(path, reader="openslide") as local:
        assert remote.reader == ("fast" if compression == "jpeg" else "tiffslide")
        assert (remote.levels, remote.mpp, remote.bounds) == (local.levels, local.mpp, local.bounds)
        assert (remote.vendor, remote.objective_power) == ("aperio", 20)
        for region in (Region(0, 0, 1700, 1500), Region(333, 255, 301, 99), Region(-10, 1490, 50, 20)):
            np.testing.assert_array_equal(remote.read(region), local.read(region))
        np.testing.assert_array_equal(remote.thumbnail(850), local.thumbnail(850))
        np.testing.assert_array_equal(remote.associated("thumbnail"), local.associated("thumbnail"))


def test_four_threads_read_what_one_reads(svs: Path, server: SlideServer) -> None:
    held = tifffile.imread(svs)
    regions = [Region(x, y, 120, 120) for y in range(0, 1300, 130) for x in range(0, 1500, 170)]
    for reader in ("fast", "tiffslide"):
        with open_slide(server.at("a.svs"), reader=reader) as slide, ThreadPoolExecutor(4) as pool:
            for region, tile in zip(regions, pool.map(slide.read, regions), strict=True):
                np.testing.assert_array_equal(tile, held[region.y : region.bottom, region.x : region.right])


def test_looking_at_a_slide_fetches_little_of_it(svs: Path, server: SlideServer) -> None:
    with open_slide(server.at("a.svs")) as slide:
        assert slide.mpp == 0.5 and len(slide.fingerprint) == 64
    assert server.sent < svs.stat().st_size / 8
    assert server.sent <= 10 * BLOCK  # whatever its length: head, tail, three directories, and the two ends once more


def test_a_region_is_fetched_in_few_requests_and_once(svs: Path, server: SlideServer) -> None:
    with open_slide(server.at("a.svs")) as slide:
        before, asked = server.sent, len(server.asked)
        slide.read(Region(0, 0, 512, 512))  # four tiles of two rows
        assert len(server.asked) - asked <= 2
        assert server.sent - before < svs.stat().st_size / 2
        after = server.sent
        slide.read(Region(100, 100, 300, 300))
        assert server.sent == after


def test_any_file_system_of_fsspec_serves(svs: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.svs", svs.read_bytes())
    try:
        with open_slide("memory://bucket/a.svs") as remote, open_slide(svs) as local:
            np.testing.assert_array_equal(remote.read(Region(9, 9, 300, 300)), local.read(Region(9, 9, 300, 300)))
        with pytest.raises(SlideMissing, match="memory://bucket/b.svs cannot be read: there is no such file"):
            open_slide("memory://bucket/b.svs")
        with pytest.raises(SlideUnsupported, match="is a folder, and folders are not searched there"):
            open_slide("memory://bucket")
    finally:
        memory.store.clear()


def test_the_fingerprint_follows_the_file_and_not_its_key(svs: Path, server: SlideServer) -> None:
    def fingerprint(query: str = "") -> str:
        with open_slide(server.at("a.svs", query)) as slide:
            return slide.fingerprint

    first = fingerprint()
    assert fingerprint(SIGNED) == first
    server.etag = '"two"'
    assert fingerprint() != first
    server.etag = '"one"'
    aperio_svs(svs, noise(1500, 1700, seed=1), compression="jpeg")
    assert fingerprint() != first


def test_a_url_signed_for_get_is_not_asked_for_its_head(svs: Path, server: SlideServer) -> None:
    server.head = False
    with open_slide(server.at("a.svs", SIGNED)) as slide:
        assert slide.size.width == 1700


def refused(url: str, kind: type[SlideError], told: str, **options: str) -> SlideError:
    with pytest.raises(kind, match=told) as caught:
        open_slide(url, **options)
    assert type(caught.value) is kind and caught.value.hint and "SECRET" not in repr(caught.value.as_record())
    return caught.value


def test_each_refusal_of_a_server_is_a_sentence(svs: Path, server: SlideServer) -> None:
    url = server.at("a.svs", SIGNED)
    refused(server.at("gone.svs", SIGNED), SlideMissing, r"gone\.svs cannot be read: there is no such file")
    assert "only TIFF" in refused(server.at("dicom/", SIGNED), SlideMissing, "there is no such file").hint
    refused(server.at("a.ome.zarr", SIGNED), SlideUnsupported, "called .zarr, a folder, and over a network only TIFF")
    refused(server.at("a.zarr/", SIGNED), SlideUnsupported, "called .zarr, a folder, and over a network only TIFF")
    server.status["a.svs"] = 403
    denied = refused(url, SlideMissing, r"a\.svs may not be read: 403 Forbidden")
    assert "signed" in denied.hint
    server.status["a.svs"] = 503
    refused(url, SlideUnreachable, r"cannot be read: its server answers 503 Service Unavailable\. ")
    assert len([line for line in server.asked if line.startswith("HEAD") and "a.svs" in line]) == 1 + 3  # asked again
    server.status.clear()
    server.ranges = False
    server.asked.clear()
    refused(url, SlideUnsupported, "does not give parts of files.*Download the slide first")
    assert [line.split()[0] for line in server.asked] == ["HEAD", "GET"]  # the answer is let go at its first bytes
    server.ranges, server.length = True, False
    refused(url, SlideUnsupported, "does not give parts of files")


def test_no_server_at_all(server: SlideServer) -> None:
    with serving(server.folder) as gone:
        url = gone.at("a.svs", SIGNED)
    assert "try again" in refused(url, SlideUnreachable, r"a\.svs cannot be read").hint


def test_a_connection_that_breaks_is_asked_again_then_a_sentence(svs: Path, server: SlideServer) -> None:
    with open_slide(server.at("a.svs", SIGNED)) as slide, open_slide(svs) as local:
        broken = iter([True, True, False])
        server.drops = lambda name, start: next(broken)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 99, 99)), local.read(Region(0, 0, 99, 99)))
        server.drops = lambda name, start: True
        with pytest.raises(SlideUnreachable, match=r"a\.svs cannot be read") as caught:
            slide.read(Region(1400, 1200, 99, 99))
        assert "SECRET" not in str(caught.value)
        server.drops = lambda name, start: False
        assert slide.read(Region(1400, 1200, 99, 99)).shape == (99, 99, 3)


def test_a_network_that_fails_at_any_byte_of_opening_is_told(svs: Path, server: SlideServer) -> None:
    starts: list[int] = []
    server.drops = lambda name, start: starts.append(start) or False  # type: ignore[func-returns-value]
    open_slide(server.at("a.svs")).close()
    assert len(set(starts)) > 3
    for start in dict.fromkeys(starts):
        server.drops = lambda name, at, start=start: at == start  # type: ignore[misc]
        refused(server.at("a.svs"), SlideUnreachable, "cannot be read")


def test_a_network_that_fails_within_a_library_is_not_taken_for_an_odd_file(
    svs: Path, server: SlideServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tifffile catches all errors in a dozen places and goes on with what it has. Played by a stub."""

    def careless(file: BinaryIO) -> None:
        server.drops = lambda name, start: True
        with contextlib.suppress(Exception):
            file.seek(20 * BLOCK)
            file.read(10)
        raise ValueError("no series")

    monkeypatch.setattr("wsi.readers.tiffslide.TiffSlide", careless)
    refused(server.at("a.svs"), SlideUnreachable, r"a\.svs cannot be read")


@pytest.mark.parametrize(
    ("name", "content", "kind", "told"),
    [
        ("a.mrxs", b"\xff\xd8\xff\xe0" + bytes(600), SlideUnsupported, "no TIFF.*Download the slide first"),
        ("a.dcm", bytes(128) + b"DICM" + bytes(600), SlideUnsupported, "no TIFF.*Download the slide first"),
        ("a.svs", b"<html>Please log in</html>", SlideUnsupported, "is a text file.*<html>Please"),
        ("a.svs", b"", SlideTruncated, "is empty"),
        ("a.svs", b"II*\0" + (2**31).to_bytes(4, "little"), SlideTruncated, "its index points to byte"),
    ],
)
def test_what_is_no_slide(name: str, content: bytes, kind: type[SlideError], told: str, server: SlideServer) -> None:
    (server.folder / name).write_bytes(content)
    refused(server.at(name, SIGNED), kind, told)


def test_bombs_and_copies_that_broke_off_are_refused_from_afar(svs: Path, server: SlideServer) -> None:
    whole = svs.read_bytes()
    (server.folder / "cut.svs").write_bytes(whole[: len(whole) // 2])
    refused(server.at("cut.svs"), SlideTruncated, "its index points to byte")
    tiled_tiff(server.folder / "bomb.tif", noise(16, 16), tile=(16, 16))
    content = bytearray((server.folder / "bomb.tif").read_bytes())
    for tag in (b"\x00\x01", b"\x01\x01"):
        at = content.index(tag + b"\x03\x00") if tag + b"\x03\x00" in content else content.index(tag + b"\x04\x00")
        content[at + 2 : at + 12] = (
            (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (10**6).to_bytes(4, "little")
        )
    (server.folder / "bomb.tif").write_bytes(content)
    refused(server.at("bomb.tif"), SlideImplausible, "pixels in")


def test_readers_of_paths_say_so(svs: Path, server: SlideServer) -> None:
    for reader in ("openslide", "image", "omezarr"):
        refused(server.at("a.svs", SIGNED), SlideUnsupported, f"the reader {reader} takes local files", reader=reader)
    tiled_tiff(server.folder / "b.tif", PIXELS)
    refused(server.at("b.tif"), SlideUnsupported, "the fast reader cannot be exact", reader="fast")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://bucket/a.svs", "needs the package s3fs.*pip install s3fs"),
        ("gs://bucket/a.svs", "needs the package gcsfs.*pip install gcsfs"),
        ("https://host/a.svs?sig=SECRET", "needs the package aiohttp.*pip install aiohttp"),
        ("nosuch://host/a.svs?sig=SECRET", "nosuch"),
    ],
)
def test_a_missing_package_is_named(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("no such module")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    refused(url, SlideUnsupported, told)


def test_a_url_that_is_none_is_not_quoted() -> None:
    """fsspec's words for this one hold a part of the password."""
    refused("ftp://user:SEC/RET@host/a.svs", SlideUnsupported, "it is no sound URL")


def test_a_file_system_that_connects_when_it_is_made_may_fail_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr(wsi.remote, "PAUSES_S", ())
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    refused("ftp://host/a.svs", SlideUnreachable, "nobody listens")


def test_blocks_that_are_kept_are_bounded(server: SlideServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsi.remote, "KEPT_BLOCKS", 4)
    content = np.random.default_rng(0).bytes(10 * BLOCK + 7)
    (server.folder / "x").write_bytes(content)
    source = RemoteBytes(RemoteFile(server.at("x")))
    for offset, count in ((0, 10), (BLOCK - 1, 2), (3 * BLOCK, 5 * BLOCK), (10 * BLOCK, 100), (11 * BLOCK, 5), (5, 0)):
        assert source.pread(count, offset) == content[offset : offset + count]
        assert len(source._kept) <= 4
    with source.file() as view:
        assert view.seek(-3, 2) == len(content) - 3 and view.read() == content[-3:]


def test_manifests_and_ids_hold_no_secrets(tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text(
        "slide,id,mpp,seen at\n"
        f"https://host:81/cohort/a.svs{SIGNED},,0.5,https://host/viewer{SIGNED}\n"
        "s3://bucket/cohort/a.svs,,,\nhttps://u:SECRET@host/b.svs,mine,,\nfile:///x/c.svs,,,\n"
    )
    found = entries_from([table])
    assert "SECRET" not in repr(found) and found[0].labels == {"seen at": "https://host/viewer"}
    assert [str(e.path) for e in found] == [
        "https://host:81/cohort/a.svs",
        "s3://bucket/cohort/a.svs",
        "https://host/b.svs",
        "/x/c.svs",
    ]
    assert [e.id.rpartition("-")[0] or e.id for e in found][:3] == ["host_81__cohort__a", "bucket__cohort__a", "mine"]
    assert isinstance(found[0].path, RemoteFile) and found[0].path.url.endswith(SIGNED)
    table.write_text(f"slide\nhttps://host/a.svs{SIGNED}\nhttps://host/a.svs?sig=SECRET\n")
    with pytest.raises(ManifestError, match=r"https://host/a\.svs is listed 2 times") as caught:
        entries_from([table])
    assert "SECRET" not in str(caught.value)


def test_an_id_does_not_depend_on_what_else_is_in_the_run() -> None:
    one, two = "https://host/x.svs?id=1", "https://host/x.svs?id=2"
    apart = [entries_from([url])[0].id for url in (one, two)]
    assert apart == [entry.id for entry in entries_from([one, two])] and len(set(apart)) == 2
    assert entries_from([one, one])[0].id == apart[0]


def test_urls_that_only_secrets_tell_apart_are_not_taken_for_one() -> None:
    with pytest.raises(UsageError, match=r"https://host/x: is given by several URLs") as caught:
        entries_from(["https://host/x?key=a.svs", "https://host/x?key=SECRET.svs"])
    assert "SECRET" not in str(caught.value)


def test_a_server_that_says_nothing_meets_the_deadline(svs: Path, server: SlideServer) -> None:
    (server.folder / "slow.svs").write_bytes(svs.read_bytes())
    server.holds["slow.svs"] = threading.Event()
    with ReaderProcess(ReaderConfig()) as reader:
        assert reader.open(server.at("a.svs", SIGNED)).mpp == 0.5  # a process that has started; patience for that
        reader.config = ReaderConfig(timeout_s=1)
        with pytest.raises(ReaderTimeout, match=r"slow\.svs: the reader said nothing for 1 s") as caught:
            reader.open(RemoteFile(server.at("slow.svs", SIGNED)))
        assert "SECRET" not in str(caught.value)


def test_a_signed_slide_is_opened_again_as_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record leaves the signature out; pictures of tiles are cut while the run still has it."""
    opened: list[Any] = []
    facts = SimpleNamespace(path="https://host/a.svs", fingerprint="f" * 64)
    record: Any = SimpleNamespace(facts=facts, manifest_mpp=None, fallback_mpp=None)
    folder: Any = SimpleNamespace(path=Path("nowhere"), zeroshot=lambda: {"tiles_shown": {"top": [{"cell": 0}]}})
    grid: Any = SimpleNamespace(region=lambda cell: Region(0, 0, 9, 9))
    reader: Any = SimpleNamespace(open=lambda where, *_: opened.append(where) or SimpleNamespace(fingerprint=""))
    signed = RemoteFile("https://host/a.svs" + SIGNED)
    for where in (signed, None):
        with pytest.raises(SlideError, match="is not the file that the features were made from"):
            cut_crops(folder, record, grid, reader, where=where)
    assert opened[0] is signed and opened[1] == "https://host/a.svs"


class Silent:
    """A console that says nothing."""

    def slide_started(self, name: str, tiles: int) -> None: ...

    def tiles_done(self, count: int, share: float) -> None: ...

    def slide_ended(self, outcome: Outcome, counted: bool) -> None: ...


def test_a_batch_of_good_and_bad_urls(server: SlideServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the reader process: features are those of the local file, and no secret is left behind."""
    drawn = draw(recipe(11, "benign", width_um=900.0, height_um=900.0, mpp=0.5, pieces=1))
    write_svs(server.folder / "a.svs", drawn.pixels, SvsSpec(mpp=0.5))
    (server.folder / "denied.svs").write_bytes((server.folder / "a.svs").read_bytes())
    server.status["denied.svs"] = 403
    urls = [server.at(name, SIGNED) for name in ("denied.svs", "gone.svs", "a.svs")]
    monkeypatch.setattr("sys.argv", ["wsi", "run", *urls])
    config, out = load_config(None, ["encoder.name='colour'"]), OutputFolder(tmp_path / "out")

    def run(*slides: str) -> dict[str, str]:
        entries = tuple(entries_from(slides))
        return {o.slide_id: o.code or o.status for o in Run(entries, out, config).outcomes(SerialExecutor(), Silent())}

    denied, gone, remote = (entry.id for entry in entries_from(urls))
    told = {denied: "slide_missing", gone: "slide_missing", remote: "done", "a": "done"}
    assert run(*urls, str(server.folder / "a.svs")) == told
    one, other = (
        FeatureGrid.open(folder.features / folder.record()["current"]) for folder in (out.slide(remote), out.slide("a"))
    )
    assert len(one) > 10 and np.array_equal(one.features[:], other.features[:])
    assert np.array_equal(one.coords, other.coords)
    assert run(server.at("a.svs", "?X-Amz-Signature=SECRET2")) == {remote: "reused"}  # signed anew: the same slide
    server.status["a.svs"] = 503
    assert run(server.at("a.svs", SIGNED)) == {remote: "reused"}  # what is done stands while its server is away
    (row,) = [row for row in slide_rows(out) if row["id"] == remote]
    assert row["features"] and "The slide could not be checked" in row["warnings"]
    for path in out.path.rglob("*"):
        assert "SECRET" not in path.name and (path.is_dir() or b"SECRET" not in path.read_bytes())
    events = [json.loads(line) for line in out.ledger.read_text().splitlines()]
    assert events[0]["argv"] == ["run", *(server.at(name) for name in ("denied.svs", "gone.svs", "a.svs"))]
