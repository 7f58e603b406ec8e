"""The ledger and the tables: every line whole, the last word counts, nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from features import files
from pipeline import ledger
from pipeline.console import RunConsole, open_console
from pipeline.ledger import CRASHED, DONE, NO_TISSUE, REFUSED, REUSED, STOPPED, Outcome, exit_code
from pipeline.output import OutputFolder, write_csv
from pipeline.tables import write_tables
from wsi.errors import StorageError, UsageError


def outcome(slide_id: str, status: str, **more: object) -> Outcome:
    return Outcome(slide_id, f"{slide_id}.svs", status, **more)  # type: ignore[arg-type]


def test_the_last_word_on_a_slide_counts_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.record(path, outcome("a", REFUSED, code="mpp_missing", notes=("x",)))
    ledger.record(path, outcome("b", DONE, tiles=7))
    ledger.record(path, outcome("a", DONE, tiles=3))
    with open(path, "a") as f:
        f.write('{"event": "slide", "slide_id": "c", "sta')
    found = ledger.last_outcomes(path)
    assert {k: (o.status, o.tiles) for k, o in found.items()} == {"a": (DONE, 3), "b": (DONE, 7)}


def test_a_name_with_a_line_separator_is_one_slide(tmp_path: Path) -> None:
    ledger.record(tmp_path / "l", outcome("a\u2028b\x85c", DONE))
    assert list(ledger.last_outcomes(tmp_path / "l")) == ["a\u2028b\x85c"]


def test_a_slide_whose_id_changed_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for slide_id, name in (("s", "s.svs"), ("t", "t.svs"), ("s-1234", "s.svs"), ("s-5678", "s.ndpi")):
        ledger.record(path, Outcome(slide_id, name, DONE))
    assert list(ledger.last_outcomes(path)) == ["t", "s-1234", "s-5678"]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([DONE, REUSED, NO_TISSUE], 0),
        ([DONE, REFUSED], 3),
        ([REFUSED, REFUSED], 4),
        ([DONE, CRASHED, REFUSED], 1),
        ([], 0),
    ],
)
def test_exit_codes(statuses: list[str], code: int) -> None:
    assert exit_code([outcome(str(i), s) for i, s in enumerate(statuses)]) == code


def test_cells_that_would_start_a_formula_stay_text(tmp_path: Path) -> None:
    written = [("=cmd|' /C calc'!A0", -1.5), ("NA", "-rf"), ("-1.24", "-1+1")]
    write_csv(tmp_path / "t.csv", ["id", "x"], [{"id": i, "x": x} for i, x in written])
    with open(tmp_path / "t.csv", newline="") as f:
        rows = [tuple(row.values()) for row in csv.DictReader(f)]
    assert rows == [("'=cmd|' /C calc'!A0", "-1.5"), ("NA", "'-rf"), ("-1.24", "'-1+1")]


def test_an_output_folder_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="a file lies where its folder is to be"):
        OutputFolder(tmp_path / "file").prepare()


def test_a_read_only_disk_is_told_by_the_folder_and_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(StorageError) as caught:
        OutputFolder(tmp_path).prepare()
    hint = "Mount it for writing, or choose another output folder."
    assert str(caught.value) == f"{tmp_path}: the file system is read-only. {hint}"
    with pytest.raises(StorageError, match=f"^{tmp_path}/t.csv: the file system is read-only"):
        write_csv(tmp_path / "t.csv", ["id"], [])


def test_what_stops_a_run_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line ends with the same sentence."""
    watcher = RunConsole(open_console(), 2)
    watcher.slide_ended(outcome("a", STOPPED, code="no_space", detail="The disk is full."), counted=False)
    watcher.slide_ended(outcome("b", DONE, tiles=1, seconds=2.0), counted=False)
    assert capsys.readouterr().out.splitlines() == ["[1/2] a.svs: stopped", "[2/2] b.svs: done, 1 tile, 2.0 s"]


def test_a_folder_without_a_run_is_no_output_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run"):
        OutputFolder(tmp_path).existing()


def test_a_refused_slide_keeps_its_patient_and_labels(tmp_path: Path) -> None:
    refused = outcome("a", REFUSED, code="mpp_missing", patient="P1", labels={"er": "1", "status": "dead"})
    ledger.record(tmp_path / "ledger.jsonl", refused)
    write_tables(OutputFolder(tmp_path))
    with open(tmp_path / "slides.csv", newline="") as f:
        (row,) = csv.DictReader(f)
    assert (row["status"], row["patient"], row["er"], row["label_status"]) == ("refused", "P1", "1", "dead")
