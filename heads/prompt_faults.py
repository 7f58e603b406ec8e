"""What can be wrong with a prompt file, all of it at once."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any

SET_KEYS = ("name", "templates", "classes")
CLASS_KEYS = ("name", "names", "context", "tumour")


def faults(content: Any) -> list[str]:
    """Sentences on the parsed content of a prompt file; empty where it can be used."""
    if not isinstance(content, dict):
        return [f"the file holds {_kind(content)}, not a table with {_list(SET_KEYS)}"]
    found = _unknown(content, SET_KEYS, "the file")
    if "name" in content and not _is_text(content["name"]):
        found.append("name must be a word or more")
    return [*found, *_template_faults(content.get("templates")), *_classes_faults(content.get("classes"))]


def _template_faults(templates: Any) -> list[str]:
    if not isinstance(templates, list) or not templates:
        return ['templates must be a list of sentences with {} for the class, such as "an image of {}."']
    found = []
    for i, template in enumerate(templates, start=1):
        if not isinstance(template, str):
            found.append(f"template {i} is {_kind(template)}, not a sentence")
        elif template.count("{}") != 1:
            found.append(f"template {i} ({template!r}) needs {{}} once, where the class is named")
    return found + [
        f"template {t!r} is given {n} times" for t, n in _repeated(t for t in templates if isinstance(t, str))
    ]


def _classes_faults(classes: Any) -> list[str]:
    if not isinstance(classes, list):
        return ["classes must be a list of tables, [[classes]] in TOML"]
    found = [] if len(classes) > 1 else [f"there must be two classes at least, not {len(classes)}"]
    for i, entry in enumerate(classes, start=1):
        found += _class_faults(entry, f"class {i}")
    tables = [entry for entry in classes if isinstance(entry, dict)]
    found += [f"the class name {n!r} is given {k} times" for n, k in _repeated(_texts([t.get("name") for t in tables]))]
    said = [name for t in tables for name in _texts(t.get("names", [t.get("name")]))]
    found += [f"the name {n!r} is given {k} times" for n, k in _repeated(said)]
    if len(classes) > 1 and sum(t.get("context") is True for t in tables) > len(classes) - 2:
        found.append("two classes at least must compete for the slide's label, but the others are context")
    return found


def _class_faults(entry: Any, where: str) -> list[str]:
    if not isinstance(entry, dict):
        return [f"{where} is {_kind(entry)}, not a table with {_list(CLASS_KEYS)}"]
    if _is_text(entry.get("name")):
        where = f"{where} ({entry['name']})"
    found = _unknown(entry, CLASS_KEYS, where)
    if not _is_text(entry.get("name")):
        found.append(f"{where} has no name")
    names = entry.get("names", ["left out"])
    if not isinstance(names, list) or not names or not all(map(_is_text, names)):
        found.append(f"{where}: names must be a list of words, none of them empty")
    return found + [
        f"{where}: {key} must be true or false, not {_kind(entry[key])}"
        for key in ("context", "tumour")
        if not isinstance(entry.get(key, False), bool)
    ]


def _unknown(table: dict[str, Any], known: tuple[str, ...], where: str) -> list[str]:
    found = []
    for key in sorted(table.keys() - set(known)):
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"did you mean {near[0]}; " if near else ""
        found.append(f"{where} has an unknown key {key!r} ({meant}known are {_list(known)})")
    return found


def _repeated(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Texts given more than once, whatever their case."""
    return [(text, n) for text, n in Counter(t.strip().casefold() for t in texts).items() if n > 1]


def _texts(values: Any) -> list[str]:
    return [v for v in values if _is_text(v)] if isinstance(values, list) else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _list(words: tuple[str, ...]) -> str:
    return ", ".join(words)


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "nothing" if value is None else type(value).__name__)
