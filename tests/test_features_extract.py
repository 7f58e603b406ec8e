"""Tiles to features: order, unreadable tiles, batches, and calls that were cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from features_samples import ENCODER, feature_rows, lattice, slide, tree

import features
from features import extraction
from features.extraction import encode_tiles, extract, whole_blocks
from features.header import grid_name
from features.spec import ROW_BLOCK
from features.writer import GridWriter, staged_beside
from tiling import TissueConfig, TissueMask
from tiling.grid import READ_FAILED, READ_OK, TileBatch, TileGrid, TileSpec
from wsi.errors import SlideUnreadable
from wsi.geometry import Region

SPEC = replace(ENCODER, name="place", dim=3)
TILES = 1500


class PlaceEncoder:
    """Mean colour, shifted by the row's place in its block: a rounding that depends on the block, made visible."""

    spec = SPEC
    logit_scale = 0.0

    def __init__(self) -> None:
        self.rows = 0

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        self.rows += len(pixels)
        place = np.arange(len(pixels)) % ROW_BLOCK
        return (pixels.mean(axis=(1, 2)) + place[:, None] / 64).astype(np.float32)


def pixels_of(cells: np.ndarray) -> np.ndarray:
    """Tiles of one colour, told by the cell."""
    return (
        np.stack([cells % 251, cells % 7, cells // 251], axis=1)
        .astype(np.uint8)[:, None, None]
        .repeat(2, 1)
        .repeat(2, 2)
    )


def tiles_of(grid: TileGrid, batch_size: int, *, start: int = 0) -> Iterator[TileBatch]:
    for first in range(start, len(grid), batch_size):
        cells = grid.cells[first : first + batch_size]
        status = np.where(cells % 101 == 3, READ_FAILED, READ_OK).astype(np.uint8)
        yield TileBatch(pixels_of(cells), cells, status, (cells % 16).astype(np.uint8))


def expected(grid: TileGrid) -> np.ndarray:
    cells = grid.cells
    colour = np.stack([cells % 251, cells % 7, cells // 251], axis=1)
    values = (colour + (np.arange(len(cells)) % ROW_BLOCK)[:, None] / 64).astype(np.float32)
    values[cells % 101 == 3] = np.nan
    return values


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A slide of 61 x 50 tiles, all tissue above its diagonal, whose reading is recorded."""
    reads: list[dict[str, int]] = []

    def detect(_: Any, config: TissueConfig) -> TissueMask:
        return TissueMask(found.tissue, 448.0)

    def read(_: Any, grid: TileGrid, batch_size: int, *, start: int = 0) -> Iterator[TileBatch]:
        reads.append({"batch_size": batch_size, "start": start})
        return tiles_of(grid, batch_size, start=start)

    monkeypatch.setattr(extraction, "detect_tissue", detect)
    monkeypatch.setattr(extraction, "read_tiles", read)
    found = slide(bounds=Region(0, 0, 61 * 448, 50 * 448))
    found.reads, found.tissue = reads, np.triu(np.ones((61, 61), bool))
    return found


def test_unreadable_tiles_become_nan_and_shift_nobody() -> None:
    grid = lattice(300)
    rows = list(encode_tiles(tiles_of(grid, 64), PlaceEncoder()))
    assert [len(batch) for batch in rows] == [64, 64, 64, 64, 44]
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in rows]), expected(grid))
    assert sum((batch.status == READ_FAILED).sum() for batch in rows) == (grid.cells % 101 == 3).sum() > 0
    assert np.concatenate([batch.flags for batch in rows]).tolist() == (grid.cells % 16).tolist()


def test_encoding_is_lazy_and_leaves_the_encoders_array_alone() -> None:
    encoder = PlaceEncoder()
    kept = np.ones((2, 3), np.float32)
    encoder.encode_images = lambda _: kept  # type: ignore[method-assign]
    endless = (
        TileBatch(np.zeros((2, 2, 2, 3), np.uint8), np.arange(2), np.array([0, 2], np.uint8), np.zeros(2, np.uint8))
        for _ in itertools.count()
    )
    rows = encode_tiles(endless, encoder)
    assert np.isnan(next(rows).features[1]).all()
    assert np.isfinite(next(rows).features[0]).all()
    assert (kept == 1).all()


def test_extract_gives_rows_in_grid_order_under_the_derived_name(scan: SimpleNamespace, tmp_path: Path) -> None:
    found = extract(scan, PlaceEncoder(), tmp_path)
    assert len(found) > TILES
    np.testing.assert_array_equal(np.asarray(found.features), expected(found.grid).astype(np.float16))
    assert found.path == tmp_path / grid_name(SPEC, TileSpec(), TissueConfig())
    assert found.header.slide_fingerprint == scan.fingerprint


@pytest.mark.parametrize("batch_size", [1, 33, 100, 4000])
def test_the_batch_size_changes_no_byte(scan: SimpleNamespace, tmp_path: Path, batch_size: int) -> None:
    extract(scan, PlaceEncoder(), tmp_path / "a.zarr")
    extract(scan, PlaceEncoder(), tmp_path / "b.zarr", batch_size=batch_size)
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")
    assert [read["batch_size"] % ROW_BLOCK for read in scan.reads] == [0, 0]


def test_whole_blocks_by_hand() -> None:
    assert [whole_blocks(size) for size in (0, 1, 32, 33, 64, 100)] == [32, 32, 32, 64, 64, 128]


def test_a_cut_call_is_continued_and_ends_with_the_same_bytes(
    scan: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tree(extract(scan, PlaceEncoder(), tmp_path / "whole.zarr").path)
    dest, read = tmp_path / "cut.zarr", extraction.read_tiles

    def cut(slide_: Any, grid: TileGrid, batch_size: int, *, start: int = 0) -> Iterator[TileBatch]:
        yield from itertools.islice(read(slide_, grid, batch_size, start=start), 20)
        raise SlideUnreadable("the cable was pulled")

    monkeypatch.setattr(extraction, "read_tiles", cut)
    with pytest.raises(SlideUnreadable):
        extract(scan, PlaceEncoder(), dest)
    assert not dest.exists()
    monkeypatch.setattr(extraction, "read_tiles", read)
    again = PlaceEncoder()
    found = extract(scan, again, dest)
    assert scan.reads[-1]["start"] == 1024
    assert again.rows == len(found) - 1024
    assert tree(dest) == whole


def test_a_finished_grid_is_used_again_until_something_differs(scan: SimpleNamespace, tmp_path: Path) -> None:
    dest = tmp_path / "g.zarr"
    first = extract(scan, PlaceEncoder(), dest)
    GridWriter(dest, first.header, first.grid).append(feature_rows(0, 1100, dim=3))  # as a killed run leaves it
    again = PlaceEncoder()
    assert tree(extract(scan, again, dest).path) == tree(dest)
    assert again.rows == 0
    assert staged_beside(dest) == []
    scan.fingerprint = "0" * 64
    assert extract(scan, again, dest).header.slide_fingerprint == "0" * 64
    assert again.rows == len(first)
    scan.tissue = scan.tissue.T  # the same config finds other tissue: an improved detector
    assert extract(scan, again, dest).grid.keep[49, 0]


@pytest.mark.parametrize("what_is_left", [None, b"", b"rows of another day"])
def test_a_damaged_grid_is_made_again(scan: SimpleNamespace, tmp_path: Path, what_is_left: bytes | None) -> None:
    dest = tmp_path / "g.zarr"
    whole = tree(extract(scan, PlaceEncoder(), dest).path)
    chunk = dest / "features/c/1/0"
    data = chunk.read_bytes()
    chunk.unlink()
    if what_is_left is not None:
        chunk.write_bytes(what_is_left and what_is_left + data[len(what_is_left) :])
    assert tree(extract(scan, PlaceEncoder(), dest).path) == whole


def test_the_package_offers_its_names_and_no_others() -> None:
    assert features.extract is extract
    assert features.FeatureGrid.open
    assert features.extract is extract  # still so once the modules are loaded
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        features.nonsense  # noqa: B018
