"""Quality flags: raised on what was done to a tile, and on no good tissue of any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tiling import TileGrid, TileSpec, detect_tissue, read_tiles
from tiling.quality import BLUR, FOLD, NAMES, PEN, SATURATED, drop_mask, flag_counts, listed_flags, tile_flags
from wsi import open_slide
from wsi.errors import UsageError

Tile = NDArray[np.uint8]  # (224, 224, 3)

MPP = 0.5
PX = 224
GLASS = 243.0
# Optical density (log10) in R, G, B of a unit of stain.
HAEMATOXYLIN, EOSIN, DAB = np.array([0.55, 0.735, 0.40]), np.array([0.10, 0.85, 0.35]), np.array([0.27, 0.57, 0.78])
# Share of the light a pen lets through.
INKS = {
    "black": (0.09, 0.09, 0.11),
    "blue": (0.13, 0.24, 0.62),
    "green": (0.10, 0.48, 0.30),
    "red": (0.75, 0.10, 0.12),
}


def noise(sigma_px: float, seed: int) -> NDArray[np.float64]:
    field = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (PX, PX)), (0, 0), sigma_px)
    return np.asarray(field / field.std())


def nuclei(spacing: int, radius: int, seed: int = 3) -> NDArray[np.float64]:
    """0-1, sharp to a pixel: discs on a jittered lattice, mottled within."""
    rng = np.random.default_rng(seed)
    cover = np.zeros((PX, PX), np.uint8)
    for y in range(0, PX, spacing):
        for x in range(0, PX, spacing):
            dx, dy = rng.integers(-spacing // 4, spacing // 4 + 1, 2)
            cv2.circle(cover, (x + int(dx), y + int(dy)), radius, 255, -1, cv2.LINE_AA)
    return np.asarray(cover / 255 * np.clip(1 + 0.25 * noise(1.0, seed + 1), 0.3, 2))


def seen(*stains: tuple[NDArray[np.float64], NDArray[np.float64]], seed: int = 9) -> Tile:
    """What a scanner makes of maps of stain: transmitted light, a sharp lens, a grey level of noise."""
    density = sum(amount[..., None] * colour for amount, colour in stains)
    light = cv2.GaussianBlur(GLASS * 10.0**-density, (0, 0), 0.6)
    return np.clip(light + np.random.default_rng(seed).normal(0, 1, light.shape), 0, 255).astype(np.uint8)


def he(strength: float = 1.0, spacing: int = 20, radius: int = 5) -> Tile:
    """Cells in a fibrous ground."""
    ground = np.clip(0.28 + 0.09 * noise(1.5, 1) + 0.06 * noise(6, 2), 0.03, None)
    return seen((0.75 * strength * nuclei(spacing, radius), HAEMATOXYLIN), (strength * ground, EOSIN))


def ihc(brown: float) -> Tile:
    """Blue nuclei, some membranes and cytoplasm brown."""
    cells = nuclei(20, 5)
    stained = np.clip(noise(12, 5) + brown, 0, 1.5) * np.clip(0.5 + 0.2 * noise(1.5, 6), 0, None)
    return seen((0.5 * cells + 0.04, HAEMATOXYLIN), (0.8 * stained, DAB))


def fat() -> Tile:
    """Thin membranes around empty cells."""
    cover = np.zeros((PX, PX), np.uint8)
    for x in range(-20, PX, 75):
        for y in range(-20, PX, 75):
            cv2.circle(cover, (x + 37 + y % 20, y + 37), 36, 255, 2, cv2.LINE_AA)
    return seen((cover / 255 * 0.3, EOSIN))


def mucus() -> Tile:
    """Pale and smooth, in waves."""
    return seen((np.clip(0.08 + 0.03 * noise(14, 8), 0, None), HAEMATOXYLIN))


GOOD = {
    "pale H&E": lambda: he(0.45),
    "H&E": he,
    "dark H&E": lambda: he(1.5),
    "lymphocytes": lambda: he(1.3, spacing=13, radius=6),
    "IHC, brown": lambda: ihc(0.8),
    "IHC, blue": lambda: ihc(-1.0),
    "fat": fat,
    "mucus": mucus,
    "glass": lambda: seen((np.zeros((PX, PX)), EOSIN)),
    "white": lambda: np.full((PX, PX, 3), 255, np.uint8),
}


def flags(tile: Tile, mpp: float = MPP) -> int:
    return int(tile_flags(tile[None], mpp)[0])


def blurred(tile: Tile, sigma_px: float) -> Tile:
    return np.asarray(cv2.GaussianBlur(tile, (0, 0), sigma_px))


def inked(tile: Tile, ink: tuple[float, float, float], width: int = 80) -> Tile:
    """A stroke across the tile that takes nine tenths of what an opaque one would."""
    cover = np.zeros((PX, PX), np.float32)
    cv2.line(cover, (0, 45), (PX - 1, 170), 1, width)
    cover = np.asarray(cv2.GaussianBlur(cover, (0, 0), 3))[..., None] * 0.9
    return (tile * (1 - cover * (1 - np.array(ink)))).astype(np.uint8)


def folded(tile: Tile, width: int = 70) -> Tile:
    """A strip that lies twice: the light goes through another part of the tissue too."""
    strip = np.zeros((PX, PX), np.float32)
    cv2.line(strip, (0, 70), (PX - 1, 150), 1, width)
    return (tile * np.where(strip[..., None] > 0, np.minimum(tile[::-1, ::-1] / GLASS, 1), 1)).astype(np.uint8)


@pytest.mark.parametrize("kind", GOOD)
def test_good_tissue_has_no_flag(kind: str) -> None:
    assert flags(GOOD[kind]()) == 0


def test_a_black_tile_and_a_tiny_one_are_judged_without_a_warning() -> None:
    assert flags(np.zeros((PX, PX, 3), np.uint8)) & BLUR == 0
    assert tile_flags(np.full((2, 1, 1, 3), 128, np.uint8), MPP).shape == (2,)
    assert tile_flags(np.zeros((0, PX, PX, 3), np.uint8), MPP).dtype == np.uint8


@pytest.mark.parametrize("sigma", [3, 4, 6])
@pytest.mark.parametrize("kind", ["pale H&E", "H&E", "dark H&E", "lymphocytes", "IHC, brown", "IHC, blue"])
def test_the_same_tile_out_of_focus(kind: str, sigma: float) -> None:
    assert flags(blurred(GOOD[kind](), sigma)) == BLUR


def test_a_soft_lens_is_no_blur_and_noise_hides_none() -> None:
    assert flags(blurred(he(), 1)) == 0
    noisy = np.clip(blurred(he(), 3) + np.random.default_rng(1).normal(0, 2, (PX, PX, 3)), 0, 255).astype(np.uint8)
    assert flags(noisy) == BLUR


def test_blur_is_physical() -> None:
    """The same field of tissue, cut at 0.25 um/px and at 0.5."""
    fine = np.asarray(cv2.resize(he(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
    assert [flags(blurred(fine, sigma), 0.25) for sigma in (0.01, 2, 6, 8)] == [0, 0, BLUR, BLUR]


def test_one_grain_of_dust_makes_no_tile_sharp() -> None:
    tile = blurred(he(), 4)
    tile[100:106, 100:104] = 40
    assert flags(tile) == BLUR


@pytest.mark.parametrize("kind", ["pale H&E", "H&E", "IHC, blue", "fat"])
@pytest.mark.parametrize("ink", INKS)
def test_pen_over_tissue(ink: str, kind: str) -> None:
    assert flags(inked(GOOD[kind](), INKS[ink])) & PEN


def test_a_corner_of_ink_is_let_pass() -> None:
    tile = he()
    tile[:50, :50] = tile[:50, :50] * np.array(INKS["green"])
    assert flags(tile) == 0


def test_a_second_layer() -> None:
    solid = [he(strength, spacing=26, radius=3) for strength in (1.3, 1.5, 1.7)]
    assert [flags(tile) for tile in solid] == [0, 0, 0]
    assert [flags(folded(tile)) for tile in solid] == [FOLD, FOLD, FOLD]


def test_an_epithelium_beside_its_stroma_is_no_fold() -> None:
    tile = he(0.8, spacing=26, radius=3)
    tile[:, :80] = he(1.6, spacing=9, radius=5)[:, :80]
    assert flags(tile) == 0


@pytest.mark.parametrize(("gain", "offset"), [(1.45, 0), (2.2, -220)])
def test_clipped_at_either_end(gain: float, offset: float) -> None:
    tile = np.clip(he(0.9).astype(float) * gain + offset, 0, 255).astype(np.uint8)
    assert flags(tile) & SATURATED
    assert flags(he(0.9)) == 0


def test_white_glass_is_not_clipped_tissue() -> None:
    tile = he()
    tile[:, :150] = 255
    assert flags(tile) == 0


def test_each_tile_is_judged_by_itself() -> None:
    tiles = [he(), blurred(he(), 3), inked(he(), INKS["blue"]), mucus(), folded(he(1.5, 26, 3))]
    assert tile_flags(np.stack(tiles), MPP).tolist() == [flags(tile) for tile in tiles] == [0, BLUR, PEN, 0, FOLD]


def test_names_and_bits() -> None:
    assert [drop_mask([name]) for name in NAMES] == [BLUR, PEN, FOLD, SATURATED]
    assert drop_mask(()) == 0 and drop_mask(["pen", "blur", "pen"]) == BLUR | PEN
    assert listed_flags(" pen, blur") == ("blur", "pen") and listed_flags("none") == listed_flags("") == ()
    assert flag_counts(np.array([0, 1, 3, 8, 9], np.uint8)) == {"blur": 3, "pen": 1, "fold": 0, "saturated": 2}
    with pytest.raises(UsageError, match=r"no quality flag 'blurr'\. Did you mean blur\?"):
        listed_flags("pen,blurr")
    with pytest.raises(UsageError, match="no quality flag 'xyz'. Flags are blur, pen, fold, saturated"):
        listed_flags("xyz")


# Real tissue

SLIDES = {"CMU-1-Small-Region.svs": None, "TCGA-CR-7395-01A-01-TS1.svs": 0.5}


@pytest.fixture(scope="module")
def tissue(shared_data: Callable[[str], Path]) -> Callable[[str], NDArray[np.uint8]]:
    def tiles(name: str) -> NDArray[np.uint8]:
        with open_slide(shared_data(f"slides/{name}"), mpp=SLIDES[name]) as slide:
            grid = TileGrid.over(slide, detect_tissue(slide), TileSpec())
            return np.concatenate([batch.pixels for batch in read_tiles(slide, grid)])[::3]

    return tiles


@pytest.mark.parametrize("name", SLIDES)
def test_real_tissue_as_it_is_and_as_it_must_not_be(name: str, tissue: Callable[[str], NDArray[np.uint8]]) -> None:
    tiles = tissue(name)
    as_is = tile_flags(tiles, MPP)
    assert not (as_is & (BLUR | PEN | SATURATED)).any()
    assert np.mean(as_is != 0) <= 0.02  # the rim of the TCGA slide is folded over
    assert np.mean(tile_flags(np.stack([blurred(t, 3) for t in tiles]), MPP) & BLUR > 0) > 0.98
    for ink, least in (("blue", 0.9), ("green", 0.98), ("black", 0.75), ("red", 0.9)):
        assert np.mean(tile_flags(np.stack([inked(t, INKS[ink]) for t in tiles]), MPP) & PEN > 0) > least, ink


def test_all_nine_tissues_of_the_colon(shared_data: Callable[[str], Path]) -> None:
    paths = sorted(shared_data("patches/nct_crc_he").glob("*.tif"))
    found = {path.name: int(f) for path, f in zip(paths, tile_flags(np.stack([*map(opened, paths)]), MPP), strict=True)}
    assert not any(f & (BLUR | PEN | SATURATED) for f in found.values()), found
    assert sum(f > 0 for f in found.values()) <= 1, found


def opened(path: Path) -> Tile:
    return np.asarray(Image.open(path).convert("RGB"))
