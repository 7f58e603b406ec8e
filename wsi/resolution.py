"""How large a pixel is: one precedence table over what slide files say of it, and what is believed.

A figure that cannot be is never used: it is passed over, told in `warnings`, and the next source is asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wsi.errors import MppImplausible, MppMissing
from wsi.location import Location

MPP_RANGE = (0.05, 20.0)  # um per px: from 200x with oversampling to an overview scan
MAX_ANISOTROPY = 0.01  # x against y: beyond it a square of pixels is no square of tissue
MAX_POWER_DISAGREEMENT = 0.3  # of mpp * power / 10 from 1: 40x is about 0.25 um, 20x about 0.5
MAX_REPLACEMENT = 0.01  # the caller's figure against the file's, before it is remarked on
GIVEN, NONE = "given by the caller", "none"

_Facts = Mapping[str, str]
_Pair = tuple[float, float]  # um per px in x and y
_OME_UNITS = {"um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}  # both signs for micro
_TIFF_UNITS = {"inch": 25_400.0, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0}
_COARSE_HINT = "It looks like an overview: leave it out, or give another figure in the manifest's column `mpp`."
_HINT = "Give it with --mpp, or in the manifest's column `mpp`."


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was found out about a slide's resolution."""

    mpp: float | None  # um per level-0 px, geometric mean of both axes; None if nothing can be believed
    source: str  # the property it was taken from, "given by the caller" or "none"
    refused: tuple[str, ...] = ()  # a sentence for each figure that cannot be
    coarse: bool = False  # the file itself claims pixels beyond 20 um: an overview, not a slide without a resolution
    warnings: tuple[str, ...] = ()  # these, and what else a user should know

    def require(self, path: Location) -> float:
        """The resolution. Raises MppImplausible if all the file says cannot be, MppMissing if it says nothing."""
        if self.mpp is not None:
            return self.mpp
        if self.refused:
            hint = _COARSE_HINT if self.coarse else _HINT
            raise MppImplausible(f"{path}: {' '.join(self.refused)}", hint=hint, path=str(path), coarse=self.coarse)
        raise MppMissing(f"{path} does not say how large its pixels are.", hint=_HINT, path=str(path))


def resolve(facts: _Facts, given: float | None = None) -> Resolution:
    """The resolution of a slide from its properties; `given` (um per px) goes before all of them.

    Raises MppImplausible if `given` is not within MPP_RANGE.
    """
    mpp, source, refused = _first_believable(facts)
    warnings = list(refused)
    if given is not None:
        if not _plausible(given):
            raise MppImplausible(_not_used("the call", given), hint="Check the unit: um per pixel.", mpp=given)
        if mpp is not None and abs(given / mpp - 1) > MAX_REPLACEMENT:
            warnings.append(f"The {given:.4g} um per pixel given by the caller replace the {mpp:.4g} of {source}.")
        mpp, source = given, GIVEN
    power = objective_power(facts)
    if mpp is not None and power is not None and abs(mpp * power / 10 - 1) > MAX_POWER_DISAGREEMENT:
        expected = 10 / power
        warnings.append(f"{mpp:.4g} um per pixel ({source}) is unusual for {power:g}x, where about {expected:.3g} is.")
    coarse = any(MPP_RANGE[1] < min(pair) < math.inf for _, pair in _candidates(facts))
    return Resolution(mpp, source, refused, coarse, tuple(warnings))


def objective_power(facts: _Facts) -> float | None:
    """The objective's magnification (40.0), where the file names one."""
    names = ("openslide.objective-power", "tiffslide.objective-power", "aperio.AppMag")
    told = [_number(facts.get(name)) for name in names]
    told.append(_number(_ome_attribute(facts, "NominalMagnification")))
    return next((power for power in told if power is not None and 0 < power < math.inf), None)


def _first_believable(facts: _Facts) -> tuple[float | None, str, tuple[str, ...]]:
    """The first figure that can be and its source; and a sentence for each before it that cannot."""
    refused: list[str] = []
    for source, (x, y) in _candidates(facts):
        if not (_plausible(x) and _plausible(y)):
            refused.append(_not_used(source, y if _plausible(x) else x))
        elif abs(x - y) > MAX_ANISOTROPY * min(x, y):
            refused.append(f"{source} says {x:.4g} x {y:.4g} um per pixel, which is not square: not used.")
        else:
            return (x if x == y else math.sqrt(x * y)), source, tuple(refused)
    return None, NONE, tuple(refused)


