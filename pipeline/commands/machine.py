"""`wsi config`, `wsi doctor`, `wsi models`: what is in force, and whether this machine is fit."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import dump_toml, load_config
from pipeline.console import open_console, table


def show_config(path: Path | None, settings: list[str] | None) -> None:
    open_console().print(dump_toml(load_config(path, settings or [])), end="")


def doctor(out: Path, encoder: str) -> int:
    """`wsi doctor`: 0 if all is well, 5 if something must be mended first."""
    from pipeline.doctor import examine

    console, bad = open_console(), 0
    for finding in examine(out, encoder):
        sign = {True: "ok  ", False: "MEND", None: "    "}[finding.ok]
        console.print(f"{sign} {finding.what}: {finding.found}{'' if finding.ok else '  ' + finding.hint}".rstrip())
        bad += finding.ok is False
    return 5 if bad else 0


def models_list() -> None:
    from features import available_encoders
    from heads import available_heads, available_prompts

    console = open_console()
    console.print(table("encoders", ("name", "from", "what it is"), available_encoders()))
    console.print(table("heads", ("name", "from", "what it is"), available_heads()))
    console.print(f"\nprompt sets: {', '.join(available_prompts())}; or any TOML/JSON file")


def models_pull(name: str, to: Path) -> None:
    from features.encoders.hub import pull

    folder = pull(name, to)
    open_console().print(f"weights are in {to}: use --weights {folder or to}")
