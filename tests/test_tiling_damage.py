"""Damaged slides in the reader process: what is lost is told, what is whole is as it was, and no slide does harm."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fuzzing import Laboratory, drawn_seeds, peak_mib, read_all, tissue
from numpy.typing import NDArray
from slides import damage_tile, forget_tile, tile_bytes, tiled_tiff

from features import encode_tiles, load_encoder
from tiling import TileSpec, TissueConfig, detect_tissue
from tiling.grid import READ_FAILED, TileGrid
from tiling.supervised import Preparation, ReaderConfig, ReaderProcess
from wsi import Region, open_slide
from wsi.errors import ReaderCrashed, ReaderMemory, SlideUnreadable
from wsi.svs import SvsSpec, write_svs

HERE = Path(__file__).parent
WANTED = Preparation(TissueConfig(), TileSpec(), thumbnail_px=128)  # drawn from the coarser level
READERS = ("fast", "openslide", "tiffslide")
TILE_PX, COLUMNS = 240, 4  # of the slide's own tiles


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 x 640 px at 0.5 um/px: 4 x 3 tiles of its own, 8 of ours."""
    path = tmp_path_factory.mktemp("whole") / "a.svs"
    write_svs(path, tissue(), SvsSpec(mpp=0.5, downsamples=(1, 4), tile_px=TILE_PX))
    return path


def features(path: Path, reader: str) -> tuple[TileGrid, NDArray[np.float32], NDArray[np.uint8]]:
    """The grid, and of its N tiles the features (N, 82) and status (N,)."""
    with ReaderProcess(ReaderConfig(name=reader, timeout_s=60)) as process:
        process.open(path)
        grid = process.prepare(WANTED).grid
        rows = list(encode_tiles(process.tiles(3), load_encoder("colour")))
    return grid, np.concatenate([r.features for r in rows]), np.concatenate([r.status for r in rows])