def _candidates(facts: _Facts) -> Iterator[tuple[str, _Pair]]:
    """All the figures a file gives, by trust: a vendor's own words before settings that are made for printing."""
    tag = _tiff_tag(facts)
    vendors = (
        ("openslide.mpp-x", _pair(facts, "openslide.mpp-x", "openslide.mpp-y")),  # DICOM, Hamamatsu, Leica, ...
        ("aperio.MPP", _pair(facts, "aperio.MPP", "aperio.MPP")),
        ("ome.PhysicalSizeX", _ome(facts)),
        ("tiffslide.mpp-x", _pair(facts, "tiffslide.mpp-x", "tiffslide.mpp-y")),
        ("ome-zarr.scale", _pair(facts, "ome-zarr.scale-x", "ome-zarr.scale-y")),
    )
    for source, pair in vendors:
        # Readers hand the TIFF tag on as a figure of their own; it is judged once, under its own name.
        if pair and not (tag and math.isclose(pair[0], tag[0], rel_tol=1e-6)):
            yield source, pair
    for source, pair in (("tiff.XResolution", tag), ("image.dpi", _dots(facts))):
        # Coarser than any scan: 1 x 1, 72, 96, 300 to the inch are placeholders and printers' settings, no claim.
        if pair and min(pair) <= MPP_RANGE[1]:
            yield source, pair


def _tiff_tag(facts: _Facts) -> _Pair | None:
    unit = _TIFF_UNITS.get(facts.get("tiff.ResolutionUnit", "").lower())
    return _um_of_dots(_pair(facts, "tiff.XResolution", "tiff.YResolution"), unit)


def _dots(facts: _Facts) -> _Pair | None:
    return _um_of_dots(_pair(facts, "image.dpi-x", "image.dpi-y"), _TIFF_UNITS["inch"])


def _um_of_dots(dots: _Pair | None, unit: float | None) -> _Pair | None:
    """Pixels per unit -> um per pixel; `unit` in um, None where it is not physical."""
    if dots is None or unit is None or not all(0 < n < math.inf for n in dots):
        return None
    return unit / dots[0], unit / dots[1]


def _ome(facts: _Facts) -> _Pair | None:
    x, y = _ome_attribute(facts, "PhysicalSizeX"), _ome_attribute(facts, "PhysicalSizeY")
    x_unit = _OME_UNITS.get(_ome_attribute(facts, "PhysicalSizeXUnit") or "µm")  # the schema's default
    y_unit = _OME_UNITS.get(_ome_attribute(facts, "PhysicalSizeYUnit") or "µm")
    sizes = _number(x), _number(y if y is not None else x)
    if sizes[0] is None or sizes[1] is None or x_unit is None or y_unit is None:
        return None
    return sizes[0] * x_unit, sizes[1] * y_unit


def _ome_attribute(facts: _Facts, name: str) -> str | None:
    """The first value of an attribute in the file's OME-XML: that of its first image, which is the slide.

    Searched for rather than parsed: a hostile XML has nothing to expand here.
    """
    for place in ("tiff.ImageDescription", "openslide.comment", "tiffslide.comment"):
        text = facts.get(place, "")
        if "<OME" in text:
            found = re.search(rf'\b{name}="([^"]*)"', text)
            return found[1] if found else None
    return None


def _pair(facts: _Facts, x_name: str, y_name: str) -> _Pair | None:
    x = _number(facts.get(x_name))
    y = _number(facts.get(y_name))
    return None if x is None else (x, x if y is None else y)


def _number(text: str | None) -> float | None:
    """The number a text holds, with a point or, after some locales, a comma."""
    try:
        return None if text is None else float(text.strip().replace(",", "."))
    except ValueError:
        return None


def _plausible(mpp: float) -> bool:
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def _not_used(source: str, mpp: float) -> str:
    low, high = MPP_RANGE
    return f"{source} says {mpp:.4g} um per pixel, outside {low:g}-{high:g}: not used."
