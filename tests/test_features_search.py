"""Exact cosine search, against scikit-learn and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from features_samples import ENCODER, lattice, slide
from sklearn.neighbors import NearestNeighbors

from features import search as search_module
from features.grid import FeatureGrid
from features.search import FeatureIndex, Hit
from features.spec import EncoderSpec
from features.writer import FeatureRows, write_feature_grid
from tiling.grid import READ_FAILED
from wsi.errors import EncoderMismatch, UsageError


def write(folder: Path, name: str, features: np.ndarray, spec: EncoderSpec = ENCODER) -> FeatureGrid:
    rows = FeatureRows(np.asarray(features, np.float32), np.zeros(len(features), np.uint8))
    rows.status[np.isnan(rows.features[:, 0])] = READ_FAILED
    grid = lattice(len(features))
    return write_feature_grid(folder / f"{name}.zarr", slide(path=f"{name}.svs"), grid, spec, [rows], dtype="float32")


def index_of(
    folder: Path, sizes: tuple[int, ...], seed: int = 0
) -> tuple[FeatureIndex, np.ndarray, list[tuple[str, int]]]:
    """An index over clustered features, the same features as one table, and the slide and cell of each row."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(5, 8))
    grids, table, names = [], [], []
    for i, size in enumerate(sizes):
        features = centres[random.integers(0, 5, size)] + 0.2 * random.normal(size=(size, 8))
        grids.append(write(folder, f"s{i}", features))
        table.append(features)
        names += [(f"s{i}", int(cell)) for cell in grids[-1].grid.cells]
    return FeatureIndex.build(grids), np.concatenate(table), names


@pytest.mark.parametrize("k", [1, 10, 400])
def test_agrees_with_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(search_module, "SHARD_ROWS", 50)  # so that best rows meet across blocks
    index, table, names = index_of(tmp_path, (120, 1, 333))
    queries = np.random.default_rng(1).normal(size=(7, 8))
    oracle = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(table)
    distance, neighbour = oracle.kneighbors(queries)
    found = index.search(queries, k)
    for hits, far, rows in zip(found, distance, neighbour, strict=True):
        np.testing.assert_allclose([hit.score for hit in hits], 1 - far, atol=1e-6)
        assert [(hit.slide_id, hit.cell) for hit in hits] == [names[row] for row in rows]


def test_by_hand(tmp_path: Path) -> None:
    east, north, both = np.eye(8)[0], np.eye(8)[1], np.eye(8)[0] + np.eye(8)[1]
    a = write(tmp_path, "a", np.stack([3 * east, both]))
    b = write(tmp_path, "b", np.stack([north, -east, 0.5 * east]))
    hits = FeatureIndex.build([a, b]).search(2 * east, k=4)
    assert [(hit.slide_id, round(hit.score, 6)) for hit in hits] == [("a", 1), ("b", 1), ("a", 0.707107), ("b", 0)]
    cell = int(a.grid.cells[0])
    x, y = a.coords[0]
    assert hits[0] == Hit("a", cell, int(x), int(y), hits[0].score)


def test_a_single_query_gives_one_list_and_k_may_exceed_the_tiles(tmp_path: Path) -> None:
    index, table, _ = index_of(tmp_path, (5, 4))
    single, batch = index.search(table[0], k=100), index.search(table[:1], k=100)
    assert batch == [single]
    assert len(single) == len(index) == 9
    assert single[0].score == pytest.approx(1)


def test_per_slide_limits_the_hits_of_each_grid(tmp_path: Path) -> None:
    index, table, _ = index_of(tmp_path, (50, 50, 50))
    hits = index.search(table[3], k=5, per_slide=2)
    everything = index.search(table[3], k=150)
    for slide_id in ("s0", "s1", "s2"):
        own = [hit for hit in hits if hit.slide_id == slide_id]
        assert own == [hit for hit in everything if hit.slide_id == slide_id][: len(own)]
        assert len(own) <= 2
    assert len(hits) == 5


def test_equal_scores_come_in_the_order_of_rows_and_unreadable_tiles_never(tmp_path: Path) -> None:
    features = np.eye(8)[np.random.default_rng(3).integers(0, 3, 600)]  # scores of 0 and 1 only
    features[[0, 4]] = np.nan
    features[7] = 0
    grid = write(tmp_path, "a", features)
    hits = FeatureIndex.build([grid]).search(np.eye(8)[0], k=500)
    rows = sorted(set(range(600)) - {0, 4}, key=lambda row: -features[row, 0])[:500]
    assert [hit.cell for hit in hits] == grid.grid.cells[rows].tolist()
    assert len(FeatureIndex.build([grid]).search(np.eye(8)[0], k=600)) == 598


def test_a_slide_without_tiles_is_searched_in_peace(tmp_path: Path) -> None:
    empty, full = write(tmp_path, "a", np.empty((0, 8))), write(tmp_path, "b", np.eye(8))
    assert [hit.slide_id for hit in FeatureIndex.build([empty, full]).search(np.eye(8)[2], k=1)] == ["b"]


def test_paths_do_as_well_as_open_grids(tmp_path: Path) -> None:
    grid = write(tmp_path, "a", np.eye(8))
    assert FeatureIndex.build([str(grid.path)]).search(np.eye(8)[2]) == FeatureIndex.build([grid]).search(np.eye(8)[2])


def test_mixed_encoders_are_refused_by_name(tmp_path: Path) -> None:
    a = write(tmp_path, "a", np.eye(8))
    b = write(tmp_path, "b", np.eye(8), replace(ENCODER, weights_sha256="cd" * 32))
    with pytest.raises(EncoderMismatch, match=r"b\.zarr.*a\.zarr.*weights_sha256 abab\S* -> cdcd"):
        FeatureIndex.build([a, b])


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    index = FeatureIndex.build([write(tmp_path, "a", np.eye(8))])
    for query in (np.ones(7), np.ones((1, 2, 8)), np.zeros(8), np.full(8, np.nan)):
        with pytest.raises(UsageError, match="query"):
            index.search(query)
    for limits in ({"k": 0}, {"per_slide": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            index.search(np.ones(8), **limits)
    with pytest.raises(UsageError, match="at least one feature grid"):
        FeatureIndex.build([])
