"""QuPath GeoJSON: the exact shape its importer accepts, and its cropped frame."""

from __future__ import annotations

import gzip
import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely import MultiPolygon, Polygon, box

from pipeline import geojson
from pipeline.geojson import TileLayer, tile_features, tissue_features, write_geojson
from tiling.grid import TileGrid, TileSpec
from wsi.errors import NoSpace
from wsi.geometry import Region

BOUNDS = Region(1000, 500, 400, 300)
KEEP = np.array([[True, False, True], [False, True, True]])
GRID = TileGrid(TileSpec(), (1000, 500), 112, 100, KEEP, np.ones(4, np.float32))
SCORES = {"p_tumour": np.array([0.5, 0.25, 0.75, np.nan], np.float32), "attention": np.array([1, 2, 3, 4])}
LAYER = TileLayer("case/7", "zeroshot", GRID, SCORES, ("Tumour", "Stroma"), np.array([0, 1, 0, -1]))
HOLED = Polygon(box(1010, 510, 1300, 700).exterior.coords, [box(1050, 550, 1100, 600).exterior.coords])
OUTLINE = MultiPolygon([HOLED, box(1310.126, 720, 1390, 790)])


def features(layer: TileLayer = LAYER, **options: Any) -> list[dict[str, Any]]:
    return list(tile_features(layer, BOUNDS, **options))


def dump(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_tile_is_exactly_what_qupath_reads() -> None:
    """Second kept cell: row 0, column 2, at level-0 (1200, 500), so (200, 0) in the cropped image."""
    feature = features()[1]
    assert uuid.UUID(feature.pop("id")).version == 5
    assert feature == {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[200, 0], [312, 0], [312, 112], [200, 112], [200, 0]]]},
        "properties": {
            "objectType": "tile",
            "name": "r0_c2",
            "isLocked": True,
            "classification": {"name": "Stroma", "color": [136, 204, 238]},
            "measurements": {"p_tumour": 0.25, "attention": 2.0},
            "metadata": {"tool": "wsi-toolkit", "layer": "zeroshot"},
        },
    }


def test_tissue_is_exactly_what_qupath_reads() -> None:
    first, second = tissue_features(OUTLINE, BOUNDS, "case/7")
    assert uuid.UUID(first.pop("id")).version == 5
    assert first == {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [
                [[300, 10], [300, 200], [10, 200], [10, 10], [300, 10]],
                [[100, 50], [100, 100], [50, 100], [50, 50], [100, 50]],
            ],
        },
        "properties": {
            "objectType": "annotation",
            "name": "Tissue",
            "isLocked": False,  # it is there to be edited
            "metadata": {"tool": "wsi-toolkit"},
        },
    }
    assert second["geometry"]["coordinates"][0][2] == [310.13, 290]


def test_tissue_ends_at_the_edge_of_the_slide() -> None:
    """Two arms that reach over the right edge are two pieces; what only touches the frame is none."""
    arms = box(1380, 510, 1450, 700).difference(box(1360, 550, 1400, 650))
    found = list(
        tissue_features(MultiPolygon([arms, box(1400, 510, 1500, 530), box(1300, 790, 1310, 812)]), BOUNDS, "s")
    )
    rings = [np.array(f["geometry"]["coordinates"][0]) for f in found]
    assert sorted((*r.min(axis=0), *r.max(axis=0)) for r in rings) == [
        (300, 290, 310, 300), (380, 10, 400, 50), (380, 150, 400, 200)
    ]  # fmt: skip
    assert len({f["id"] for f in found}) == 3


def test_every_class_has_a_colour_and_none_means_no_classification() -> None:
    tiles = [feature["properties"] for feature in features()]
    assert [tile.get("classification", {}).get("name") for tile in tiles] == ["Tumour", "Stroma", "Tumour", None]
    assert tiles[0]["classification"]["color"] == tiles[2]["classification"]["color"]
    unclassed = TileLayer("case/7", "zeroshot", GRID, SCORES)
    assert all("classification" not in feature["properties"] for feature in features(unclassed))


