"""CSV files as people save them: comma, semicolon or tab, UTF-8 with or without a byte order mark. Cells are text."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from wsi.errors import ManifestError

_MISSING = {"", "na", "nan", "n/a", "null", "none", "."}
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


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


def csv_error(path: Path, faults: list[str]) -> ManifestError:
    """All faults of a file, the first fifty in full, a line each."""
    shown = faults[:50] + ([f"... and {len(faults) - 50} more"] if len(faults) > 50 else [])
    return ManifestError(
        f"{path}: {len(faults)} fault(s):\n  " + "\n  ".join(shown), hint="Mend these rows and run again."
    )


def is_missing(cell: str) -> bool:
    """True for an empty cell and for the words that statistics programs write in its place."""
    return cell.strip().casefold() in _MISSING


def number(cell: str) -> float | None:
    """A number with decimal point or comma; None for anything else, inf and digit groups such as 1,234.5 included."""
    text = cell.strip()
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else None
