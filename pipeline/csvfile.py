"""CSV files as people save them: comma, semicolon or tab, UTF-8 with or without a byte order mark. Cells are text."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import ManifestError
from wsi.wording import number_of

_MISSING = frozenset(("", "na", "nan", "n/a", "null", "none", "."))
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


# cBioPortal writes a digit and a word; what these say of its four kinds of survival is all that it says.
_SEEN = frozenset(("true", "yes", "dead", "deceased")) | frozenset(
    ("1:deceased", "1:dead with tumor", "1:recurred/progressed", "1:progression")
)
_CENSORED = frozenset(("false", "no", "alive", "living")) | frozenset(
    ("0:living", "0:alive or dead tumor free", "0:diseasefree", "0:censored")
)
_POSITIVE = frozenset(("true", "yes", "pos", "positive"))
_NEGATIVE = frozenset(("false", "no", "neg", "negative"))


@dataclass(frozen=True, slots=True)
class Row:
    line: int  # in the file, for messages
    cells: dict[str, str]  # by column


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV as it was saved: every cell text, blanks around it taken off."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def csv_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and every row that is not blank with its line number.

    The delimiter is what the header has most of: below it, decimal commas may outnumber semicolons. Raises
    ManifestError for what cannot be read or is no UTF-8.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            first = f.read(4096).lstrip("\r\n").partition("\n")[0]
            f.seek(0)
            reader = csv.reader(f, delimiter=max(",;\t", key=first.count))
            rows = [(reader.line_num, row) for row in reader if any(c.strip() for c in row)]
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}).", hint="Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: is not a CSV in UTF-8 ({error}).", hint="Save it as CSV UTF-8.") from None
    return ([c.strip() for c in rows[0][1]], rows[1:]) if rows else ([], [])


def csv_error(path: Path, faults: list[str], hint: str = "Mend these rows and run again.") -> ManifestError:
    """All faults of a file, the first fifty in full, a line each."""
    shown = faults[:50] + ([f"... and {len(faults) - 50} more"] if len(faults) > 50 else [])
    end = "" if shown[-1].endswith("?") else "."
    return ManifestError(f"{path}: {number_of(len(faults), 'fault')}:\n  " + "\n  ".join(shown) + end, hint=hint)


def read_table(path: Path) -> Table:
    """The table, whatever its cells say. Raises ManifestError for what is no table: all faults at once."""
    header, rows = csv_rows(path)
    while header and not header[-1]:
        header.pop()  # spreadsheets save columns that were in use once
    faults = [f"column {c!r} is there {n} times" for c, n in Counter(header).items() if n > 1]
    if not rows:
        faults.append("there are no rows" if header else "the file is empty")
    for line, cells in rows:
        if len(cells) < len(header) or any(c.strip() for c in cells[len(header) :]):
            faults.append(f"line {line}: {len(cells)} cells where the header has {len(header)}")
    if faults:
        raise csv_error(path, faults)
    made = (Row(line, dict(zip(header, (c.strip() for c in cells), strict=False))) for line, cells in rows)
    return Table(path, tuple(header), tuple(made))


def is_missing(cell: str) -> bool:
    """True for an empty cell and for the words that statistics programs write in its place."""
    return cell.strip().casefold() in _MISSING


def number(cell: str) -> float | None:
    """A number with decimal point or comma; None for anything else, inf and digit groups such as 1,234.5 included."""
    text = cell.strip()
    value = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def positive_number(cell: str) -> float | None:
    """A number above 0, as a time must be."""
    value = number(cell)
    return value if value is not None and value > 0 else None


def event(cell: str) -> int | None:
    """1 for an event that was seen, 0 for one that was not until the patient was last heard of."""
    return _either(cell, _SEEN, _CENSORED)


def censored(cell: str) -> int | None:
    """What `event` says, of a column that says 1 of the censored. Words for life and death are of no such column."""
    said = _either(cell, frozenset(("true", "yes")), frozenset(("false", "no")))
    return None if said is None else 1 - said


def answer(cell: str) -> int | None:
    """1 for yes and positive, 0 for no and negative."""
    return _either(cell, _POSITIVE, _NEGATIVE)


def _either(cell: str, yes: frozenset[str], no: frozenset[str]) -> int | None:
    word = cell.strip().casefold()
    if (value := number(word)) in (0, 1):  # 1.0 too: columns with gaps are often saved as floats
        return int(value)
    return 1 if word in yes else 0 if word in no else None
