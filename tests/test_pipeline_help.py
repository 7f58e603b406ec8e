"""What `--help` prints: nothing that is written there is lost on the way."""

from __future__ import annotations

import re

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.tileimages import KINDS, PLACES
from tiling.grid import STAINS

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", sorted(set(COMMANDS) - {"models"}))
def test_defaults_that_are_told_in_words_are_shown(verb: str) -> None:
    told = [m for p in COMMANDS[verb].params for m in re.findall(r"\[(default: [^]]+)\]", getattr(p, "help", "") or "")]
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).output
    assert [words for words in told if f"[{words}]" not in " ".join(shown.split())] == []


def test_tiles_shows_its_usage_and_choices() -> None:
    shown = CliRunner().invoke(app, ["tiles", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    assert "tiles [OPTIONS] [SLIDES]... [OUT]" in " ".join(shown.split())
    assert [names for names in (KINDS, PLACES, STAINS) if f"<{'|'.join(names)}>" not in shown] == []


def test_choices_are_taken_in_any_case() -> None:
    given = ["tiles", "--save", "JPG", "--as", "Folder", "--stain", "Macenko"]
    assert "Where do the tiles go" in str(CliRunner().invoke(app, given).exception)
