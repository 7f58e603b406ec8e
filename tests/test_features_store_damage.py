"""Damage on the disk: flipped bits, files lost or cut. None of it may be read as features."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from features_samples import expected_features, flipped_bits, write_sample

from features.grid import FeatureGrid
from features.manifest import write_manifest
from features.store import SHARD_ROWS
from wsi.errors import ArtefactError, GridDamaged

ARRAYS = ("features", "coords", "keep", "tissue_fraction", "read_status")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("grids")
    return {
        "chunks": write_sample(folder / "chunks.zarr", 40),
        "shards": write_sample(folder / "shards.zarr", SHARD_ROWS + 10),
    }


@pytest.fixture(params=["chunks", "shards"])
def grid(samples: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(samples[request.param], tmp_path / "g.zarr"))


def some_bits(path: Path, count: int) -> list[int]:
    """Bits all over a file; its first and last byte whole."""
    total = path.stat().st_size * 8
    inner = np.random.default_rng(7).integers(0, total, count).tolist()
    return [*range(8), *inner, *range(total - 8, total)]


@pytest.mark.parametrize("name", ARRAYS)
def test_every_single_flipped_bit_in_a_chunk_is_caught_when_zarr_reads_it(grid: Path, name: str) -> None:
    array = zarr.open_array(grid / name, mode="r")
    chunks = [path for path in (grid / name / "c").rglob("*") if path.is_file()]
    for path in chunks:
        for bit in flipped_bits(path, iter(some_bits(path, 100))):
            with pytest.raises(ValueError, match="checksum"):
                print(bit, array[...])  # noqa: T201
    assert array[...].shape == array.shape


def test_a_flipped_bit_names_slide_grid_and_chunk(grid: Path) -> None:
    found = FeatureGrid.open(grid)
    chunk = grid / "features/c/0/0"
    for _ in flipped_bits(chunk, iter(some_bits(chunk, 30))):
        with pytest.raises(GridDamaged, match=r"g\.zarr.*features/c/0/0 is not as it was written"):
            found.features[:]
        assert len(FeatureGrid.open(grid).verify()) == 1
    assert found.verify() == []


@pytest.mark.parametrize("name", ["keep/c/0/0", "tissue_fraction/c/0", "read_status/c/0"])
def test_a_flipped_bit_in_a_small_array_is_caught_on_open(grid: Path, name: str) -> None:
    for _ in flipped_bits(grid / name, iter(some_bits(grid / name, 10))):
        with pytest.raises(GridDamaged, match=name):
            FeatureGrid.open(grid)


def test_a_flipped_bit_in_coords_is_found_by_verify(grid: Path) -> None:
    for _ in flipped_bits(grid / "coords/c/0/0", iter([77])):
        found = FeatureGrid.open(grid)
        assert found.verify() == ["s1: coords/c/0/0 is not as it was written (its SHA-256 differs)."]


@pytest.mark.parametrize("name", ["zarr.json", *(f"{array}/zarr.json" for array in ARRAYS)])
def test_a_flipped_bit_in_the_metadata_is_caught_on_open(grid: Path, name: str) -> None:
    for _ in flipped_bits(grid / name, iter(some_bits(grid / name, 40))):
        with pytest.raises(ArtefactError):
            FeatureGrid.open(grid)


def test_a_flipped_bit_in_the_list_of_files_is_caught_or_changes_nothing(tmp_path: Path) -> None:
    grid = write_sample(tmp_path / "g.zarr", 40)
    whole = FeatureGrid.open(grid).records
    caught = 0
    for _ in flipped_bits(grid / "manifest/zarr.json", iter(some_bits(grid / "manifest/zarr.json", 300))):
        try:
            found = FeatureGrid.open(grid)
        except GridDamaged:
            caught += 1
            continue
        faults = found.verify()
        caught += bool(faults)
        assert faults or found.records == whole
    assert caught > 150


def files_of(grid: Path) -> list[str]:
    return sorted(path.relative_to(grid).as_posix() for path in grid.rglob("*") if path.is_file())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [Path.unlink, empty, cut_last_byte])
def test_a_lost_emptied_or_cut_file_is_caught_on_open(grid: Path, damage: Callable[[Path], None]) -> None:
    for name in files_of(grid):
        path = grid / name
        whole = path.read_bytes()
        damage(path)
        with pytest.raises(GridDamaged) as found:
            FeatureGrid.open(grid)
        assert name in str(found.value)
        assert found.value.path == str(grid)
        path.write_bytes(whole)
    assert FeatureGrid.open(grid).verify() == []


def test_a_chunk_that_vanishes_under_an_open_grid_is_not_read_as_numbers(grid: Path) -> None:
    found = FeatureGrid.open(grid)
    (grid / "features/c/0/0").unlink()
    with pytest.raises(GridDamaged, match="features/c/0/0 is missing"):
        found.features[0:20]
    last = len(found) - 1
    chunk = f"features/c/{last // SHARD_ROWS}/0"
    (grid / chunk).unlink(missing_ok=True)
    with pytest.raises(GridDamaged, match=f"{chunk} is missing"):
        found.features[last]
    np.testing.assert_array_equal(found.features[13], expected_features(14)[13])  # an unreadable tile: NaN either way


@pytest.mark.parametrize(
    ("name", "rows"), [("keep", 41), ("features", 40), ("read_status", 40), ("tissue_fraction", 40)]
)
def test_a_grid_whose_rows_do_not_fit_its_lattice_is_refused(tmp_path: Path, name: str, rows: int) -> None:
    small, large = write_sample(tmp_path / "s.zarr", 40), write_sample(tmp_path / "l.zarr", 41)
    shutil.rmtree(small / name)
    shutil.copytree(large / name, small / name)
    shutil.rmtree(small / "manifest")
    write_manifest(small)
    with pytest.raises(GridDamaged, match=f"its arrays do not have the {rows} rows of its lattice"):
        FeatureGrid.open(small)
