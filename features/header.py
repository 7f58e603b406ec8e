"""The label on a feature grid: which slide, tiles, tissue and encoder its features come from."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from features.spec import EncoderSpec
from tiling.grid import TileGrid, TileSpec
from wsi.errors import ArtefactError, GridDamaged
from wsi.identity import digest, plain

FORMAT, VERSION = "feature-grid", 1

_NAME_LENGTH = 100
_NOT_COMPARED = ("slide_mpp_source", "toolkit_version")  # told to people; they change no feature

Spec = TypeVar("Spec", TileSpec, EncoderSpec)


class SlideFacts(Protocol):
    """The part of an open slide that a header keeps."""

    @property
    def path(self) -> Any: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def mpp(self) -> float: ...

    @property
    def mpp_source(self) -> str: ...

    @property
    def reader(self) -> str: ...


def identity_digest(encoder_spec: EncoderSpec, tile_spec: TileSpec, tissue_config: Any) -> str:
    """SHA-256 (64 hex digits) over all fields of the three; a config and its `plain` dict give the same."""
    return digest(encoder_spec, tile_spec, _plain_config(tissue_config))


def grid_name(encoder_spec: EncoderSpec, tile_spec: TileSpec, tissue_config: Any) -> str:
    """Folder name of a grid, `<encoder>-<12 hex digits>.zarr`; the slide is named by the folder it lies in."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", encoder_spec.name).lstrip(".")[:_NAME_LENGTH]
    return f"{safe}-{identity_digest(encoder_spec, tile_spec, tissue_config)[:12]}.zarr"


def toolkit_version() -> str:
    """Version of the installed toolkit, or "unknown" where it runs from a bare source folder."""
    try:
        return importlib.metadata.version("wsi-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class GridHeader:
    """Everything that a feature depends on, and what people ask about it. Kept as the attributes of the Zarr group."""

    slide_id: str
    slide_fingerprint: str
    slide_mpp: float  # um per level-0 px
    slide_mpp_source: str  # where that came from
    reader: str  # decodes the pixels; two readers may differ by a grey level
    origin: tuple[int, int]  # level-0 (x, y) of cell 0
    span_px: int  # side of a tile in level-0 px
    stride_px: int  # distance between neighbours in level-0 px
    tile_spec: TileSpec
    tissue_config: dict[str, Any]  # plain JSON; empty where the tissue came from elsewhere
    encoder_spec: EncoderSpec
    dtype: str = "float16"  # of the stored features; float32 for encoders that overflow it
    toolkit_version: str = field(default_factory=toolkit_version)

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"features are stored as float16 or float32, not {self.dtype}")

    @classmethod
    def of(
        cls,
        slide: SlideFacts,
        grid: TileGrid,
        encoder_spec: EncoderSpec,
        *,
        tissue: Any = None,
        slide_id: str | None = None,
        dtype: str = "float16",
    ) -> GridHeader:
        """The header for features of `slide` on `grid`.

        `tissue` is the tissue config, a dataclass or its plain dict. Without a `slide_id` the slide goes by the name
        of its file.
        """
        return cls(
            slide_id=Path(str(slide.path)).stem if slide_id is None else slide_id,
            slide_fingerprint=slide.fingerprint,
            slide_mpp=slide.mpp,
            slide_mpp_source=slide.mpp_source,
            reader=slide.reader,
            origin=grid.origin,
            span_px=grid.span_px,
            stride_px=grid.stride_px,
            tile_spec=grid.spec,
            tissue_config=_plain_config(tissue),
            encoder_spec=encoder_spec,
            dtype=dtype,
        )

    @property
    def name(self) -> str:
        """The folder name that `grid_name` gives."""
        return grid_name(self.encoder_spec, self.tile_spec, self.tissue_config)

    def matches(self, wanted: GridHeader) -> str | None:
        """None if features under this header can stand for `wanted`, else the first reason why not.

        Reasons read "slide file changed" or "mpp 0.25 -> 0.5": from this header to the wanted one.
        """
        here, there = _flat(plain(self)), _flat(plain(wanted))
        for key in [*here, *(key for key in there if key not in here)]:
            if key not in _NOT_COMPARED and here.get(key) != there.get(key):
                if key == "slide_fingerprint":
                    return "slide file changed"
                return f"{key.removeprefix('slide_')} {here.get(key)} -> {there.get(key)}"
        return None

    def attributes(self) -> dict[str, Any]:
        """As plain JSON, with the format's name and version."""
        fields = {key: value for key, value in plain(self).items() if key != "kind"}
        return {"format": FORMAT, "version": VERSION, **fields}

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any], path: Path) -> GridHeader:
        """The header that `attributes()` described; `path` is the grid's, for the messages.

        Raises ArtefactError for another format or a newer version, GridDamaged where fields are missing or unknown.
        """
        _check_version(attributes, path)
        fields = {key: value for key, value in attributes.items() if key not in ("format", "version")}
        try:
            fields["origin"] = tuple(fields["origin"])
            fields["tile_spec"] = _spec(TileSpec, fields["tile_spec"])
            fields["encoder_spec"] = _spec(EncoderSpec, fields["encoder_spec"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GridDamaged(
                f"{path}: the attributes of this feature grid, written by toolkit "
                f"{attributes.get('toolkit_version', 'unknown')}, cannot be understood: {error}.",
                hint="Extract the slide again, or read it with the toolkit that wrote it.",
                path=str(path),
            ) from error


def _check_version(attributes: dict[str, Any], path: Path) -> None:
    if attributes.get("format") != FORMAT:
        raise ArtefactError(f"{path}: not a feature grid.", hint="Give the folder that ends in .zarr.", path=str(path))
    version = attributes.get("version")
    if version != VERSION:
        writer = attributes.get("toolkit_version", "unknown")
        raise ArtefactError(
            f"{path}: a feature grid of version {version}, written by toolkit {writer}; this toolkit reads {VERSION}.",
            hint=f"Update the toolkit to {writer} or newer, or extract the slide again.",
            path=str(path),
            version=version,
        )


def _plain_config(config: Any) -> dict[str, Any]:
    return {} if config is None else plain(config)


def _spec(kind: type[Spec], fields: dict[str, Any]) -> Spec:
    """A spec from its plain dict. A field that the writing toolkit did not know yet takes its default."""
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    known.pop("kind", None)
    return kind(**known)


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots: {"encoder_spec.dim": 512}."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat
