"""The clinical table: what is known of each slide, and everything that is wrong with it, told before any training."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heads.problems import some
from heads.splits import fold_name
from pipeline.csvfile import Table, answer, censored, csv_error, event, is_missing, number, positive_number, read_table
from pipeline.rowlinks import Links, count, link

__all__ = ["TASKS", "Cohort", "Question", "Table", "cohort", "read_table"]

Value = str | int | float
Values = dict[str, Value]  # column -> what it says; columns without an answer are not there
Reader = tuple[Callable[[str], Value | None], str]  # None where it cannot be read; and what it must be

_ONE_TARGET = ("classification", "regression")
_TIMED = ("survival", "hazard")
TASKS = (*_ONE_TARGET, "biomarker", *_TIMED)
_HINT = "Mend the table, or name other columns, and run again."
_TEXT: Reader = (str, "text")
_NUMBER: Reader = (number, "a number")
_TIME: Reader = (positive_number, "a number above 0")
_EVENT: Reader = (event, "1 or 0, true or false, yes or no, dead or alive, deceased or living")
_CENSORED: Reader = (censored, "1 (censored) or 0 (seen), true or false, yes or no")
_FOLD: Reader = (fold_name, "the name of a fold")
_ANSWER: Reader = (answer, "1 or 0, true or false, yes or no, positive or negative")


@dataclass(frozen=True, slots=True)
class Question:
    """What a head is to learn, and which columns of the table say it. None = found as the comment tells."""

    task: str  # one of TASKS
    targets: tuple[str, ...] = ()  # one column, for a biomarker any number; none where time and event are asked
    time: str | None = None  # above 0, in any unit
    event: str | None = None  # 1 seen, 0 censored, or words for these; the other way round if `censoring`
    patient: str | None = None  # `patient`, else what the run knows, else each slide is its own patient
    site: str | None = None  # no sites
    fold: str | None = None  # no split of one's own
    id: str | None = None  # `id`, `slide`, else the column that names most slides, else patients are matched
    censoring: bool = False  # True: the column `event` says 1 of the censored, as `censorship` in many tables does
    slide_level: bool = False  # True: slides of one patient may differ, as tumour and normal tissue do

    @property
    def asked(self) -> tuple[str, ...]:
        """Columns that hold what is to be learnt."""
        return tuple(c for c in (self.time, self.event) if c) if self.task in _TIMED else self.targets


@dataclass(frozen=True, slots=True)
class Cohort:
    """Slides that have an answer, in the order of the run; every field but `notes` speaks of them one by one."""

    slide_ids: tuple[str, ...]
    patients: tuple[str, ...]
    sites: tuple[str, ...] | None
    folds: tuple[str, ...] | None  # as the table calls them: `heads.splits.check_split` numbers them
    targets: Any  # as train_head takes them: list[str], list[float], [(time, event)] or {name: [1 | 0 | None]}
    notes: tuple[str, ...]  # what was left out or merged, in sentences for people


def cohort(
    table: Table,
    question: Question,
    slide_ids: Sequence[str],
    patients_of: Mapping[str, str] | None = None,
    *,
    learning: bool = True,
) -> Cohort:
    """The slides of a run with what the table says of them, one target a slide.

    Rows name slides by id or by file, with or without folder and extension; or patients, if that reaches more slides
    of `patients_of` (slide id -> patient). Rows that repeat another are merged; slides without an answer, and rows
    without a slide, are left out; `notes` tells of each. Rows of other slides may say what they like.

    Raises ManifestError naming all that is wrong: columns that are not there, cells that cannot be read, rows or
    slides of one patient that disagree, slides without site or fold, and, where it is for `learning`, targets from
    which nothing can be learnt.
    """
    owners = patients_of or {}
    faults = _question_faults(table, question)
    if question.task not in TASKS or question.id not in (None, *table.columns):
        raise csv_error(table.path, faults, _HINT)
    asked = _present(table, question)
    links = link(table, asked.id, asked.patient, slide_ids, owners)
    known, wrong, repeated = _read(asked, links)
    kept = [s for s in slide_ids if _is_answered(asked, known.get(s, {}))]
    patients, doubts = _patients(asked, known, kept, owners)
    faults += [*links.faults, *wrong, *_torn(asked, known, patients), *_gaps(asked, known, kept)]
    if faults := faults or _hollow(asked, [known[s] for s in kept], learning=learning):
        raise csv_error(table.path, faults, _HINT)
    return Cohort(
        slide_ids=tuple(kept),
        patients=tuple(patients[s] for s in kept),
        sites=tuple(str(known[s][asked.site]) for s in kept) if asked.site else None,
        folds=tuple(str(known[s][asked.fold]) for s in kept) if asked.fold else None,
        targets=_targets(asked, [known[s] for s in kept]),
        notes=(*links.notes, *repeated, *_left_out(asked, known, slide_ids), *doubts),
    )


def _question_faults(table: Table, question: Question) -> list[str]:
    faults = []
    if question.task not in TASKS:
        faults.append(f"there is no task {question.task!r}; tasks are {', '.join(TASKS)}")
    elif question.task in _TIMED and (question.targets or not (question.time and question.event)):
        faults.append(f"{question.task} asks for a column of times and one of events, and no other target")
    elif question.task in _ONE_TARGET and len(question.targets) != 1:
        faults.append(f"{question.task} asks for one target column, not {len(question.targets)}")
    elif question.task == "biomarker" and not question.targets:
        faults.append("biomarker asks for one target column or more")
    named = dict.fromkeys((*question.asked, question.patient, question.site, question.fold, question.id))
    return faults + [_no_column(c, table.columns) for c in named if c and c not in table.columns]


def _no_column(name: str, columns: Sequence[str]) -> str:
    folded = {c.casefold(): c for c in columns}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    ways = f"did you mean {folded[near[0]]!r}?" if near else f"the columns are: {', '.join(columns)}"
    return f"there is no column {name!r}; {ways}"


def _present(table: Table, question: Question) -> Question:
    """The question with the columns that it needs and that there are; `patient` is one without being named."""

    def there(column: str | None) -> str | None:
        return column if column in table.columns else None

    timed = question.task in _TIMED
    return replace(
        question,
        targets=tuple(c for c in question.targets if there(c)),
        time=there(question.time) if timed else None,
        event=there(question.event) if timed else None,
        patient=there(question.patient or "patient"),
        site=there(question.site),
        fold=there(question.fold),
    )


# What it says of them.


def _readers(question: Question) -> dict[str, Reader]:
    """How each column that is used is read."""
    kinds = {"regression": _NUMBER, "biomarker": _ANSWER}
    readers = {c: _TEXT for c in (question.patient, question.site) if c}
    readers |= {question.fold: _FOLD} if question.fold else {}
    readers |= {c: kinds.get(question.task, _TEXT) for c in question.targets}
    ends = (question.event, _CENSORED if question.censoring else _EVENT)
    return readers | {c: how for c, how in ((question.time, _TIME), ends) if c}


def _read(question: Question, links: Links) -> tuple[dict[str, Values], list[str], list[str]]:
    """What is known of each slide; all that cannot be read or disagrees; and which rows said nothing new."""
    readers = _readers(question)
    odd: dict[str, dict[str, int]] = {}  # column -> cells that cannot be read, with the line of the first
    said: dict[tuple[str, tuple[str, ...]], list[tuple[int, Values]]] = {}
    for row, who, slides in links.rows:
        values = {c: readers[c][0](row.cells[c]) for c in readers if not is_missing(row.cells[c])}
        for column in [c for c, value in values.items() if value is None]:
            odd.setdefault(column, {}).setdefault(row.cells[column], row.line)
        said.setdefault((who, slides), []).append((row.line, {c: v for c, v in values.items() if v is not None}))
    wrong = [f"{c!r} must be {readers[c][1]}, not {some(_at(cells))}" for c, cells in odd.items()]
    wrong += [_mixed(c, links) for c, how in readers.items() if how in (_NUMBER, _TIME)]
    wrong += [fault for (who, _), rows in said.items() for fault in _quarrels(who, rows)]
    merged = [(slides, {c: v for _, values in rows for c, v in values.items()}) for (_, slides), rows in said.items()]
    again = [line for rows in said.values() for line, _ in rows[1:]]
    notes = [f"{count(again, 'row')} repeated what another says, and merged (line {some(again)})"] if again else []
    return {slide: values for slides, values in merged for slide in slides}, [w for w in wrong if w], notes


def _at(cells: Mapping[Any, int]) -> list[str]:
    return [f"{cell!r} (line {line})" for cell, line in cells.items()]


def _mixed(column: str, links: Links) -> str:
    """1,234 and 1.234 in one column: one of them is no decimal."""
    numbers = [row.cells[column] for row, _, _ in links.rows if number(row.cells[column]) is not None]
    found = [next((n for n in numbers if mark in n), None) for mark in ",."]
    return "" if None in found else f"{column!r} mixes decimal commas and points ({some(found)})"


def _quarrels(who: str, rows: Sequence[tuple[int, Values]]) -> Iterator[str]:
    for column in dict.fromkeys(c for _, values in rows for c in values):
        lines = {values[column]: line for line, values in reversed(rows) if column in values}
        if len(lines) > 1:
            yield f"rows of {who} disagree in {column!r}: {some(_at(dict(reversed(lines.items()))))}"


def _is_answered(question: Question, values: Values) -> bool:
    there = [column in values for column in question.asked]
    return any(there) if question.task == "biomarker" else bool(values) and all(there)


def _patients(
    question: Question, known: Mapping[str, Values], kept: Sequence[str], owners: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Patient of each slide: what the table says, else what the run knows, else the slide itself; and doubts."""
    told = {s: str(known[s].get(question.patient or "", "")) for s in kept}
    alone = [s for s in kept if not told[s] and not owners.get(s)]
    other = [s for s in kept if told[s] and owners.get(s, told[s]) != told[s]]
    doubts = []
    if alone:
        doubts.append(f"{count(alone, 'slide')} without a patient, each counted as one ({some(alone)})")
    if other:
        doubts.append(f"{count(other, 'slide')} of another patient in the table, which is believed ({some(other)})")
    return {s: told[s] or owners.get(s) or s for s in kept}, doubts


