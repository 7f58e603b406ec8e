"""`--log-json`: every event a line that parses, and nothing else on standard output."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from cli import wsi

from pipeline import eventlog
from pipeline.console import RunConsole, open_console
from pipeline.eventlog import EventLog
from pipeline.ledger import DONE, REFUSED, Outcome
from pipeline.synthetic import draw, recipe
from wsi.svs import SvsSpec, write_svs


def test_a_line_for_each_event_with_what_the_ledger_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "PROGRESS_S", -1.0)
    stream = io.StringIO()
    log = EventLog(RunConsole(open_console(), 2), stream)
    log.slide_started("a\u2028.svs", 40)
    log.tiles_done(30, 0.75)
    log.slide_ended(Outcome("a", "a\u2028.svs", DONE, tiles=40), counted=True)
    log.slide_ended(Outcome("b", "b.svs", REFUSED, "open", code="slide_truncated", detail="It is cut."), counted=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["run", "started", "progress", "done", "refused"]
    assert all(line["time"].endswith("Z") for line in lines)
    assert (lines[0]["slides"], lines[1]["name"], lines[1]["tiles"]) == (2, "a\u2028.svs", 40)
    assert (lines[2]["tiles"], lines[2]["slides"], lines[2]["left_s"]) == (30, 0, None)
    assert (lines[3]["slide_id"], lines[4]["code"], lines[4]["stage"]) == ("a", "slide_truncated", "open")


def test_progress_is_told_now_and_then_only() -> None:
    stream = io.StringIO()
    log = EventLog(RunConsole(open_console(), 1), stream)
    for _ in range(50):
        log.tiles_done(1, 0.5)
    assert "progress" not in stream.getvalue()


def test_standard_output_has_events_only(tmp_path: Path) -> None:
    drawn = draw(recipe(51, "benign", width_um=400.0, height_um=300.0, mpp=0.5, pieces=1, pen=None))
    write_svs(tmp_path / "a.svs", drawn.pixels, SvsSpec(mpp=0.5))
    (tmp_path / "b.svs").write_bytes(b"II*\0")
    done = wsi("run", tmp_path, "-o", tmp_path / "out", "--encoder", "colour", "--log-json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3
    assert sorted(e["event"] for e in events) == sorted(["run", "started", "done", "refused", "end"])
    assert events[0]["event"] == "run" and events[-1] == events[-1] | {"event": "end", "code": 3}
    assert "report:" in done.stderr
