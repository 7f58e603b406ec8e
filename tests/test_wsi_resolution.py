"""Which resolution is believed, from properties as the readers give them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from slides import noise, tiled_tiff

from wsi import Region, open_slide
from wsi.errors import MppImplausible, MppMissing
from wsi.resolution import GIVEN, NONE, objective_power, resolve


def openslide(x: str, y: str | None = None) -> dict[str, str]:
    return {"openslide.mpp-x": x, "openslide.mpp-y": y or x}


def tag(x: float, unit: str = "centimeter", y: float | None = None) -> dict[str, str]:
    return {"tiff.XResolution": str(x), "tiff.YResolution": str(y or x), "tiff.ResolutionUnit": unit}


def ome(**attributes: str) -> dict[str, str]:
    text = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return {"tiff.ImageDescription": f'<?xml version="1.0"?><OME><Image><Pixels {text}/></Image></OME>'}


@pytest.mark.parametrize(
    ("facts", "mpp", "source"),
    [
        ({}, None, NONE),
        (openslide("0.499"), 0.499, "openslide.mpp-x"),
        (openslide("0,2325"), 0.2325, "openslide.mpp-x"),
        (openslide("0.25", "0.252"), math.sqrt(0.25 * 0.252), "openslide.mpp-x"),
        (openslide("0.499") | {"aperio.MPP": "0.25"}, 0.499, "openslide.mpp-x"),
        ({"aperio.MPP": "0.4990"}, 0.499, "aperio.MPP"),
        ({"aperio.MPP": "0,4990"} | tag(40_000), 0.499, "aperio.MPP"),
        ({"aperio.MPP": "unknown"} | tag(40_000), 0.25, "tiff.XResolution"),
        (openslide("0") | {"aperio.MPP": "0.25"}, 0.25, "aperio.MPP"),
        (openslide("nan") | tag(40_000), 0.25, "tiff.XResolution"),
        (openslide("-0.25") | tag(40_000), 0.25, "tiff.XResolution"),
        (openslide("inf") | tag(40_000), 0.25, "tiff.XResolution"),
        (openslide("0.25", "0.30") | tag(40_000), 0.25, "tiff.XResolution"),
        (ome(PhysicalSizeX="0.227", PhysicalSizeY="0.227"), 0.227, "ome.PhysicalSizeX"),
        (ome(PhysicalSizeX="0.227", PhysicalSizeXUnit="µm"), 0.227, "ome.PhysicalSizeX"),
        (ome(PhysicalSizeX="0.227", PhysicalSizeXUnit="μm"), 0.227, "ome.PhysicalSizeX"),
        (ome(PhysicalSizeX="227", PhysicalSizeXUnit="nm", PhysicalSizeYUnit="nm"), 0.227, "ome.PhysicalSizeX"),
        (ome(PhysicalSizeX="0.000227", PhysicalSizeXUnit="mm", PhysicalSizeYUnit="mm"), 0.227, "ome.PhysicalSizeX"),
        (ome(PhysicalSizeX="0.227", PhysicalSizeXUnit="pixel"), None, NONE),
        (ome(SizeX="100"), None, NONE),
        ({"tiff.ImageDescription": 'PhysicalSizeX="0.5" in a sentence'}, None, NONE),
        ({"tiffslide.mpp-x": "0.25", "tiffslide.mpp-y": "0.25"}, 0.25, "tiffslide.mpp-x"),
        (tag(40_000), 0.25, "tiff.XResolution"),
        (tag(40_000, "CENTIMETER"), 0.25, "tiff.XResolution"),
        (tag(101_600, "inch"), 0.25, "tiff.XResolution"),
        (tag(4, "MICROMETER"), 0.25, "tiff.XResolution"),
        (tag(40_000, "none"), None, NONE),
        (tag(0), None, NONE),
        (openslide("0.25") | tag(40_000), 0.25, "tiff.XResolution"),  # one figure, named after where it was written
        ({"image.dpi-x": "50800", "image.dpi-y": "50800"}, 0.5, "image.dpi"),
    ],
)
def test_precedence(facts: dict[str, str], mpp: float | None, source: str) -> None:
    found = resolve(facts)
    assert found.source == source
    assert found.mpp == (mpp if mpp is None else pytest.approx(mpp, rel=1e-9))


@pytest.mark.parametrize(
    ("dots", "unit", "um"),
    [*((dots, "inch", 25_400) for dots in (1, 72, 96, 600)), *((dots, "centimeter", 10_000) for dots in (1, 72, 118))],
)
def test_printers_settings_are_no_resolution(dots: int, unit: str, um: int) -> None:
    """Nor a claim that has to be refused, be it under the tag's name or the library's: plainly nothing."""
    for facts in (tag(dots, unit), tag(dots, unit) | openslide(f"{um / dots:.17g}"), {"image.dpi-x": "72"}):
        found = resolve(facts)
        assert (found.mpp, found.warnings) == (None, ())
        with pytest.raises(MppMissing, match="--mpp.*column `mpp`"):
            found.require(Path("a.tif"))


@pytest.mark.parametrize("text", ["0", "-0.5", "nan", "0.00499", "28.97", "250", "inf"])
def test_figures_that_cannot_be_are_told(text: str) -> None:
    found = resolve(openslide(text))
    assert found.mpp is None and found.source == NONE
    assert (
        found.warnings
        == found.refused
        == (f"openslide.mpp-x says {float(text):.4g} um per pixel, outside 0.05-20: not used.",)
    )
    overview = text in ("28.97", "250")
    with pytest.raises(MppImplausible, match="looks like an overview" if overview else "--mpp") as caught:
        found.require(Path("a.svs"))
    assert str(caught.value).startswith("a.svs: openslide.mpp-x says") and caught.value.facts["coarse"] is overview


def test_pixels_that_are_not_square_are_told() -> None:
    found = resolve(openslide("0.25", "0.30"))
    assert found.warnings == ("openslide.mpp-x says 0.25 x 0.3 um per pixel, which is not square: not used.",)
    assert resolve(openslide("0.25", "0.2524")).mpp is not None
    assert resolve(openslide("0.25", "0.2526")).mpp is None


def test_the_caller_goes_first() -> None:
    found = resolve(openslide("0.499"), given=0.25)
    assert (found.mpp, found.source) == (0.25, GIVEN)
    assert found.warnings == ("The 0.25 um per pixel given by the caller replace the 0.499 of openslide.mpp-x.",)
    assert resolve(openslide("0.499"), given=0.4991).warnings == ()
    assert resolve({}, given=0.25).warnings == ()
    assert resolve(openslide("0.00499"), given=0.499).require(Path("a.svs")) == 0.499


@pytest.mark.parametrize(
    ("mpp", "power", "warned"),
    [
        ("0.25", "40", False),
        ("0.2281750559", "40", False),
        ("0.32", "40", False),
        ("0.33", "40", True),
        ("0.17", "40", True),
        ("0.499", "20", False),
        ("0.25", "20", True),
        ("0.5", "0", False),
        ("0.5", "unknown", False),
    ],
)
def test_resolution_against_the_objective(mpp: str, power: str, warned: bool) -> None:
    found = resolve(openslide(mpp) | {"openslide.objective-power": power})
    assert found.mpp == float(mpp)
    assert len(found.warnings) == warned
    assert all(f"unusual for {power}x" in warning for warning in found.warnings)


def test_objective_power_by_any_name() -> None:
    assert objective_power({}) is None
    assert objective_power({"openslide.objective-power": "40"}) == 40
    assert objective_power({"aperio.AppMag": "20"}) == 20
    assert objective_power({"tiffslide.objective-power": "40.0"}) == 40
    assert objective_power(ome(NominalMagnification="20.0")) == 20


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_a_tag_through_both_readers(reader: str, tmp_path: Path) -> None:
    for dots, mpp in ((40_000.0, 0.25), (28.0, None)):
        path = tiled_tiff(tmp_path / "a.tif", noise(300, 300), resolution=(dots, dots))
        with open_slide(path, reader=reader) as slide:
            assert slide.mpp_source == ("tiff.XResolution" if mpp else "none")
            assert slide._resolution.mpp == mpp


def test_a_slide_without_resolution_is_usable_but_for_mpp(tmp_path: Path) -> None:
    with open_slide(tiled_tiff(tmp_path / "a.tif", noise(300, 300))) as slide:
        assert slide.thumbnail(100).shape == (100, 100, 3)
        assert slide.read(Region(0, 0, 30, 30)).shape == (30, 30, 3)
        assert slide.mpp_source == "none"
        for use in (lambda: slide.mpp, lambda: slide.overview(8)):
            with pytest.raises(MppMissing, match="a.tif does not say how large its pixels are"):
                use()
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, GIVEN)


@pytest.mark.parametrize(
    ("name", "mpp", "source"),
    [
        ("CMU-1-Small-Region.svs", 0.499, "openslide.mpp-x"),
        ("CMU-1-Small-Region.jpeg.tiff", MppImplausible, "none"),
        ("TCGA-CR-7395-01A-01-TS1.svs", MppMissing, "none"),
        ("wsipacker_example.tif", 0.98719728520746564, "tiff.XResolution"),
        ("OS-1-detail.ome.tif", 0.2271, "tiff.XResolution"),
        ("camelyon_overview.dcm", MppImplausible, "none"),
        ("histoprep_slide.jpeg", MppMissing, "none"),
        ("fluorescence_DAPI.ndpi", 0.2281750559028887, "tiff.XResolution"),
        ("dicom_CMU-1-Small-Region", 0.499, "openslide.mpp-x"),
    ],
)
def test_real_slides(name: str, mpp: float | type[Exception], source: str, shared_data: Callable[[str], Path]) -> None:
    with open_slide(shared_data(f"slides/{name}")) as slide:
        assert slide.mpp_source == source
        if isinstance(mpp, float):
            assert slide.mpp == pytest.approx(mpp, rel=1e-4)
            assert slide.warnings == ()
        else:
            with pytest.raises(mpp):
                _ = slide.mpp
            assert bool(slide.warnings) == (mpp is MppImplausible)