# What nothing can be learnt from.


def _torn(question: Question, known: Mapping[str, Values], patients: Mapping[str, str]) -> list[str]:
    """Patients whose slides differ in what is asked. How long somebody lives is never a matter of the slide."""
    timed = question.task in _TIMED
    columns = [c for c in (question.site, question.fold) if c]  # for these say where a patient belongs
    columns += [] if question.slide_level and not timed else question.asked
    faults = []
    for column in columns:
        said = {(patient, known[s][column]) for s, patient in patients.items() if column in known[s]}
        if torn := sorted(p for p, n in Counter(p for p, _ in said).items() if n > 1):
            free = not timed and column in question.asked
            ways = "; if it is a matter of the slide, ask for --slide-level" if free else ""
            faults.append(f"{count(torn, 'patient')} with slides that differ in {column!r} ({some(torn)}){ways}")
    return faults


def _gaps(question: Question, known: Mapping[str, Values], kept: Sequence[str]) -> list[str]:
    gaps = {c: [s for s in kept if c not in known[s]] for c in (question.site, question.fold) if c}
    return [f"{count(without, 'slide')} without {c!r} ({some(without)})" for c, without in gaps.items() if without]


def _hollow(question: Question, rows: Sequence[Values], *, learning: bool) -> list[str]:
    if not rows:
        return [f"no slide with a label is left: {some([repr(c) for c in question.asked])} says nothing of any"]
    if not learning:
        return []
    found = {c: dict.fromkeys(row[c] for row in rows if c in row) for c in question.asked}
    faults = [
        f"{c!r} says {some(list(values)) or 'nothing'} for every slide, so there is nothing to learn"
        for c, values in found.items()
        if len(values) < 2 and c != question.event
    ]
    if question.event and not any(found[question.event]):
        faults.append(f"no slide has an event in {question.event!r}, so nothing tells high risk from low")
    if question.task == "classification":
        faults += _spelt_alike([str(value) for value in found[question.targets[0]]])
    return faults


