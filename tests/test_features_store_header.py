"""The identity of a grid covers every field of what made it, and a header says why it does not fit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from features_samples import ENCODER, TISSUE, header, lattice

from features.header import GridHeader, grid_name, identity_digest
from tiling.grid import TileSpec
from wsi.errors import GridDamaged
from wsi.identity import plain


@dataclass(frozen=True)
class Tissue:
    """Stands for any tissue config."""

    method: str = "otsu"
    mpp: float = 8.0
    holes: bool = True
    grow_um: float | None = None


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if value is None:
        return 3
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 if value * 2 != value else 1
    if isinstance(value, str):
        return value + "x"
    return tuple(changed(item) for item in value)


def tile_spec_with(name: str) -> TileSpec:
    allowed = {"min_tissue": 0.25, "stain": "macenko"}
    value = allowed.get(name) or changed(getattr(TileSpec(), name))
    return replace(TileSpec(), **{name: value})


def test_every_field_of_every_spec_is_in_the_identity() -> None:
    first = identity_digest(ENCODER, TileSpec(), Tissue())
    others = [identity_digest(ENCODER, tile_spec_with(f.name), Tissue()) for f in dataclasses.fields(TileSpec)]
    for spec, place in ((ENCODER, 0), (Tissue(), 2)):
        for f in dataclasses.fields(spec):
            specs: list[Any] = [ENCODER, TileSpec(), Tissue()]
            specs[place] = replace(spec, **{f.name: changed(getattr(spec, f.name))})
            others.append(identity_digest(*specs))
    assert len(others) >= 5 + 11 + 4
    assert len({first, *others}) == 1 + len(others)


def test_a_config_and_its_plain_dict_have_one_identity() -> None:
    assert identity_digest(ENCODER, TileSpec(), Tissue()) == identity_digest(ENCODER, TileSpec(), plain(Tissue()))
    assert identity_digest(ENCODER, TileSpec(), None) == identity_digest(ENCODER, TileSpec(), {})


@pytest.mark.parametrize(
    "name", ["plip", "open_clip:ViT-B-32:laion2b", "timm:hf-hub:a/b", "../../x", "a" * 300, ".hid"]
)
def test_names_of_grids_are_safe_for_files(name: str) -> None:
    found = grid_name(replace(ENCODER, name=name), TileSpec(), None)
    assert Path(found).name == found
    assert not found.startswith(".")
    assert len(found) < 130
    assert found.endswith(identity_digest(replace(ENCODER, name=name), TileSpec(), None)[:12] + ".zarr")


def test_a_header_survives_json() -> None:
    first = header(lattice(3))
    assert GridHeader.from_attributes(json.loads(json.dumps(first.attributes())), Path("g")) == first


def test_a_field_the_writer_did_not_know_takes_its_default_and_a_missing_or_foreign_one_is_named() -> None:
    attributes = header(lattice(3)).attributes()
    spec = attributes["tile_spec"]
    del attributes["encoder_spec"]["domain"], spec["stain"], spec["quality"]
    found = GridHeader.from_attributes(attributes, Path("g"))
    assert (found.encoder_spec, found.tile_spec.stain, found.tile_spec.quality) == (ENCODER, "none", False)
    foreign = attributes | {"colour_space": "lab"}
    with pytest.raises(GridDamaged, match="colour_space"):
        GridHeader.from_attributes(foreign, Path("g"))
    del attributes["encoder_spec"]
    with pytest.raises(GridDamaged, match="encoder_spec"):
        GridHeader.from_attributes(attributes, Path("g"))


def test_matches_compares_every_field_but_the_two_that_change_no_feature() -> None:
    first = header(lattice(3))
    silent = []
    for f in dataclasses.fields(GridHeader):
        value = getattr(first, f.name)
        if f.name == "dtype":
            other: Any = "float32"
        elif f.name == "tissue_config":
            other = {**TISSUE, "mpp": 4.0}
        elif f.name == "tile_spec":
            other = TileSpec(mpp=1.0)
        elif f.name == "encoder_spec":
            other = replace(ENCODER, precision="bfloat16")
        else:
            other = changed(value)
        if first.matches(replace(first, **{f.name: other})) is None:
            silent.append(f.name)
    assert silent == ["slide_mpp_source", "toolkit_version"]
    assert first.matches(header(lattice(3))) is None


def test_reasons_are_for_people() -> None:
    first = header(lattice(3))
    assert first.matches(replace(first, slide_fingerprint="0" * 64)) == "slide file changed"
    assert first.matches(replace(first, slide_mpp=0.5)) == "mpp 0.25 -> 0.5"
    assert first.matches(replace(first, reader="fast")) == "reader openslide -> fast"
    other = replace(ENCODER, precision="bfloat16")
    assert first.matches(replace(first, encoder_spec=other)) == "encoder_spec.precision float32 -> bfloat16"
    assert first.matches(replace(first, tissue_config={})) == "tissue_config.kind TissueConfig -> None"


def test_features_are_stored_in_one_of_two_types() -> None:
    with pytest.raises(ValueError, match="float16 or float32"):
        header(lattice(3), dtype="int8")
