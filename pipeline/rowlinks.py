"""Which slides each row of a clinical table speaks of: by id, by file name, or by patient."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import PurePosixPath

from heads.problems import some
from pipeline.csvfile import Row, Table
from pipeline.manifest import safe_id
from wsi.location import shown


@dataclass(frozen=True, slots=True)
class Links:
    rows: tuple[tuple[Row, str, tuple[str, ...]], ...]  # rows that speak of slides, of whom in words, and their ids
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def link(
    table: Table, id_column: str | None, patient_column: str | None, slide_ids: Sequence[str], owners: Mapping[str, str]
) -> Links:
    """Rows name slides in the column given, in `id` or `slide`, or in the one that names most; or else patients.

    `owners` is the patient of each slide, where a run knows it. Rows that name nobody known are told in the notes.
    """
    called, owned = _called(slide_ids), _owned(slide_ids, owners)
    usual = [id_column] if id_column else [c for c in ("id", "slide") if c in table.columns]
    for column in usual:
        if any(_slides_of(row, column, called) for row in table.rows):
            return _by_slide(table, column, called)
    if id_column:
        return Links((), (_strangers(table, usual, slide_ids),))
    guess, slides = _best(table, table.columns, called)
    patient, through = _best(table, [patient_column] if patient_column else table.columns, owned)
    if through > slides:
        return _by_patient(table, patient, owned)
    if slides:
        return _by_slide(table, guess, called, f"slides are matched by the column {guess!r}")
    return Links((), (_strangers(table, usual, slide_ids),))


def _called(slide_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Slides by all they may be called: by file, which several folders may have, and by id, which goes first."""
    by_file: dict[str, tuple[str, ...]] = {}
    for slide in slide_ids:
        file = slide.rpartition("/")[2].rpartition("__")[2]  # a__s, or a/s elsewhere, is s in folder a
        by_file[file] = (*by_file.get(file, ()), slide)
    return by_file | {slide: (slide,) for slide in slide_ids}


def _owned(slide_ids: Sequence[str], owners: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    owned: dict[str, tuple[str, ...]] = {}
    for slide in slide_ids:
        if owner := owners.get(slide):
            owned[owner] = (*owned.get(owner, ()), slide)
    return owned


def _best(table: Table, columns: Sequence[str], called: Mapping[str, tuple[str, ...]]) -> tuple[str, int]:
    """The column that names most slides, and how many."""
    return max(((c, len(_reached(table, c, called))) for c in columns), key=lambda found: found[1])


def _reached(table: Table, column: str, called: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Slides that a column names. By plain names of files only, since every column of a large table is tried."""
    files = ((cell, cell.replace("\\", "/").rpartition("/")[2]) for cell in {row.cells[column] for row in table.rows})
    return {s for cell, file in files for name in (cell, file, file.rpartition(".")[0]) for s in called.get(name, ())}


def _name(row: Row, column: str) -> str:
    """What a row calls its slide. As in a manifest, an empty id leaves it to the file. NA is a name like others.

    A URL goes without its secrets, as it does in a run.
    """
    return shown(row.cells[column] or (row.cells.get("slide", "") if column == "id" else ""))


def _slides_of(row: Row, column: str, called: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    name = _name(row, column)
    in_folder = re.search(r"[/\\]", name)
    for spelling in _spellings(name):
        found = called.get(spelling, ())
        if found == (spelling,) or (found and not in_folder):  # b/s is not a/s
            return found
    return ()


def _spellings(name: str) -> Iterator[str]:
    """Ids that `pipeline.manifest` may give a slide of this name or path: the longest path first."""
    yield name
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for i in range(len(parts)):
        tail = PurePosixPath(*parts[i:])
        if tail.name:
            bare = safe_id(str(tail.with_suffix("")))
            yield from (safe_id(str(tail)), bare, str(tail.with_suffix("")))
            yield f"{bare}-{hashlib.sha256(str(tail).encode()).hexdigest()[:8]}"  # s.svs beside s.tif


def _by_slide(table: Table, column: str, called: Mapping[str, tuple[str, ...]], *notes: str) -> Links:
    names = [(row, _name(row, column), _slides_of(row, column, called)) for row in table.rows]
    nameless = [row.line for row, name, _ in names if not name]
    unknown = dict.fromkeys(name for _, name, slides in names if name and not slides)
    do = "does" if len(unknown) == 1 else "do"
    told = [
        f"{count(nameless, 'row')} without a slide's name (line {some(nameless)})" if nameless else "",
        f"labels for {count(unknown, 'slide')} that {do} not exist ({some(list(unknown))})" if unknown else "",
    ]
    unclear = [f"line {row.line}: {name!r} may be {some(s)}; give the id" for row, name, s in names if len(s) > 1]
    rows = tuple((row, f"slide {slides[0]!r}", slides) for row, _, slides in names if len(slides) == 1)
    return Links(rows, tuple(unclear), (*notes, *filter(None, told)))


def _by_patient(table: Table, column: str, owned: Mapping[str, tuple[str, ...]]) -> Links:
    cells = [(row, row.cells[column]) for row in table.rows]
    unknown = dict.fromkeys(cell for _, cell in cells if cell not in owned)
    notes = [f"patients are matched by the column {column!r}, each slide taking what is said of its patient"]
    if unknown:
        notes.append(f"labels for {count(unknown, 'patient')} without a slide ({some(list(unknown))})")
    rows = tuple((row, f"patient {cell!r}", owned[cell]) for row, cell in cells if cell in owned)
    return Links(rows, (), tuple(notes))


def _strangers(table: Table, usual: Sequence[str], slide_ids: Sequence[str]) -> str:
    told = f"no row names one of the {count(slide_ids, 'slide')} of this run ({some(slide_ids)})"
    if usual:
        return f"{told}: the column {usual[0]!r} says {some([_name(row, usual[0]) for row in table.rows])}"
    return f"{told} in any column: {', '.join(table.columns)}"


def count(things: Sized, what: str) -> str:
    """`1 slide`, `2 slides`."""
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"
