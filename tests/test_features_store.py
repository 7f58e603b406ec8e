"""What a feature grid looks like on disk, and that it reads back as it was written."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from features_samples import (
    ENCODER,
    TISSUE,
    expected_features,
    feature_rows,
    fill,
    header,
    lattice,
    slide,
    tree,
    write_sample,
)

from features.grid import FeatureGrid
from features.header import grid_name
from features.store import SHARD_ROWS
from features.writer import FeatureRows, GridWriter, staged_beside, write_feature_grid
from tiling.grid import READ_FAILED, READ_OK
from wsi.errors import ArtefactError, GridDamaged, SlideError, UsageError

# -- read without zarr ------------------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, bit by bit as RFC 3720 defines it (polynomial 0x1EDC6F41, reflected)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def checked(chunk: bytes) -> bytes:
    """The payload of a chunk whose last four bytes are its crc32c, little-endian."""
    payload, stored = chunk[:-4], struct.unpack("<I", chunk[-4:])[0]
    assert crc32c(payload) == stored
    return payload


def test_the_oracle_gives_the_check_value_of_the_crc_catalogue() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_chunks_are_plain_little_endian_rows_and_a_crc(tmp_path: Path) -> None:
    dest = write_sample(tmp_path / "g.zarr", 1500)
    first, second = (checked((dest / f"features/c/{i}/0").read_bytes()) for i in (0, 1))
    raw = np.frombuffer(first + second, "<f2").reshape(2048, 8)
    np.testing.assert_array_equal(raw[:1500], expected_features(1500))
    assert np.isnan(raw[1500:]).all()
    grid = lattice(1500)
    small = {"coords/c/0/0": "<i8", "keep/c/0/0": "?", "tissue_fraction/c/0": "<f4", "read_status/c/0": "u1"}
    wanted = (grid.coords, grid.keep, grid.tissue_fraction, feature_rows(0, 1500).status)
    for (name, dtype), values in zip(small.items(), wanted, strict=True):
        np.testing.assert_array_equal(np.frombuffer(checked((dest / name).read_bytes()), dtype), values.ravel())


def test_flags_are_an_array_of_their_own_where_they_were_asked_for(tmp_path: Path) -> None:
    grid = lattice(1500, quality=True)
    writer = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    fill(writer, 1500)
    writer.commit()
    found = FeatureGrid.open(tmp_path / "g.zarr")
    assert found.quality is not None and found.quality.tolist() == feature_rows(0, 1500).flags.tolist()
    np.testing.assert_array_equal(np.asarray(found.features), expected_features(1500))
    raw = checked((tmp_path / "g.zarr/quality/c/0").read_bytes())
    assert list(raw) == feature_rows(0, 1500).flags.tolist()
    (tmp_path / "g.zarr/quality/c/0").unlink()
    with pytest.raises(GridDamaged, match="quality/c/0 is missing"):
        FeatureGrid.open(tmp_path / "g.zarr")
    silent = FeatureGrid.open(write_sample(tmp_path / "h.zarr", 60))
    assert silent.quality is None and not (tmp_path / "h.zarr/quality").exists()


def test_rows_without_flags_have_none(tmp_path: Path) -> None:
    grid = lattice(4, quality=True)
    rows = FeatureRows(np.ones((4, 8), np.float32), np.zeros(4, np.uint8))
    found = write_feature_grid(tmp_path / "g.zarr", slide(), grid, ENCODER, [rows])
    assert found.quality is not None and found.quality.tolist() == [0, 0, 0, 0]


def test_many_rows_are_sharded_and_each_inner_chunk_has_its_crc(tmp_path: Path) -> None:
    tiles = SHARD_ROWS + 1500
    dest = write_sample(tmp_path / "g.zarr", tiles)
    found = []
    for shard in (0, 1):
        data = (dest / f"features/c/{shard}/0").read_bytes()
        index = np.frombuffer(checked(data[-132:]), "<u8").reshape(8, 2)
        used = index[index[:, 0] != 2**64 - 1]
        assert len(used) == (8, 2)[shard]
        found += [checked(data[offset : offset + length]) for offset, length in used.tolist()]
        assert used[:, 1].sum() + 132 == len(data)  # not a byte outside the checksums
    raw = np.frombuffer(b"".join(found), "<f2").reshape(-1, 8)
    np.testing.assert_array_equal(raw[:tiles], expected_features(tiles))
    assert len(list((dest / "features/c").rglob("0"))) == 3  # two shards and the folder c/0


def test_chunks_of_nothing_but_zeros_are_files_too(tmp_path: Path) -> None:
    rows = FeatureRows(np.zeros((1500, 8), np.float32), np.zeros(1500, np.uint8))
    dest = write_feature_grid(tmp_path / "g.zarr", slide(), lattice(1500), ENCODER, [rows]).path
    assert (dest / "features/c/0/0").is_file()
    assert (dest / "read_status/c/0").is_file()
    failed = FeatureRows(rows.features, np.full(1500, READ_FAILED, np.uint8))
    dest = write_feature_grid(tmp_path / "h.zarr", slide(), lattice(1500), ENCODER, [failed]).path
    assert (dest / "features/c/0/0").is_file()


def test_attributes_carry_all_that_a_feature_depends_on(tmp_path: Path) -> None:
    dest = write_sample(tmp_path / "g.zarr", 5)
    attributes = json.loads((dest / "zarr.json").read_text())["attributes"]
    assert attributes["format"] == "feature-grid"
    assert attributes["version"] == 1
    assert attributes["slide_id"] == "s1"
    assert attributes["slide_fingerprint"] == "f" * 64
    assert (attributes["slide_mpp"], attributes["slide_mpp_source"], attributes["reader"]) == (
        0.25,
        "tiff",
        "openslide",
    )
    assert (attributes["origin"], attributes["span_px"], attributes["stride_px"]) == ([16, 32], 448, 448)
    assert attributes["tile_spec"]["mpp"] == 0.5
    assert attributes["tissue_config"] == TISSUE
    assert attributes["encoder_spec"]["weights_sha256"] == "ab" * 32
    assert attributes["toolkit_version"]


def test_plain_zarr_opens_a_grid_without_a_warning(tmp_path: Path) -> None:
    dest = write_sample(tmp_path / "g.zarr", 1100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(dest, mode="r")
        assert sorted(group.keys()) == ["coords", "features", "keep", "manifest", "read_status", "tissue_fraction"]
        np.testing.assert_array_equal(group["features"][:], expected_features(1100))
    assert group["features"].chunks[0] == 1024


# -- read with FeatureGrid --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiles", [1, 1023, 1024, 1025, SHARD_ROWS, SHARD_ROWS + 1])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_written_is_read(tmp_path: Path, tiles: int, dtype: str) -> None:
    found = FeatureGrid.open(write_sample(tmp_path / "g.zarr", tiles, dtype=dtype))
    grid = lattice(tiles)
    assert (len(found), found.features.shape, found.features.dtype) == (tiles, (tiles, 8), np.dtype(dtype))
    np.testing.assert_array_equal(np.asarray(found.features), expected_features(tiles, dtype))
    np.testing.assert_array_equal(found.coords, grid.coords)
    np.testing.assert_array_equal(found.grid.keep, grid.keep)
    np.testing.assert_array_equal(found.tissue_fraction, grid.tissue_fraction)
    np.testing.assert_array_equal(found.read_status, feature_rows(0, tiles).status)
    assert (found.slide_id, found.encoder, found.tile_spec) == ("s1", ENCODER, grid.spec)
    assert found.grid.region(int(grid.cells[0])) == grid.region(int(grid.cells[0]))
    assert found.header == header(grid, dtype=dtype)
    assert found.verify() == []


def test_a_slide_without_tissue_is_a_grid_of_no_rows(tmp_path: Path) -> None:
    grid = lattice(30)
    grid.keep[:] = False
    empty = type(grid)(grid.spec, grid.origin, 448, 448, grid.keep, grid.tissue_fraction[:0])
    found = write_feature_grid(tmp_path / "g.zarr", slide(), empty, ENCODER, [])
    assert len(found) == 0
    assert np.asarray(found.features).shape == (0, 8)
    assert found.coords.shape == (0, 2)
    assert found.to_dense().shape == (*grid.keep.shape, 8)
    assert found.verify() == []


@pytest.mark.parametrize(
    "key",
    [
        5,
        -1,
        slice(1000, 1100),
        slice(None, None, 7),
        slice(None, None, -1),
        [3, 1, 3, 1099],
        np.array([-1, 0]),
        np.arange(1100) % 3 == 0,
        np.array([[0, 1], [2, 1050]]),
        [],
        slice(5, 5),
        (slice(0, 4), slice(2, 6)),
        (3, 2),
        (Ellipsis, 1),
    ],
    ids=str,
)
def test_lazy_features_index_like_numpy(tmp_path: Path, key: Any) -> None:
    found = FeatureGrid.open(write_sample(tmp_path / "g.zarr", 1100)).features
    np.testing.assert_array_equal(found[key], expected_features(1100)[key])


def test_lazy_features_refuse_a_row_beyond_the_end_and_a_view(tmp_path: Path) -> None:
    found = FeatureGrid.open(write_sample(tmp_path / "g.zarr", 10)).features
    with pytest.raises(IndexError):
        found[10]
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(found, copy=False)
    assert np.asarray(found, dtype=np.float64).dtype == np.float64


def test_dense_puts_each_row_at_its_cell(tmp_path: Path) -> None:
    found = FeatureGrid.open(write_sample(tmp_path / "g.zarr", 300))
    dense, rows, keep = found.to_dense(), expected_features(300), lattice(300).keep
    assert dense.dtype == np.float32
    row = 0
    for i in range(keep.shape[0]):
        for j in range(keep.shape[1]):
            np.testing.assert_array_equal(dense[i, j], rows[row] if keep[i, j] else np.full(8, np.nan))
            row += keep[i, j]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_slide_row_and_cell(tmp_path: Path, value: float) -> None:
    grid = lattice(20)
    writer = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    writer.append(FeatureRows(np.ones((4, 8), np.float32), np.zeros(4, np.uint8)))
    rows = FeatureRows(np.ones((4, 8), np.float32), np.zeros(4, np.uint8))
    rows.features[2, 5] = value
    with pytest.raises(SlideError, match=rf"s1: features of row 6 \(cell {grid.cells[6]}\) are not finite"):
        writer.append(rows)
    rows.status[2] = READ_FAILED
    writer.append(rows)


def test_a_value_beyond_float16_names_the_remedy_and_float32_takes_it(tmp_path: Path) -> None:
    grid = lattice(2)
    rows = FeatureRows(np.full((2, 8), 70000, np.float32), np.zeros(2, np.uint8))
    with pytest.raises(SlideError, match='float16. Store them with dtype="float32"'):
        GridWriter(tmp_path / "g.zarr", header(grid), grid).append(rows)
    found = write_feature_grid(tmp_path / "h.zarr", slide(), grid, ENCODER, [rows], dtype="float32")
    assert found.features[0, 0] == 70000


def test_values_of_unreadable_tiles_never_reach_the_disk(tmp_path: Path) -> None:
    rows = FeatureRows(np.ones((3, 8), np.float32), np.array([READ_OK, READ_FAILED, READ_OK], np.uint8))
    found = write_feature_grid(tmp_path / "g.zarr", slide(), lattice(3), ENCODER, [rows])
    np.testing.assert_array_equal(np.isnan(found.features[:, 0]), [False, True, False])


def test_rows_must_be_as_many_as_tiles_and_as_wide_as_the_encoder_says(tmp_path: Path) -> None:
    grid = lattice(10)
    writer = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    with pytest.raises(UsageError, match="do not fit"):
        writer.append(feature_rows(0, 4, dim=7))
    with pytest.raises(UsageError, match="11 rows were given for 10 tiles"):
        writer.append(feature_rows(0, 11))
    writer.append(feature_rows(0, 9))
    with pytest.raises(UsageError, match="9 rows were given for 10 tiles"):
        writer.commit()
    assert not (tmp_path / "g.zarr").exists()


def test_a_newer_version_and_a_foreign_group_are_refused_by_name(tmp_path: Path) -> None:
    dest = write_sample(tmp_path / "g.zarr", 5)
    metadata = json.loads((dest / "zarr.json").read_text())
    metadata["attributes"] |= {"version": 2, "toolkit_version": "9.1"}
    (dest / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(ArtefactError, match="version 2, written by toolkit 9.1; this toolkit reads 1") as refused:
        FeatureGrid.open(dest)
    assert not isinstance(refused.value, GridDamaged)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(ArtefactError, match="not a feature grid"):
        FeatureGrid.open(tmp_path / "other.zarr")
    with pytest.raises(GridDamaged, match="there is none here"):
        FeatureGrid.open(tmp_path / "none.zarr")


# -- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 31, 64, 1024, 2500])
def test_the_size_of_batches_changes_no_byte(tmp_path: Path, batch: int) -> None:
    grid = lattice(2500)
    writer = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    fill(writer, 2500, batch)
    writer.commit()
    assert tree(tmp_path / "g.zarr") == tree(write_sample(tmp_path / "h.zarr", 2500))


def test_commit_returns_every_file_and_leaves_nothing_beside_the_grid(tmp_path: Path) -> None:
    grid = lattice(1500)
    writer = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    fill(writer, 1500)
    records = writer.commit()
    files = tree(tmp_path / "g.zarr")
    assert files.pop("manifest/zarr.json")
    assert {record.path: record.sha256 for record in records} == files
    assert [path.name for path in tmp_path.iterdir()] == ["g.zarr"]


def test_a_folder_as_dest_takes_the_grid_under_its_name(tmp_path: Path) -> None:
    grid = lattice(3)
    found = write_feature_grid(tmp_path / "s1", slide(), grid, ENCODER, [feature_rows(0, 3)], tissue=TISSUE)
    assert found.path == tmp_path / "s1" / grid_name(ENCODER, grid.spec, TISSUE)


def test_file_systems_without_hard_links_and_without_fsync_of_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def no_link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    def no_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "fsync of a folder")
        fsync(handle)

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(os, "fsync", no_folders)
    assert FeatureGrid.open(write_sample(tmp_path / "g.zarr", 30)).verify() == []


def test_write_feature_grid_starts_from_the_first_row_whatever_is_staged(tmp_path: Path) -> None:
    grid = lattice(1500)
    head = GridWriter(tmp_path / "g.zarr", header(grid), grid)
    head.append(feature_rows(0, 1100))
    assert len(staged_beside(tmp_path / "g.zarr")) == 1
    rows = (feature_rows(start, start + 300) for start in range(0, 1500, 300))
    found = write_feature_grid(tmp_path / "g.zarr", slide(), grid, ENCODER, rows, tissue=TISSUE)
    assert tree(found.path) == tree(write_sample(tmp_path / "h.zarr", 1500))


def test_the_light_modules_load_neither_zarr_nor_torch() -> None:
    code = "import sys, features.spec, features.header; print([m for m in ('zarr', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
