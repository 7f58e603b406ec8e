"""Heatmaps and outlines: every pixel where it belongs, every colour what the scale says."""

from __future__ import annotations

import io
import subprocess
import sys

import cv2
import matplotlib.figure
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from shapely import MultiPolygon, Polygon, box
from skimage.color import rgb2lab

from pipeline.heatmap import (
    DIVERGING,
    PROBABILITY,
    RELATIVE,
    SEQUENTIAL,
    SIGNED,
    HeatLabels,
    HeatStyle,
    colour_scale,
    encoder_caution,
    heatmap_figure,
    length_text,
    overlay,
    scale_bar_um,
    tile_means,
)
from pipeline.overlay import OUTLINE, Frame, Placement, draw_outline, draw_tiles
from tiling.grid import TileGrid, TileSpec
from wsi.geometry import Region


def lattice(keep: NDArray[np.bool_], span: int, stride: int, origin: tuple[int, int]) -> TileGrid:
    return TileGrid(TileSpec(), origin, span, stride, keep, np.ones(int(keep.sum()), np.float32))


def white(h: int, w: int) -> NDArray[np.uint8]:
    return np.full((h, w, 3), 255, np.uint8)


def one_cell(shape: tuple[int, int], row: int, col: int, value: float = 0.5) -> NDArray[np.float32]:
    values = np.full(shape, np.nan, np.float32)
    values[row, col] = value
    return values


# A slide whose bounds start at (1000, 500), 400 x 200 px, seen at 10 level-0 px per thumbnail px.
BOUNDS = Region(1000, 500, 400, 200)
GRID = lattice(np.ones((2, 4), bool), span=100, stride=100, origin=(1000, 500))


def place(grid: TileGrid = GRID, bounds: Region = BOUNDS, shape: tuple[int, int] = (20, 40)) -> Placement:
    return Placement(grid, Frame.of(bounds, white(*shape)))


