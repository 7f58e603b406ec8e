"""Encoders by name, all through the entry-point group `features.encoders`: our own and those of other packages."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from features.encoders.request import EncoderRequest
from features.spec import Encoder
from wsi.errors import SetupError, UsageError

GROUP = "features.encoders"

# What foreign code does when it cannot be imported: absent or broken dependencies, libraries that do not load, bugs.
_IMPORT_FAILURES = (ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError, RuntimeError, OSError)


def load_encoder(
    name: str,
    *,
    weights: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
    untrained: bool = False,
) -> Encoder:
    """The encoder called `name`, ready to encode: plip, demo, colour, open_clip:MODEL[:TAG], timm:MODEL, or a plug-in.

    `weights` is a file, a folder or a hub id, where the encoder takes one. `precision` is auto, float32, bfloat16 or
    float16; auto is float32 on a CPU and bfloat16 (float16 where that is not supported) on CUDA. `untrained` says that
    the weights are random; it is kept in the spec, so that no label is ever shown from them.
    Raises UsageError for an unknown name, SetupError for two packages with one name or a plug-in that fails to
    import, WeightsError for weights that are not to be had or do not fit.
    """
    family, _, argument = name.partition(":")
    loader = _import(_only(family, entry_points(group=GROUP)))
    encoder: Encoder = loader(EncoderRequest(argument, weights, device, precision, untrained))
    return encoder


def available_encoders() -> list[tuple[str, str, str]]:
    """(name, distribution it comes from, one line on it) of every encoder, by name. Imports none of them."""
    return sorted((e.name, _origin(e), _headline(e)) for e in entry_points(group=GROUP))


def _only(family: str, entries: Iterable[EntryPoint]) -> EntryPoint:
    by_name: dict[str, list[EntryPoint]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    if family not in by_name:
        close = get_close_matches(family, by_name, n=1)
        raise UsageError(
            f"There is no encoder called '{family}'." + (f" Did you mean '{close[0]}'?" if close else ""),
            hint=f"Known are: {', '.join(sorted(by_name))}.",
        )
    if len(by_name[family]) > 1:
        owners = " and ".join(sorted(f"{_origin(e)} ({e.value})" for e in by_name[family]))
        raise SetupError(
            f"The encoder name '{family}' is claimed by {owners}.",
            hint="Uninstall one of these packages: none is preferred.",
        )
    return by_name[family][0]


def _import(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except _IMPORT_FAILURES as error:
        raise SetupError(
            f"The encoder '{entry.name}' of {_origin(entry)} ({entry.value}) cannot be imported: "
            f"{type(error).__name__}: {error}.",
            hint=f"Repair or uninstall {_origin(entry)}.",
        ) from error


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"


def _headline(entry: EntryPoint) -> str:
    """First line of the module's docstring, read from its source: running it could take seconds and load torch."""
    try:
        spec = importlib.util.find_spec(entry.module)
        source = spec.loader.get_source(entry.module) if spec and spec.loader else None  # type: ignore[attr-defined]
        doc = ast.get_docstring(ast.parse(source)) if source else None
    except _IMPORT_FAILURES as error:
        return f"cannot be imported: {type(error).__name__}: {error}"
    if source is None:
        return f"cannot be imported: no module {entry.module}"
    return doc.splitlines()[0] if doc else ""
