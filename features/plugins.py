"""Things by name through entry-point groups: our own and those of other packages come through the same door."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from wsi.errors import SetupError, UsageError

# What foreign code does when it cannot be imported: absent or broken dependencies, libraries that do not load, bugs.
_IMPORT_FAILURES = (ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError, RuntimeError, OSError)


def load_plugin(group: str, name: str, what: str) -> Any:
    """The object that the group calls `name`; `what` it is (an encoder, a head) is said in errors.

    Raises UsageError for an unknown name, SetupError for two packages with one name or one that fails to import.
    """
    return imported(the_only(name, entry_points(group=group), what), what)


def plugins(group: str) -> list[tuple[str, str, str]]:
    """(name, distribution it comes from, one line on it) of every entry of a group, by name. Imports none of them."""
    return sorted((e.name, _origin(e), _headline(e)) for e in entry_points(group=group))


def the_only(name: str, entries: Iterable[EntryPoint], what: str) -> EntryPoint:
    by_name: dict[str, list[EntryPoint]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    if name not in by_name:
        close = get_close_matches(name, by_name, n=1)
        raise UsageError(
            f"There is no {what} called '{name}'." + (f" Did you mean '{close[0]}'?" if close else ""),
            hint=f"Known are: {', '.join(sorted(by_name))}.",
        )
    if len(by_name[name]) > 1:
        owners = " and ".join(sorted(f"{_origin(e)} ({e.value})" for e in by_name[name]))
        raise SetupError(
            f"The {what} name '{name}' is claimed by {owners}.",
            hint="Uninstall one of these packages: none is preferred.",
        )
    return by_name[name][0]


def imported(entry: EntryPoint, what: str) -> Any:
    try:
        return entry.load()
    except _IMPORT_FAILURES as error:
        raise SetupError(
            f"The {what} '{entry.name}' of {_origin(entry)} ({entry.value}) cannot be imported: "
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
