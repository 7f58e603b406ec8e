"""What people draw comes in as it was meant; what is broken or hostile ends in a sentence that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import shapely
from drawings import SQUARE, box, collection, feature, written

from tiling import areas
from tiling.annotations import MAX_BYTES, read_annotations
from wsi.errors import TissueInvalid

HOLED = [*box(0, 0, 100, 100), *box(20, 20, 60, 60)]


def read(folder: Path, content: Any, name: str = "s.geojson") -> Any:
    return read_annotations(written(folder / name, content))


def area(polygons: Any) -> float:
    return float(shapely.area(polygons).sum())


@pytest.mark.parametrize(
    "content",
    [
        collection(feature(HOLED), feature([box(200, 0, 210, 10)], kind="MultiPolygon")),
        [feature(HOLED), feature(box(200, 0, 210, 10))],
        feature([HOLED, box(200, 0, 210, 10)], kind="MultiPolygon"),
        {"type": "MultiPolygon", "coordinates": [box(200, 0, 210, 10), HOLED]},
        {
            "type": "GeometryCollection",
            "geometries": [{"type": "Polygon", "coordinates": c} for c in (HOLED, box(200, 0, 210, 10))],
        },
    ],
    ids=["collection", "list", "feature", "geometry", "geometries"],
)
def test_every_wrapping_holds_the_same_areas(content: Any, tmp_path: Path) -> None:
    """By hand: 100 x 100 less a hole of 40 x 40, and 10 x 10."""
    found = read(tmp_path, content)
    assert area(found.tissue) == 100**2 - 40**2 + 10**2 and len(found.cut_out) == 0 and found.notes == ()
    assert found.digest == read(tmp_path, collection(feature(box(200, 0, 210, 10)), feature(HOLED))).digest


def test_the_digest_is_of_the_areas_alone(tmp_path: Path) -> None:
    first = read(tmp_path, collection(feature(HOLED, "Tissue")))
    turned = [[*ring[2:-1], *ring[:2], ring[2]] for ring in HOLED]  # begun elsewhere
    backwards = [ring[::-1] for ring in HOLED]
    for same in (turned, backwards):
        assert read(tmp_path, collection(feature(same, "Tumor", name="mine"))).digest == first.digest
    fine = [[[x + 0.001, y] for x, y in ring] for ring in HOLED]  # QuPath writes two decimals
    assert read(tmp_path, collection(feature(fine))).digest == first.digest
    moved = [[[x + 0.02, y] for x, y in ring] for ring in HOLED]
    assert read(tmp_path, collection(feature(moved))).digest != first.digest
    other = read(tmp_path, collection(feature(HOLED), feature(box(0, 0, 9, 9), "Ignore*"))).digest
    assert other not in (first.digest, read(tmp_path, collection(feature(HOLED), feature(box(0, 0, 9, 9)))).digest)


@pytest.mark.parametrize(
    "classed",
    [
        *("Ignore*", "ignore", "EXCLUDE", "Exclude*", "Artefact*", "Artifact", "Background*", "Folds*"),
        "Tumor: Ignore*",
        {"names": ["Other", "Exclude"], "color": [1, 2, 3]},
    ],
    ids=str,
)
def test_areas_to_cut_out_are_told_by_their_class(classed: Any, tmp_path: Path) -> None:
    found = read(tmp_path, collection(feature(), feature(box(0, 0, 10, 10), classed)))
    assert (area(found.tissue), area(found.cut_out)) == (400**2, 100)


@pytest.mark.parametrize("classed", ["Tumor", "Region*", "Stroma: Positive", "Ignored cells", None, {"names": []}])
def test_every_other_class_is_tissue(classed: Any, tmp_path: Path) -> None:
    assert area(read(tmp_path, collection(feature(SQUARE, classed))).tissue) == 400**2


def test_plain_geojson_may_give_a_class_as_text_or_no_properties(tmp_path: Path) -> None:
    bare = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": SQUARE}, "properties": None}
    plain = {**bare, "geometry": {"type": "Polygon", "coordinates": box(0, 0, 10, 10)}}
    found = read(tmp_path, [bare, {**plain, "properties": {"classification": "exclude"}}])
    assert (area(found.tissue), area(found.cut_out)) == (400**2, 100)


def test_what_is_no_drawn_area_is_left_out_and_told(tmp_path: Path) -> None:
    others = [
        feature([5, 5], kind="Point"),
        feature([[0, 0], [9, 9]], kind="LineString"),
        feature(objectType="detection"),
        feature(objectType="tile"),
        feature(objectType="tile"),
        {**feature(objectType=None), "id": "PathCellObject"},
        {"type": "Feature", "geometry": None, "properties": {}},
        feature([[[0, 0], [5, 5], [0, 0]]]),
        feature([[[0, 0], [5, 5], [9, 9], [0, 0]]]),
    ]
    found = read(tmp_path, collection(feature(), *others))
    assert area(found.tissue) == 400**2
    (note,) = found.notes
    for told in (
        "s.geojson",
        "1 Point",
        "1 LineString",
        "1 detection",
        "2 tile",
        "1 cell",
        "1 feature without a place",
    ):
        assert told in note
    assert "2 rings without area" in note


def test_open_and_crossing_rings_are_mended_and_told(tmp_path: Path) -> None:
    bow_tie = [[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]]
    found = read(tmp_path, collection(feature(bow_tie), feature([SQUARE[0][:-1]])))
    assert area(found.tissue) == 100 * 50 + 400**2  # two triangles, each 100 wide and 50 high
    assert found.notes == (
        "s.geojson: 1 open rings were closed.",
        "s.geojson: 1 polygons that cross themselves were mended.",
    )


@pytest.mark.parametrize("content", [collection(), [], feature([])], ids=["collection", "list", "empty polygon"])
def test_a_file_without_areas_says_that_there_is_no_tissue(content: Any, tmp_path: Path) -> None:
    found = read(tmp_path, content)
    assert len(found.tissue) == 0 and found.notes == ()


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert area(read(tmp_path, b"\xef\xbb\xbf" + json.dumps(feature()).encode()).tissue) == 400**2


GOOD = json.dumps(collection(feature()))
NUMBERS = json.dumps(feature([[["X", 0], [5, 0], [5, 5], ["X", 0]]]))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GOOD[:-20], "no sound JSON"),
        ("", "no sound JSON"),
        (b"\xff\xfe" + GOOD.encode("utf-16-le"), "no UTF-8"),
        (GOOD.replace('"features"', '"type": "x", "features"'), "key 'type' is there twice"),
        ("[" * 200_000, "nested deeper"),
        ('{"type":"GeometryCollection","geometries":[' * 20_000 + "]}" * 20_000, "nested deeper"),
        (NUMBERS.replace('"X"', "NaN"), "no numbers"),
        (NUMBERS.replace('"X"', "-Infinity"), "no numbers"),
        (NUMBERS.replace('"X"', "1e999"), "no numbers"),
        (NUMBERS.replace('"X"', "1e9"), "beyond 10,000,000 px"),
        (NUMBERS.replace('"X"', "1" * 400), "no pairs of numbers"),
        (NUMBERS.replace('"X"', "1" * 5000), "no sound JSON"),
        (NUMBERS, "no pairs of numbers"),
        (NUMBERS.replace('"X"', "null"), "no pairs of numbers"),
        (feature([[[0, 0], [5], [5, 5]]]), "no pairs of numbers"),
        (feature([[0, 0], [5, 0], [5, 5]]), "no pairs of numbers"),
        (feature({"x": 1}), "no list"),
        (feature(SQUARE, kind="Curve"), "unknown kind ('Curve')"),
        ({"type": "FeatureCollection"}, "no list of features"),
        ("3", "no list of features"),
        ([feature(), "and so on"], "a str stands where a feature"),
        ({**feature(), "properties": [1]}, "properties of a feature"),
        (
            collection(feature([5, 5], kind="Point")),
            "no area of tissue (left out, as they are no drawn areas: 1 Point). Export",
        ),
        (collection(feature(SQUARE, "Ignore*")), "no area of tissue (areas to cut out: 1). Export"),
        ("<annotations/>", "XML annotations are not read"),
        (b"\xef\xbb\xbf\n <?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'lol'>]>", "XML annotations are not read"),
    ],
    ids=range(26),
)
def test_broken_and_hostile_files_are_sentences(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(TissueInvalid) as caught:
        read(tmp_path, content)
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "s.geojson")) and told in said and len(said) < 600
    assert caught.value.code == "tissue_invalid" and caught.value.hint


def test_files_that_are_none_or_too_long_are_refused_unread(tmp_path: Path) -> None:
    long = written(tmp_path / "long.geojson", "")
    os.truncate(long, MAX_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.geojson")
    for name, told in (("long", "201|200 MiB, more than 200"), ("pipe", "no file"), ("gone", "No such file")):
        with pytest.raises(TissueInvalid, match=told):
            read_annotations(tmp_path / f"{name}.geojson")
    with pytest.raises(TissueInvalid, match="XML annotations are not read"):
        read(tmp_path, GOOD, "s.xml")


def test_too_many_points_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "MAX_VERTICES", 9)
    assert len(read(tmp_path, feature()).tissue) == 1
    with pytest.raises(TissueInvalid, match="more than 9 points"):
        read(tmp_path, collection(feature(), feature()))
