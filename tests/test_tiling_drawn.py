"""Drawn tissue on the mask: shares of tiles against shapely's areas, the frame, and masks that go out and come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from drawings import box, collection, feature, written
from fakes import ArraySlide
from shapely import Point

import tiling.drawn as drawn_module
from pipeline.geojson import tissue_features, write_geojson
from tiling import TileGrid, TileSpec, TissueConfig, detect_tissue, tissue_from_geojson
from tiling.annotations import read_annotations
from tiling.drawn import drawn_mask
from tiling.outline import tissue_outline
from tiling.supervised import DrawnFile, Preparation, ReaderConfig, ReaderProcess
from wsi import open_slide
from wsi.errors import SlideImplausible, TissueInvalid
from wsi.geometry import Region

WHITE = np.full((1600, 2000, 3), 255, np.uint8)
SPEC = TileSpec(size_px=224, mpp=0.5, min_tissue=0.0)


def drawing(path: Path, *shapes: shapely.Geometry, classed: tuple[str | None, ...] = ()) -> Path:
    classes = [*classed, *[None] * (len(shapes) - len(classed))]
    made = [
        feature(json.loads(shapely.to_geojson(s))["coordinates"], c, s.geom_type)
        for s, c in zip(shapes, classes, strict=True)
    ]
    return written(path, collection(*made))


def squares(grid: TileGrid) -> list[shapely.Polygon]:
    return [shapely.box(r.x, r.y, r.right, r.bottom) for r in map(grid.region, grid.cells.tolist())]


@pytest.mark.parametrize("bounds", [None, Region(300, 200, 1500, 1200)], ids=["whole", "bounds"])
def test_tissue_shares_are_the_areas_that_shapely_computes(bounds: Region | None, tmp_path: Path) -> None:
    """Overlapping shapes, a hole, an area cut out: within a quarter of a mask px along each tile's share of outline."""
    slide = ArraySlide(WHITE, 0.25, bounds)
    shapes = [
        Point(600, 500).buffer(400).difference(Point(500, 500).buffer(150)),
        shapely.Polygon([(700, 300), (1390, 420), (1100, 1000)]),
        Point(900, 550).buffer(90),
    ]
    path = drawing(tmp_path / "s.geojson", *shapes, classed=(None, "Tumor", "Ignore*"))
    grid = TileGrid.over(slide, tissue_from_geojson(slide, path, TissueConfig(mpp=2.0)), SPEC)
    truth = shapely.affinity.translate(
        shapely.union_all(shapes[:2]).difference(shapes[2]), slide.bounds.x, slide.bounds.y
    )
    expected = np.array([tile.intersection(truth).area / tile.area for tile in squares(grid)])
    mixed = (expected > 0) & (expected < 1)
    assert mixed.sum() >= 4
    assert np.abs(grid.tissue_fraction - expected).max() < 0.01
    assert np.abs((grid.tissue_fraction - expected).mean()) < 0.001  # no px is added along an outline


@pytest.mark.parametrize("mpp", [4.0, 7.3])
def test_a_mask_px_is_tissue_where_its_centre_is(mpp: float, tmp_path: Path) -> None:
    slide = ArraySlide(WHITE, 0.5)
    rng = np.random.default_rng(3)
    shapes = [Point(*rng.uniform(200, 1300, 2)).buffer(rng.uniform(30, 200), quad_segs=3) for _ in range(12)]
    drawn = read_annotations(drawing(tmp_path / "s.geojson", *shapes))
    mask, _ = drawn_mask(slide, drawn, TissueConfig(mpp=mpp))
    height, width = int(1600 / mask.px), int(2000 / mask.px)  # of whole px within the slide
    y, x = np.mgrid[:height, :width]
    centres = shapely.contains_xy(shapely.union_all(drawn.tissue), (x + 0.5) * mask.px, (y + 0.5) * mask.px)
    assert np.array_equal(mask.inside[:height, :width], centres) and centres.any()
    assert mask.inside.shape == detect_tissue(slide, TissueConfig(mpp=mpp)).inside.shape


def test_tissue_up_to_the_edges_is_tissue_up_to_the_edges(tmp_path: Path) -> None:
    slide = ArraySlide(WHITE[:1001, :1003], 0.5)
    everything = drawing(tmp_path / "s.geojson", shapely.box(0, 0, 1003, 1001))
    assert tissue_from_geojson(slide, everything).inside.all()