def test_numbers_json_lacks_are_words_qupath_knows() -> None:
    layer = TileLayer("s", "l", GRID, {"m": np.array([np.nan, np.inf, -np.inf, 1e-300])})
    assert [f["properties"]["measurements"]["m"] for f in features(layer)] == ["NaN", "inf", "-inf", 1e-300]


def test_ids_are_the_same_each_time_and_never_shared() -> None:
    other = TileLayer("case/7", "attention", GRID, SCORES)
    neighbour = TileLayer("case/8", "zeroshot", GRID, SCORES)
    ids = [[f["id"] for f in features(layer)] for layer in (LAYER, other, neighbour)]
    ids.append([f["id"] for f in tissue_features(OUTLINE, BOUNDS, "case/7")])
    assert ids[0] == [f["id"] for f in features()]
    assert len(set(itertools.chain(*ids))) == 14


def test_top_keeps_the_highest_in_grid_order_and_says_so() -> None:
    kept = features(top=2, by="p_tumour")
    assert [f["properties"]["name"] for f in kept] == ["r0_c0", "r1_c1"]
    said = {f["properties"]["metadata"]["selection"] for f in kept}
    assert said == {"the 2 of 4 tiles highest in p_tumour"}
    assert [f["properties"]["name"] for f in features(top=3, by="p_tumour")] == ["r0_c0", "r0_c2", "r1_c1"]  # NaN last
    assert features(top=4, by="p_tumour") == features()
    assert features(top=0, by="p_tumour") == []


def test_ties_go_to_the_earlier_tile() -> None:
    layer = TileLayer("s", "l", GRID, {"m": np.ones(4)})
    assert [f["properties"]["name"] for f in features(layer, top=2, by="m")] == ["r0_c0", "r0_c2"]


def test_a_score_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'p' to choose the highest by; there are p_tumour, attention"):
        features(top=2, by="p")


@pytest.mark.parametrize("wrong", [{"measurements": {"m": np.ones(3)}}, {"classes": np.zeros(5, int)}])
def test_a_layer_of_another_length_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="for 4 tiles"):
        TileLayer("s", "l", GRID, **{"measurements": {}, **wrong})


# Writing


def test_files_are_plain_or_packed_with_the_same_content(tmp_path: Path) -> None:
    plain, packed = tmp_path / "t.geojson", tmp_path / "t.geojson.gz"
    assert write_geojson(plain, tile_features(LAYER, BOUNDS)) == 4
    assert write_geojson(packed, tile_features(LAYER, BOUNDS)) == 4
    content = json.loads(plain.read_text(encoding="utf-8"))
    assert content == {"type": "FeatureCollection", "features": features()}
    assert json.loads(gzip.decompress(packed.read_bytes())) == content
    first = packed.read_bytes()
    write_geojson(tmp_path / "other.geojson.gz", tile_features(LAYER, BOUNDS))
    assert (tmp_path / "other.geojson.gz").read_bytes() == first


def test_no_feature_is_a_valid_file_too(tmp_path: Path) -> None:
    assert write_geojson(tmp_path / "t.geojson", []) == 0
    assert json.loads((tmp_path / "t.geojson").read_bytes()) == {"type": "FeatureCollection", "features": []}


def test_features_are_pulled_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the third is asked for, the first two have been turned into text."""
    events: list[str] = []
    dumps = json.dumps
    monkeypatch.setattr(geojson.json, "dumps", lambda *a, **k: events.append("text") or dumps(*a, **k))

    def source() -> Iterator[dict[str, Any]]:
        for feature in features()[:3]:
            events.append("made")
            yield feature

    write_geojson(tmp_path / "t.geojson", source())
    assert events == ["made", "text"] * 3


def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = dump(tmp_path / "t.geojson", "old")

    def source() -> Iterator[dict[str, Any]]:
        yield features()[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(NoSpace):
        write_geojson(path, source())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