def _spelt_alike(labels: Sequence[str]) -> list[str]:
    folded: dict[str, list[str]] = {}
    for label in labels:
        folded.setdefault(label.casefold(), []).append(label)
    return [f"labels differ in capitals only: {some(same)}" for same in folded.values() if len(same) > 1]


def _targets(question: Question, rows: Sequence[Values]) -> Any:
    """As train_head takes them."""
    if question.task == "biomarker":
        return {c: [row.get(c) for row in rows] for c in question.targets}
    if question.task in _TIMED:
        return [tuple(row[c] for c in question.asked) for row in rows]
    return [row[question.targets[0]] for row in rows]


def _left_out(question: Question, known: Mapping[str, Values], slide_ids: Sequence[str]) -> list[str]:
    without = [s for s in slide_ids if not _is_answered(question, known.get(s, {}))]
    half = [s for s in without if any(c in known.get(s, {}) for c in question.asked)]
    notes = [f"{count(without, 'slide')} without labels ({some(without)})"] if without else []
    if half:
        notes.append(f"{count(half, 'slide')} of these with a time or an event, but not both ({some(half)})")
    if question.event and "cens" in question.event.casefold() and not question.censoring:
        notes.append(f"1 in {question.event!r} is read as an event; if it is of the censored, use --censored")
    return notes
