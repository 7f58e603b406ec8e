"""The reader process: what it gives equals reading in this process, and no slide takes it or us along."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import evil_readers
import numpy as np
import pytest

from tiling import TileGrid, TileSpec, TissueConfig, detect_tissue, read_tiles
from tiling.frames import Silence, receive, send
from tiling.grid import READ_FAILED
from tiling.supervised import Preparation, ReaderConfig, ReaderProcess
from wsi.errors import (
    MppTooCoarse,
    ReaderCrashed,
    ReaderMemory,
    ReaderTimeout,
    SetupError,
    SlideMissing,
    SlideUnreadable,
)
from wsi.slide import Slide

WANTED = Preparation(TissueConfig(), TileSpec())
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parent))))  # this checkout, too


@pytest.fixture
def reader() -> Iterator[ReaderProcess]:
    config = ReaderConfig(name="evil_readers:chosen_by_name", timeout_s=20, memory_gb=4)
    with ReaderProcess(config) as process:
        yield process


def slide(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"any")
    return path


def test_it_gives_what_reading_here_gives(reader: ReaderProcess, tmp_path: Path) -> None:
    path = slide(tmp_path, "calm.svs")
    facts = reader.open(path)
    prepared = reader.prepare(WANTED)
    batches = [(b.pixels.copy(), b.cells, b.status) for b in reader.tiles(batch_size=4)]

    here = Slide(path, evil_readers.Calm(path))
    grid = TileGrid.over(here, detect_tissue(here, WANTED.tissue), WANTED.tile)
    expected = list(read_tiles(here, grid, 4))
    assert (facts.mpp, facts.width, facts.fingerprint) == (0.5, 2000, here.fingerprint)
    assert np.array_equal(prepared.thumbnail, here.thumbnail(WANTED.thumbnail_px))
    assert np.array_equal(prepared.grid.keep, grid.keep) and len(grid) > 12
    assert np.array_equal(prepared.grid.tissue_fraction, grid.tissue_fraction)
    assert len(batches) == len(expected) > 3  # more batches than slots: slots are used again
    for (pixels, cells, status), there in zip(batches, expected, strict=True):
        assert np.array_equal(pixels, there.pixels)
        assert np.array_equal(cells, there.cells)
        assert np.array_equal(status, there.status)


def test_reading_can_start_in_the_middle(reader: ReaderProcess, tmp_path: Path) -> None:
    reader.open(slide(tmp_path, "calm.svs"))
    reader.prepare(WANTED)
    whole = [b.cells.tolist() for b in reader.tiles(4)]
    rest = [b.cells.tolist() for b in reader.tiles(4, start=8)]
    assert rest == whole[2:]


@pytest.mark.parametrize("library", ["opencv", "mmap", "thread", "glib"])
def test_no_library_words_for_too_little_memory_pass_for_a_bug(
    library: str, reader: ReaderProcess, tmp_path: Path
) -> None:
    reader.open(slide(tmp_path, f"starve-{library}.svs"))
    with pytest.raises(ReaderMemory, match=rf"starve-{library}\.svs.*Raise reader\.memory_gb"):
        reader.prepare(WANTED)
    assert reader.open(slide(tmp_path, "calm.svs")).width == 2000


@pytest.mark.parametrize("name", ["abort.svs", "tile.svs"])
def test_a_slide_that_aborts_is_one_refused_slide(reader: ReaderProcess, tmp_path: Path, name: str) -> None:
    def read_it() -> None:
        reader.open(slide(tmp_path, name))
        reader.prepare(WANTED)
        list(reader.tiles(4))

    with pytest.raises(ReaderCrashed, match="SIGABRT") as caught:
        read_it()
    assert name in str(caught.value)
    assert reader.open(slide(tmp_path, "calm.svs")).width == 2000


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are read from /proc")
def test_a_reader_that_dies_leaves_no_core(reader: ReaderProcess, tmp_path: Path) -> None:
    """One is as large as its memory, and lies in the working folder."""
    reader.open(slide(tmp_path, "calm.svs"))
    assert reader._process is not None
    limits = Path(f"/proc/{reader._process.pid}/limits").read_text().splitlines()
    assert next(line.split()[4:6] for line in limits if line.startswith("Max core file size")) == ["0", "0"]


def test_a_slide_that_hangs_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    config = ReaderConfig(name="evil_readers:chosen_by_name", timeout_s=3)
    with ReaderProcess(config) as reader:
        reader.open(slide(tmp_path, "sleep.svs"))
        started = time.monotonic()
        with pytest.raises(ReaderTimeout, match="sleep.svs.*3 s"):
            reader.prepare(WANTED)
        assert time.monotonic() - started < 3 + 5
        assert reader.open(slide(tmp_path, "calm.svs")).width == 2000


def test_a_slide_that_wants_too_much_memory_is_refused(reader: ReaderProcess, tmp_path: Path) -> None:
    reader.open(slide(tmp_path, "devour.svs"))
    with pytest.raises(ReaderMemory, match="devour.svs"):
        reader.prepare(WANTED)


def test_a_bad_tile_costs_that_tile(reader: ReaderProcess, tmp_path: Path) -> None:
    reader.open(slide(tmp_path, "patchy.svs"))
    grid = reader.prepare(WANTED).grid
    status = np.concatenate([b.status for b in reader.tiles(4)])
    assert (status == READ_FAILED).sum() == 1
    bad = grid.region(int(grid.cells[status == READ_FAILED][0]))
    assert bad.x <= 450 < bad.right and bad.y <= 450 < bad.bottom  # the one that holds the damaged point


def test_errors_of_the_slide_come_through_as_themselves(reader: ReaderProcess, tmp_path: Path) -> None:
    with ReaderProcess(ReaderConfig()) as plain, pytest.raises(SlideMissing):
        plain.open(tmp_path / "gone.svs")
    with pytest.raises(SlideUnreadable, match=r"unplugged\.svs cannot be read: Stale file handle"):
        reader.open(slide(tmp_path, "unplugged.svs"))
    reader.open(slide(tmp_path, "calm.svs"))
    with pytest.raises(MppTooCoarse, match="0.25"):
        reader.prepare(Preparation(TissueConfig(), TileSpec(mpp=0.25)))
    assert len(reader.prepare(WANTED).grid) > 0  # the slide is still open


def test_a_slip_in_the_resolution_refuses_the_slide_before_a_pixel_is_read(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    """An overview at 8 um would take 31,250 x 25,000 px: a mistaken call, if the slide were not too coarse anyway."""
    reader.open(slide(tmp_path, "coarse.svs"))
    with pytest.raises(MppTooCoarse, match=r"coarse\.svs: its finest pixels are 2\.5 um"):
        reader.prepare(WANTED)


def test_our_own_mistakes_come_with_their_traceback(reader: ReaderProcess, tmp_path: Path) -> None:
    reader.open(slide(tmp_path, "bug.svs"))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: ours"):
        reader.prepare(WANTED)


def test_a_consumer_that_stops_early_leaves_no_process(reader: ReaderProcess, tmp_path: Path) -> None:
    reader.open(slide(tmp_path, "calm.svs"))
    reader.prepare(WANTED)
    batches = reader.tiles(4)
    next(batches)
    process = reader._process
    batches.close()
    assert process is not None and process.poll() is not None
    assert reader.open(slide(tmp_path, "calm.svs")).width == 2000


@pytest.mark.parametrize("what", ["Popen", "TemporaryFile"])
def test_a_machine_that_cannot_start_a_reader_is_no_bug_and_loses_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    owner = {"Popen": subprocess, "TemporaryFile": tempfile}[what]
    with ReaderProcess(ReaderConfig(name="evil_readers:chosen_by_name")) as reader:
        gc.collect()  # files that others left to the collector would close in between
        open_before = len(list(Path("/proc/self/fd").iterdir()))
        with monkeypatch.context() as broken:
            broken.setattr(owner, what, refuse)
            with pytest.raises(SetupError, match="Resource temporarily unavailable"):
                reader.open(slide(tmp_path, "calm.svs"))
        assert len(list(Path("/proc/self/fd").iterdir())) == open_before
        assert reader.open(slide(tmp_path, "calm.svs")).width == 2000


def test_mpp_of_the_caller_serves_only_where_the_file_has_none(tmp_path: Path, reader: ReaderProcess) -> None:
    path = slide(tmp_path, "calm.svs")
    assert reader.open(path, mpp_if_missing=0.25).mpp == 0.5
    assert reader.open(path, mpp=0.25).mpp == 0.25


def test_frames_carry_arrays_of_any_kind_and_time_out() -> None:
    out, into = os.pipe()
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.zeros((0, 4), np.uint8), "c": np.array([True])}
    send(into, {"do": "x"}, arrays)
    header, got = receive(out, 1)
    assert header == {"do": "x"}
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype and np.array_equal(got[name], array)
    with pytest.raises(Silence):
        receive(out, 0.01)
    os.close(into)
    with pytest.raises(EOFError):
        receive(out, 1)
    os.close(out)


def test_an_overview_is_not_taken_for_a_slide_without_resolution(shared_data: Callable[[str], Path]) -> None:
    """28.97 um is what the file says of itself; the other's 0.00499 is nonsense, so the caller's figure serves."""
    with ReaderProcess(ReaderConfig()) as reader:
        overview = reader.open(shared_data("slides/camelyon_overview.dcm"), mpp_if_missing=0.5)
        nonsense = reader.open(shared_data("slides/CMU-1-Small-Region.jpeg.tiff"), mpp_if_missing=0.5)
    assert overview.known_mpp is None and "overview" in overview.mpp_problem["hint"]  # type: ignore[index]
    assert nonsense.mpp == 0.5
