"""run.toml: one section per room, each the room's own dataclass; an unknown key is refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tiling.grid import TileSpec
from tiling.quality import unknown_flag
from tiling.supervised import ReaderConfig
from tiling.tissue import TissueConfig
from wsi.errors import ConfigError, UsageError
from wsi.wording import number_of


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which encoder, and how it is run. `batch_size` is no part of a feature's identity: on a CPU it
    changes no byte, on a GPU the last bits of a row may depend on it."""

    name: str = "plip"  # see `wsi models list`
    weights: str | None = None  # hub id, folder or file; None: the encoder's own default
    precision: str = "auto"  # float32, bfloat16, float16; auto: float32 on a CPU, bfloat16 on a GPU that has it
    untrained: bool = False  # the weights are random: features are stored, labels are not shown
    batch_size: int = 64  # tiles per forward pass; rounded up to a multiple of 32
    dtype: str = "float16"  # of the stored features: float16 or float32

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"dtype is float16 or float32, not {self.dtype!r}")
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"precision is auto, float32, bfloat16 or float16, not {self.precision!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {self.batch_size}")


@dataclass(frozen=True, slots=True)
class ZeroShotConfig:
    """How tiles' similarities to prompts become a slide's scores."""

    prompts: str = ""  # a shipped set (`wsi models list`) or a file; empty: the set that goes with the encoder
    top_k: tuple[int, ...] = (1, 5, 10, 50, 100)  # as in MI-Zero and CONCH
    label_k: int = 10  # the K whose scores give the label shown; the table has all of them
    smooth: bool = False  # average each tile's scores with its 8 lattice neighbours first
    draws: int = 50  # prompt draws for the spread, as in MI-Zero; 0 skips it
    seed: int = 0  # of those draws
    drop: tuple[str, ...] = ()  # tiles with one of these quality flags are left out: blur, pen, fold, saturated

    def __post_init__(self) -> None:
        if not self.top_k or len(set(self.top_k)) < len(self.top_k) or min(self.top_k) < 1 or self.draws < 0:
            raise ValueError(
                f"top_k holds different numbers of at least 1, draws is 0 or more: {list(self.top_k)}, {self.draws}"
            )
        if self.label_k not in self.top_k:
            raise ValueError(f"label_k = {self.label_k} must be one of top_k = {list(self.top_k)}")
        if told := unknown_flag(self.drop):
            raise ValueError(told)


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """What is drawn for people."""

    thumbnail_px: int = 1024  # longer side
    top_tiles: int = 6  # tiles shown at each end of the tumour (or label) score
    geojson_top: int = 20_000  # at most so many tiles in a GeoJSON file: QuPath slows down beyond

    def __post_init__(self) -> None:
        if not 64 <= self.thumbnail_px <= 8192 or self.top_tiles < 0 or self.geojson_top < 1:
            raise ValueError("thumbnail_px is 64 to 8192, top_tiles 0 or more, geojson_top at least 1")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything a run depends on but its slides and its output folder."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    tile: TileSpec = field(default_factory=TileSpec)
    tissue: TissueConfig = field(default_factory=TissueConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    zeroshot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    pictures: PictureConfig = field(default_factory=PictureConfig)

    def __post_init__(self) -> None:
        if self.zeroshot.drop and not self.tile.quality:
            raise ValueError("zeroshot.drop needs the quality flags of a `wsi run --quality`: tile.quality = true")


def load_config(path: Path | str | None = None, settings: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """Defaults, then the TOML file, then `section.key=value` settings, each over the one before.

    Raises ConfigError that names every unknown key (with the known ones) and every value of the wrong type at once.
    """
    tree: dict[str, Any] = _read_toml(Path(path)) if path else {}
    for setting in settings:
        _apply(tree, setting)
    faults: list[str] = []
    config = _build(RunConfig, tree, "", faults)
    if faults:
        where = f"{path}: " if path else ""
        raise ConfigError(f"{where}{number_of(len(faults), 'fault')} in the settings:\n  " + "\n  ".join(faults))
    return config


def check_settings(settings: list[str] | tuple[str, ...], flags: Mapping[str, Any]) -> None:
    """Raises UsageError that names every setting which contradicts a flag of its `section.key`."""
    tree: dict[str, Any] = {}
    for setting in settings:
        _apply(tree, setting)
    faults = []
    for key, wanted in flags.items():
        section, _, name = key.rpartition(".")
        there = tree.get(section, {}) if section else tree
        said = there.get(name) if isinstance(there, dict) else None
        if said is not None and said != (list(wanted) if isinstance(wanted, tuple) else wanted):
            faults.append(f"--set {key}={_toml(said)}, but {_toml(wanted)} by an option")
    if faults:
        raise UsageError(f"Said twice, and not the same: {'; '.join(faults)}.", hint="Leave one of the two out.")


def dump_toml(config: Any) -> str:
    """A configuration, a dataclass of values and sections, as TOML with every key that has a value.

    `load_config` of a RunConfig's gives the same configuration back.
    """
    top, sections = [], []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            lines = [
                f"{k.name} = {_toml(v)}" for k in dataclasses.fields(value) if (v := getattr(value, k.name)) is not None
            ]
            sections.append("\n".join([f"[{f.name}]", *lines]))
        else:
            top.append(f"{f.name} = {_toml(value)}")
    return "\n\n".join([*(["\n".join(top)] if top else []), *sections]) + "\n"


def setting(key: str, value: Any) -> str:
    """`section.key=value` as `load_config` takes it, whatever characters the value has."""
    return f"{key}={_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written alike in both


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}).", hint="Give an existing file to --config."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}.", hint="Mend that line.") from None


def _apply(tree: dict[str, Any], setting: str) -> None:
    """`tile.mpp=0.25` into the tree; the value is read as TOML, and as a plain string where it is none."""
    key, sign, text = setting.partition("=")
    if not sign or not key.strip():
        raise ConfigError(
            f"--set {setting}: is not of the form section.key=value.", hint="For example --set tile.mpp=0.25"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {setting}: {section} is a value, not a section.")
    tree[name] = value


def _build(cls: type, tree: dict[str, Any], prefix: str, faults: list[str]) -> Any:
    """An instance of `cls` from a tree of plain values; what is wrong is added to `faults`."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in known:
            faults.append(_unknown(prefix, key, list(known)))
        elif dataclasses.is_dataclass(default := _default(known[key])):
            if isinstance(value, dict):
                section = _build(type(default), value, f"{prefix}{key}.", faults)
                values |= {} if section is None else {key: section}
            else:
                faults.append(f"{prefix}{key} is a section, not a value: write [{prefix}{key}]")
        else:
            values[key] = value
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        faults.extend(_sentence(prefix, e) for e in error.errors())
        return None


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _unknown(prefix: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    guess = f" Did you mean {prefix}{near[0]}?" if near else ""
    return f"unknown key {prefix}{key}.{guess} Known here: {', '.join(known)}"


def _sentence(prefix: str, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    reason = error["msg"].removeprefix("Value error, ")
    return (
        f"{prefix}{where}: {reason} (got {error['input']!r})"
        if where
        else f"[{prefix.rstrip('.')}] {reason}"
        if prefix
        else reason
    )