def changed(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (image != 255).any(axis=2)


def test_a_thumbnail_covers_the_bounds_with_its_own_scale_on_each_axis() -> None:
    frame = Frame.of(Region(1000, 500, 400, 210), white(20, 40))
    assert frame == Frame((1000, 500), (10.0, 10.5))
    np.testing.assert_allclose(frame.locate(np.array([[1000, 500], [1015, 521]])), [[0, 0], [1.5, 2]])


def test_a_tile_is_painted_where_it_lies_on_a_slide_with_bounds() -> None:
    image = overlay(one_cell((2, 4), row=1, col=2), white(20, 40), place())
    expected = np.zeros((20, 40), bool)
    expected[10:20, 20:30] = True  # level-0 x 1200-1300, y 600-700
    np.testing.assert_array_equal(changed(image), expected)


@pytest.mark.parametrize("seed", range(12))
def test_painted_pixels_are_those_whose_centre_the_tile_covers(seed: int) -> None:
    """An independent rule, pixel by pixel: no edge is off by more than half a thumbnail pixel."""
    rng = np.random.default_rng(seed)
    bounds = Region(*rng.integers(0, 5000, 2).tolist(), *rng.integers(900, 4000, 2).tolist())
    h, w = rng.integers(30, 90, 2).tolist()
    span = int(rng.integers(100, 400))
    stride = int(span * rng.choice([0.5, 0.75, 1, 1.3]))
    rows, cols = -(-bounds.height // stride), -(-bounds.width // stride)
    grid = lattice(np.ones((rows, cols), bool), span, stride, (bounds.x, bounds.y))
    row, col = int(rng.integers(rows)), int(rng.integers(cols))
    image = overlay(one_cell((rows, cols), row, col), white(h, w), place(grid, bounds, (h, w)))
    x = bounds.x + (np.arange(w) + 0.5) * bounds.width / w
    y = bounds.y + (np.arange(h) + 0.5) * bounds.height / h
    left, top = bounds.x + col * stride, bounds.y + row * stride
    covered = ((y >= top) & (y < top + span))[:, None] & ((x >= left) & (x < left + span))
    np.testing.assert_array_equal(changed(image), covered)


def test_touching_tiles_leave_no_gap_and_share_no_pixel() -> None:
    grid = lattice(np.ones((7, 9), bool), span=131, stride=131, origin=(3, 5))
    values = np.arange(63, dtype=float).reshape(7, 9)
    field = tile_means(values, (29, 37), place(grid, Region(3, 5, 9 * 131, 7 * 131), (29, 37)))
    assert set(np.unique(field)) == set(range(63))  # a shared pixel would hold a mean between two


def test_where_tiles_overlap_a_pixel_holds_their_mean() -> None:
    grid = lattice(np.ones((1, 3), bool), span=20, stride=10, origin=(0, 0))
    field = tile_means(np.array([[0.0, 1.0, np.nan]]), (1, 4), place(grid, Region(0, 0, 40, 10), (1, 4)))
    np.testing.assert_array_equal(field, [[0.0, 0.5, 1.0, np.nan]])


def test_a_tile_thinner_than_a_pixel_is_still_seen() -> None:
    grid = lattice(np.ones((1, 40), bool), span=1, stride=1, origin=(0, 0))
    image = overlay(one_cell((1, 40), 0, 13), white(1, 4), place(grid, Region(0, 0, 40, 10), (1, 4)))
    assert changed(image).tolist() == [[False, True, False, False]]


def test_tiles_reaching_over_the_edge_end_at_it() -> None:
    grid = lattice(np.ones((1, 2), bool), span=30, stride=30, origin=(-10, 0))
    image = overlay(np.array([[0.5, np.nan]]), white(4, 4), place(grid, Region(0, 0, 40, 40), (4, 4)))
    assert changed(image).tolist() == [[True, True, False, False]] * 3 + [[False] * 4]


def test_cells_without_a_value_stay_as_they_are() -> None:
    thumbnail = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    values = np.full((2, 4), np.nan, np.float32)
    for style in (PROBABILITY, RELATIVE, SIGNED):
        np.testing.assert_array_equal(overlay(values, thumbnail, place(), style), thumbnail)
    values[0, 1] = 1
    same = (overlay(values, thumbnail, place()) == thumbnail).all(axis=2)
    assert same[10:].all() and same[:, :10].all() and same[:, 20:].all() and not same[:10, 10:20].any()


def test_colours_by_hand() -> None:
    """Viridis runs from (68, 1, 84) to (253, 231, 37); white stays 255 in grey; 0.65 x 68 + 0.35 x 255 = 133."""
    values = np.full((2, 4), np.nan)
    values[0, :2] = 0, 1
    image = overlay(values, white(20, 40), place(), HeatStyle(alpha=0.65))
    assert image[5, 5].tolist() == [133, 90, 144]
    assert image[5, 15].tolist() == [254, 239, 113]
    black = overlay(values, np.zeros((20, 40, 3), np.uint8), place(), HeatStyle(alpha=0.65))
    assert black[5, 5].tolist() == [89, 45, 99]  # black is shown as 127.5: 0.65 x 68 + 0.35 x 127.5 = 88.8


def test_tissue_beneath_is_grey_so_that_hue_comes_from_the_score_alone() -> None:
    pink, purple = white(20, 40), white(20, 40)
    pink[:], purple[:] = (200, 100, 100), (100, 147, 121)  # equal luma: 0.299 r + 0.587 g + 0.114 b = 129.9
    values = np.full((2, 4), 0.7)
    np.testing.assert_array_equal(overlay(values, pink, place()), overlay(values, purple, place()))


@pytest.mark.parametrize(
    ("values", "style", "low", "high", "words"),
    [
        ([0.2, 0.4], PROBABILITY, 0, 1, "fixed 0-1"),
        ([0, np.float32(1.0000001)], PROBABILITY, 0, 1, "fixed 0-1"),
        ([-0.5, 0.4, 2], PROBABILITY, 0, 1, "fixed 0-1, 2 tiles beyond it"),
        ([0.2, 3], HeatStyle(limits=(-1, 2)), -1, 2, "fixed -1 to 2, 1 tile beyond it"),
        ([0.2, 0.4, np.nan], RELATIVE, 0.2, 0.4, "this slide's min-max"),
        ([-0.2, 0.4], SIGNED, -0.4, 0.4, "this slide's min-max, symmetric about 0"),
        ([0.5, 0.5], RELATIVE, 0.495, 0.505, "every tile has 0.5"),
        ([0.0, 0.0], SIGNED, -0.01, 0.01, "every tile has 0"),
        ([np.nan], RELATIVE, 0, 1, "no tile has a value"),
    ],
)
def test_the_range_is_raw_and_said_in_words(
    values: list[float], style: HeatStyle, low: float, high: float, words: str
) -> None:
    scale = colour_scale(np.array(values), style)
    assert (scale.low, scale.high, scale.words) == (pytest.approx(low), pytest.approx(high), words)


def test_colours_are_even_in_value_not_in_rank() -> None:
    """Nine low tiles and one high one: with ranks or percentiles the fifth would be in the middle of the map."""
    values = np.array([[0.0, 0.01, 0.02, 1.0]] * 2)
    image = overlay(values, white(20, 40), place(), HeatStyle(limits=None, alpha=1))
    table = np.array(colour_scale(values, RELATIVE).colours)
    np.testing.assert_array_equal(image[5, [5, 15, 25, 35]], table[[0, 3, 5, 255]])


def test_maps_are_ordered_by_lightness() -> None:
    """What survives every kind of colour vision, and a grey printer. CIELAB by scikit-image."""

    def lightness(palette: str) -> NDArray[np.float64]:
        colours = np.array(colour_scale(np.zeros(1), HeatStyle(palette)).colours, np.uint8)
        return rgb2lab(colours[None])[0, ::8, 0]

    for palette in SEQUENTIAL:
        assert (np.diff(lightness(palette)) > 0).all(), palette
    for palette in DIVERGING:
        profile = lightness(palette)
        assert 14 <= profile.argmax() <= 17, palette
        assert (np.diff(profile[:15]) > 0).all() and (np.diff(profile[18:]) < 0).all(), palette


@pytest.mark.parametrize(
    "wrong", [{"palette": "jet"}, {"limits": (1.0, 1.0)}, {"limits": (2.0, 1.0)}, {"alpha": 1.5}, {"alpha": -0.1}]
)
def test_styles_that_mislead_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        HeatStyle(**wrong)  # type: ignore[arg-type]


def test_values_of_another_lattice_are_refused() -> None:
    with pytest.raises(ValueError, match="lattice of shape"):
        overlay(np.zeros((4, 2)), white(20, 40), place())


# The figure

LABELS = HeatLabels(score="p(tumour)", slide_id="case-7", encoder="plip", mpp=1.12)
VALUES = np.linspace(0, 1, 8).reshape(2, 4)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text a figure gets."""
    texts: list[str] = []
    original = matplotlib.figure.Figure.text

    def text(self: matplotlib.figure.Figure, x: float, y: float, s: str, **kwargs: object) -> object:
        texts.append(s)
        return original(self, x, y, s, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(matplotlib.figure.Figure, "text", text)
    return texts


def test_the_figure_says_how_to_read_it(written: list[str]) -> None:
    caution = encoder_caution(domain="synthetic tissue only")
    labels = HeatLabels(score="similarity", slide_id="case-7", encoder="demo", mpp=1.12, unit="cos", caution=caution)
    heatmap_figure(VALUES, white(20, 40), place(), labels)
    sheet = "\n".join(written)
    for words in ("similarity", "case-7", "demo · tile 112 µm", "fixed 0-1", "100 µm", "0 cos", "0.5 cos", "1 cos"):
        assert words in sheet
    assert caution in " ".join(written)


def test_an_overlapping_grid_says_so(written: list[str]) -> None:
    grid = lattice(np.ones((2, 4), bool), span=100, stride=50, origin=(1000, 500))
    heatmap_figure(VALUES, white(20, 40), place(grid), LABELS)
    assert any("tile 112 µm, every 56 µm" in text for text in written)


def test_the_figure_holds_the_overlay_pixel_for_pixel() -> None:
    thumbnail = np.random.default_rng(1).integers(0, 256, (300, 600, 3), np.uint8)
    figure = np.asarray(Image.open(io.BytesIO(heatmap_figure(VALUES, thumbnail, place(shape=(300, 600)), LABELS))))
    picture = overlay(VALUES, thumbnail, place(shape=(300, 600)))
    distance = cv2.matchTemplate(figure[..., :3].copy(), picture, cv2.TM_SQDIFF)
    y, x = np.unravel_index(distance.argmin(), distance.shape)
    np.testing.assert_array_equal(figure[y : y + 300, x : x + 600, :3], picture)


def test_same_input_same_bytes_without_date_or_maker() -> None:
    first = heatmap_figure(VALUES, white(20, 40), place(), LABELS)
    assert first == heatmap_figure(VALUES, white(20, 40), place(), LABELS)
    assert first.startswith(b"\x89PNG") and b"tEXt" not in first and b"tIME" not in first


@pytest.mark.parametrize("name", [r"$\frac{$", "日本 <b>", "a\nb\t\x00", "x" * 500, "", "_^{}%&"])
def test_names_are_taken_literally(name: str) -> None:
    labels = HeatLabels(score=name, slide_id=name, encoder=name, mpp=0.5, unit=name[:5], caution=name)
    assert heatmap_figure(VALUES, white(20, 40), place(), labels).startswith(b"\x89PNG")


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys, pipeline.heatmap as h, numpy as n; h.colour_scale(n.zeros(1));"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("width", "bar"), [(3000, 1000), (2999, 500), (1000, 200), (600, 200), (30_720, 10_000), (2, 0.5)]
)
def test_scale_bars_are_round_and_at_most_a_third(width: float, bar: float) -> None:
    assert scale_bar_um(width) == pytest.approx(bar)


def test_lengths_as_people_write_them() -> None:
    assert [length_text(um) for um in (0.5, 111.97, 999, 1000, 2500)] == [
        "0.5 µm",
        "112 µm",
        "999 µm",
        "1 mm",
        "2.5 mm",
    ]


def test_only_encoders_in_doubt_get_a_caution() -> None:
    assert encoder_caution() == ""
    assert "Random weights" in encoder_caution(untrained=True, domain="synthetic tissue only")
    assert "synthetic tissue only" in encoder_caution(domain="synthetic tissue only")


# The outline


def test_an_outline_lies_on_the_edges_of_the_tissue_and_of_its_holes() -> None:
    frame = Frame((1000, 500), (10.0, 10.0))
    tissue = Polygon(box(1100, 600, 1800, 1200).exterior.coords, [box(1300, 800, 1500, 1000).exterior.coords])
    image = draw_outline(white(100, 100), MultiPolygon([tissue]), frame)
    drawn = np.abs(image.astype(int) - OUTLINE).sum(axis=2) < 200
    rows, cols = np.nonzero(drawn)
    # Edges lie between pixels: at x = 10 the line shares pixels 9 and 10; at the far side, x = 80, 79 and 80.
    assert (cols.min(), cols.max(), rows.min(), rows.max()) == (9, 80, 9, 70)
    assert drawn[40, [29, 30, 49, 50]].any() and not drawn[32:48, 32:48].any()  # the hole's border, not its middle
    assert not drawn[20, 20:60].any()


def test_drawing_gives_copies_and_takes_empty_outlines() -> None:
    thumbnail = white(20, 40)
    np.testing.assert_array_equal(draw_outline(thumbnail, MultiPolygon(), place().frame), thumbnail)
    draw_outline(thumbnail, MultiPolygon([box(1000, 500, 1300, 600)]), place().frame)
    draw_tiles(thumbnail, place())
    assert (thumbnail == 255).all()


def test_only_kept_tiles_are_drawn() -> None:
    keep = np.zeros((2, 4), bool)
    keep[0, 1] = True
    drawn = changed(draw_tiles(white(20, 40), place(lattice(keep, 100, 100, (1000, 500)))))
    expected = np.zeros((20, 40), bool)
    expected[0:11, 10:21] = True
    expected[1:10, 11:20] = False
    np.testing.assert_array_equal(drawn, expected)