def test_a_mask_written_and_read_back_gives_the_same_grid(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    with open_slide(shared_data("slides/CMU-1-Small-Region.svs")) as slide:
        mask = detect_tissue(slide)
        outline = tissue_outline(mask)
        path = tmp_path / "tissue.geojson"
        write_geojson(path, tissue_features(outline, slide.bounds, "s"))
        back = tissue_from_geojson(slide, path)
        there, here = TileGrid.over(slide, mask, SPEC), TileGrid.over(slide, back, SPEC)
    assert back.px == mask.px and 0 < there.tissue_fraction.mean() < 1
    assert np.mean(back.inside != mask.inside) < 0.01
    assert np.abs(there.tissue_fraction - here.tissue_fraction).max() < 0.03


def test_a_mask_with_bounds_comes_back_where_it_was(tmp_path: Path) -> None:
    pixels = WHITE.copy()
    pixels[500:1100, 700:1500] = np.random.default_rng(0).integers((150, 60, 120), (220, 130, 190), (600, 800, 3))
    slide = ArraySlide(pixels, 1.0, Region(400, 300, 1500, 1200))
    mask = detect_tissue(slide)
    write_geojson(tmp_path / "t.geojson", tissue_features(tissue_outline(mask), slide.bounds, "s"))
    back = tissue_from_geojson(slide, tmp_path / "t.geojson")
    assert mask.inside.any() and back.origin == mask.origin == (400, 300)
    assert np.mean(back.inside != mask.inside) < 0.005


def test_no_area_is_no_tissue(tmp_path: Path) -> None:
    slide = ArraySlide(WHITE, 0.5)
    mask, notes = drawn_mask(slide, read_annotations(written(tmp_path / "s.geojson", collection())), TissueConfig())
    assert not mask.inside.any() and notes == ("s.geojson holds no area: nothing is tissue.",)


@pytest.mark.parametrize(("shift", "share"), [(5000, "100%"), (1700, "75%")])
def test_a_drawing_of_another_slide_is_refused(shift: int, share: str, tmp_path: Path) -> None:
    path = drawing(tmp_path / "s.geojson", shapely.box(shift, 0, shift + 1200, 1600))
    with pytest.raises(TissueInvalid, match=rf"{share} of its tissue lies outside .* 2000 x 1600 px.*another slide"):
        tissue_from_geojson(ArraySlide(WHITE, 0.5), path)


def test_a_little_outside_is_told(tmp_path: Path) -> None:
    path = drawing(tmp_path / "s.geojson", shapely.box(1000, 0, 2200, 1600))
    with pytest.warns(UserWarning, match=r"16\.7% of its tissue lies outside") as caught:
        mask = tissue_from_geojson(ArraySlide(WHITE, 0.5), path)
    assert mask.inside.mean() == pytest.approx(0.5, abs=0.01)
    assert caught[0].filename == __file__


def test_outlines_without_end_are_refused_before_they_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = drawing(tmp_path / "s.geojson", shapely.box(0, 0, 2000, 1600))  # two sides of 100 rows at 8 um
    monkeypatch.setattr(drawn_module, "MAX_CROSSINGS", 199)
    with pytest.raises(TissueInvalid, match="longer than any drawing's"):
        tissue_from_geojson(ArraySlide(WHITE, 0.5), path)
    monkeypatch.setattr(drawn_module, "MAX_CROSSINGS", 200)
    assert tissue_from_geojson(ArraySlide(WHITE, 0.5), path).inside.all()


def test_a_slip_in_the_resolution_takes_no_memory(tmp_path: Path) -> None:
    class Huge:
        path, mpp, bounds = Path("huge.svs"), 8.0, Region(0, 0, 400_000, 400_000)

    path = written(tmp_path / "s.geojson", feature(box(0, 0, 400_000, 400_000)))
    with pytest.raises(SlideImplausible, match="huge.svs"):
        tissue_from_geojson(Huge(), path)


def test_the_reader_process_parses_and_goes_on_after_a_hostile_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    slide = written(tmp_path / "calm.svs", b"any")
    drawn = read_annotations(drawing(tmp_path / "s.geojson", Point(800, 700).buffer(500)))
    with ReaderProcess(ReaderConfig(name="evil_readers:chosen_by_name", timeout_s=60)) as reader:
        with pytest.raises(TissueInvalid, match=r"deep\.geojson: it is nested deeper"):
            reader.annotations(written(tmp_path / "deep.geojson", "[" * 200_000))
        file = reader.annotations(drawn.path)
        reader.open(slide)
        prepared = reader.prepare(Preparation(TissueConfig(), SPEC, 256, file))
        with pytest.raises(TissueInvalid, match=r"s\.geojson: it was changed during the run"):
            reader.prepare(Preparation(TissueConfig(), SPEC, 256, DrawnFile(drawn.path, "0" * 64, "")))
    here, _ = drawn_mask(ArraySlide(WHITE, 0.5), drawn, TissueConfig())
    assert file.digest == drawn.digest and np.array_equal(prepared.mask.inside, here.inside)
    assert prepared.notes == ("Tissue as drawn in s.geojson, not detected.",)
