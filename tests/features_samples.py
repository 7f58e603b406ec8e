"""Small slides, lattices and features for the tests of the feature store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from features.header import GridHeader
from features.spec import EncoderSpec
from features.writer import FeatureRows, GridWriter
from tiling.grid import READ_FAILED, READ_OK, READ_PADDED, TileGrid, TileSpec

ENCODER = EncoderSpec(
    name="sample",
    dim=8,
    input_px=224,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.1),
    interpolation="bicubic",
    normalised=False,
    weights_sha256="ab" * 32,
    precision="float32",
    has_text=True,
)
TISSUE = {"kind": "TissueConfig", "method": "otsu", "mpp": 8.0}


def slide(**changes: Any) -> SimpleNamespace:
    facts = {"path": "scans/s1.svs", "fingerprint": "f" * 64, "mpp": 0.25, "mpp_source": "tiff", "reader": "openslide"}
    return SimpleNamespace(**(facts | changes))


def lattice(tiles: int, *, cols: int = 37, quality: bool = False) -> TileGrid:
    """A lattice of which `tiles` cells are kept, with gaps, off the slide's origin."""
    rows = 2 * tiles // cols + 1
    keep = np.zeros(rows * cols, bool)
    keep[np.random.default_rng(tiles).permutation(rows * cols)[:tiles]] = True
    fraction = np.linspace(0.5, 1, tiles, dtype=np.float32)
    return TileGrid(TileSpec(quality=quality), (16, 32), 448, 448, keep.reshape(rows, cols), fraction)


def feature_rows(start: int, stop: int, dim: int = ENCODER.dim) -> FeatureRows:
    """Rows `start` to `stop` of an endless table: the same numbers however it is cut. Every 97th tile is unreadable."""
    row, column = np.arange(start, stop)[:, None], np.arange(dim)
    features = np.sin(row * 0.7 + column * column * 1.3).astype(np.float32)
    status = np.where(row[:, 0] % 97 == 13, READ_FAILED, np.where(row[:, 0] % 11 == 5, READ_PADDED, READ_OK))
    return FeatureRows(features, status.astype(np.uint8), (row[:, 0] % 13).astype(np.uint8))


def expected_features(tiles: int, dtype: str = "float16") -> np.ndarray:
    rows = feature_rows(0, tiles)
    features = rows.features.astype(dtype)
    features[rows.status == READ_FAILED] = np.nan
    return features


def header(grid: TileGrid, **changes: Any) -> GridHeader:
    return replace(GridHeader.of(slide(), grid, ENCODER, tissue=TISSUE), **changes)


def fill(writer: GridWriter, tiles: int, batch: int = 96) -> None:
    """Appends what is still missing."""
    for start in range(writer.rows_done, tiles, batch):
        writer.append(feature_rows(start, min(start + batch, tiles)))


def write_sample(dest: Path, tiles: int, **changes: Any) -> Path:
    grid = lattice(tiles)
    writer = GridWriter(dest, header(grid, **changes), grid)
    fill(writer, tiles)
    writer.commit()
    return dest


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flipped_bits(path: Path, bits: Iterator[int]) -> Iterator[int]:
    """For each bit: the file with that one flipped, restored before the next."""
    whole = path.read_bytes()
    for bit in bits:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        yield bit
    path.write_bytes(whole)
