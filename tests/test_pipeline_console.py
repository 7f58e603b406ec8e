"""What is said at the end of a run: each note once, and no flood."""

from __future__ import annotations

from pipeline.console import NOTES, noted
from pipeline.ledger import DONE, Outcome


def outcome(name: str, *notes: str) -> Outcome:
    return Outcome(name.removesuffix(".svs"), name, DONE, notes=notes)


def test_notes_of_one_kind_are_one_line() -> None:
    dark = "Dark background: this looks like fluorescence."
    lines = noted(
        [
            outcome("a.svs", dark, "a.geojson: left out, as they are no drawn areas: 1 Point.", dark),
            outcome("b.svs", "a word of its own."),
            outcome("c.svs", "c.geojson: left out, as they are no drawn areas: 23 Points.", "Told elsewhere, 3 times."),
            *(outcome(f"{i}.svs", dark) for i in range(2000)),
        ],
        ("Told elsewhere",),
    )
    assert lines == [
        f"note: a.svs: {dark} (and of 2000 more the like: 0.svs, 1.svs, 2.svs and 1997 more)",
        "note: a.svs: a.geojson: left out, as they are no drawn areas: 1 Point. (and of 1 more the like: c.svs)",
        "note: b.svs: a word of its own.",
    ]


def test_too_many_kinds_are_counted() -> None:
    kinds = ["".join(chr(97 + (i >> shift) % 2) for shift in range(6)) for i in range(NOTES + 3)]
    lines = noted([outcome("s.svs", *kinds)])
    assert len(lines) == NOTES + 1 and lines[-1] == "note: and 3 kinds more; slides.csv has all of them"
    assert noted([outcome("s.svs")]) == []


def test_one_and_several_are_one_kind() -> None:
    lines = noted([outcome("a.svs", "1 tile cannot be decoded."), outcome("b.svs", "3 tiles cannot be decoded.")])
    assert lines == ["note: a.svs: 1 tile cannot be decoded. (and of 1 more the like: b.svs)"]