def touching(grid: TileGrid, *tiles: int) -> NDArray[np.bool_]:
    """Which tiles of the grid show anything of these of the slide's own."""
    own = [Region(tile % COLUMNS * TILE_PX, tile // COLUMNS * TILE_PX, TILE_PX, TILE_PX) for tile in tiles]
    return np.array([any(grid.region(int(cell)).intersection(box) for box in own) for cell in grid.cells])


@pytest.mark.parametrize("reader", READERS)
def test_a_corrupt_tile_costs_no_features_but_its_own(reader: str, svs: Path, tmp_path: Path) -> None:
    path = shutil.copy(svs, tmp_path / "b.svs")
    damage_tile(path, 5)
    _, sound, _ = features(svs, reader)
    grid, damaged, status = features(path, reader)
    lost = touching(grid, 5)
    assert 0 < lost.sum() < len(grid)
    assert np.array_equal(status == READ_FAILED, lost)
    assert np.isnan(damaged[lost]).all() and np.array_equal(damaged[~lost], sound[~lost])


@pytest.mark.parametrize("reader", READERS)
def test_zeros_at_the_end_cost_the_tiles_that_lie_there(reader: str, svs: Path, tmp_path: Path) -> None:
    path = shutil.copy(svs, tmp_path / "b.svs")
    begins = move_to_the_end(path, 10, 11)
    with open(path, "r+b") as f:
        f.truncate(begins)
        f.truncate(path.stat().st_size + 100_000)
    grid, _, status = features(path, reader)
    assert np.array_equal(status == READ_FAILED, touching(grid, 10, 11)) and 0 < (status == READ_FAILED).sum() < len(
        grid
    )
    with open_slide(path, reader=reader) as slide, pytest.raises(SlideUnreadable, match=r"level 0 at \(480, 480\)"):
        slide.read(Region(480, 480, 100, 100))


def move_to_the_end(path: Path, *tiles: int) -> int:
    """Lays the data of some tiles of the first level at the end of the file; where that begins."""
    begins = path.stat().st_size
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[0].tags["TileOffsets"]
        offsets = list(tag.value)
        for tile in tiles:
            at, length = tile_bytes(path, tile)
            with open(path, "r+b") as f:
                f.seek(at)
                data = f.read(length)
                offsets[tile] = f.seek(0, 2)
                f.write(data)
        tag.overwrite(offsets)
    return begins


@pytest.mark.parametrize(("reader", "compression"), [("fast", "jpeg"), ("openslide", "jpeg"), ("tiffslide", "deflate")])
def test_tiles_that_were_never_scanned_are_no_tissue(reader: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiled_tiff(path, np.tile(tissue(), (2, 2, 1)), compression=compression, resolution=(20_000, 20_000))
    hole = [(row * 7 + column) for row in (1, 2, 3) for column in (2, 3, 4)]  # of 7 columns of 256 px
    with open_slide(path, reader=reader) as slide:
        before = detect_tissue(slide)
    for tile in hole:
        forget_tile(path, tile)
    with open_slide(path, reader=reader) as slide:
        after = detect_tissue(slide)
        assert slide.read(Region(2 * 256, 256, 768, 768)).min() == 255
    inner = slice(int(300 / after.px), int(980 / after.px)), slice(int(560 / after.px), int(1230 / after.px))
    assert before.inside[inner].mean() > 0.5 and not after.inside[inner].any()


def test_a_file_that_makes_libopenslide_abort_is_one_refused_slide(
    shared_data: Callable[[str], Path], svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is checked before the library sees the file; here it is not."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parent))))  # this checkout, too
    with ReaderProcess(ReaderConfig(name="evil_readers:unchecked", timeout_s=60)) as process:
        with pytest.raises((ReaderCrashed, ReaderMemory), match=r"aborts_libopenslide\.svs.*SIG(ABRT|TRAP)"):
            read_all(process, shared_data("odd/aborts_libopenslide.svs"))
        assert process.open(svs).width == 800


@pytest.mark.parametrize(("reader", "side"), [("fast", 30_000), ("openslide", 8_000)])
def test_a_slide_without_a_pyramid_is_read_in_bounded_memory(reader: str, side: int, tmp_path: Path) -> None:
    path = flat_tiff(tmp_path / "flat.tif", side)
    with ReaderProcess(ReaderConfig(name=reader, timeout_s=120)) as process:
        process.open(path)
        prepared = process.prepare(WANTED)
        assert prepared.thumbnail.shape == (128, 128, 3) and len(prepared.grid) == 0
        assert peak_mib(process) < 300  # decoded it is 2.7 GB; with alpha, 256 MB


def flat_tiff(path: Path, side: int) -> Path:
    """One level of `side` px in tiles of 512, all of one colour, and of the same bytes."""
    one = tiled_tiff(
        path.with_name("one.tif"), np.full((512, 512, 3), 243, np.uint8), tile=(512, 512), compression="jpeg"
    )
    at, length = tile_bytes(one, 0)
    with tifffile.TiffFile(one) as tiff:
        tables = tiff.pages[0].jpegtables
    tiles = iter([one.read_bytes()[at : at + length]] * (-(-side // 512)) ** 2)
    layout = {"shape": (side, side, 3), "dtype": np.uint8, "tile": (512, 512), "photometric": "rgb", "metadata": None}
    dots = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, tiles, compression="jpeg", jpegtables=tables, **layout, **dots)
    return path


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    folder = tmp_path_factory.mktemp("mutants")
    (folder / "drawn").mkdir()
    with Laboratory(folder / "laboratory", drawn_seeds(folder / "drawn")) as made:
        yield made


def test_mutants_of_every_kind_cost_at_most_themselves(laboratory: Laboratory) -> None:
    """The first of those that benchmarks/fuzz.py has ten thousand of."""
    names = list(laboratory.seeds)
    trials = [laboratory.trial(names[number % len(names)], number) for number in range(150)]
    for trial in trials:
        assert not trial.outcome.startswith("bug"), trial
        assert trial.seconds < 30 and trial.peak_mib < 1024 and not trial.strays, trial
    outcomes = Counter(trial.outcome for trial in trials)
    assert outcomes.keys() >= {"unchanged", "changed", "slide_truncated", "slide_unreadable", "slide_implausible"}
