"""The README is true: its commands are run as they stand there and print what it says, its Python runs.

Also what `wsi demo` promises about its answers, since it is run here anyway.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heads import load_prompts

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TIMES = re.compile(r"\d+(\.\d+)? (s|min|h)\b( \d+ (s|min))?")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, flags=re.M | re.S)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints) of a console block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def levelled(text: str) -> str:
    """Without what differs from run to run: times, blanks at line ends."""
    return "\n".join(TIMES.sub("TIME", line).rstrip() for line in text.strip().splitlines()) + "\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the console blocks have been run, one after another."""
    folder = tmp_path_factory.mktemp("readme")
    bin_folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "COLUMNS": "120"}
    for block in blocks("console"):
        for command, printed in commands(block):
            # make sets up an environment and runs the demo; the environment is the one that runs this test
            run = command.replace("make demo", "wsi demo")
            done = subprocess.run(run, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if printed.strip():
                same = doctest.OutputChecker().check_output(levelled(printed), levelled(done.stdout), doctest.ELLIPSIS)
                assert same, f"$ {command}\nthe README says:\n{printed}\nit printed:\n{done.stdout}"
    return folder


def test_it_shows_a_result_before_line_thirty() -> None:
    head = "\n".join(README.splitlines()[:30])
    assert "$ make demo" in head and "balanced accuracy" in head


def test_every_command_prints_what_the_readme_says(desk: Path) -> None:
    assert (desk / "demo" / "results" / "report.html").stat().st_size > 100_000


def test_the_prompt_file_is_one(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "mine.toml").write_text(text)
    assert load_prompts(tmp_path / "mine.toml").names == ("tumour", "no tumour")


def test_the_python_example_runs(desk: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_demo_answers_as_drawn(desk: Path) -> None:
    """Above 0.9 each, with the shipped weights, on slides whose seeds the training never saw."""
    from pipeline.demo import compare
    from pipeline.output import OutputFolder

    answers = compare(OutputFolder(desk / "demo" / "results"), desk / "demo" / "cohort")
    assert len(answers.ids) >= 8
    assert answers.balanced_accuracy > 0.9
    assert answers.tumour_auc > 0.9


def test_the_report_needs_no_network(desk: Path) -> None:
    page = (desk / "demo" / "results" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "synthetic tissue only" in page


def test_every_verb_is_told() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True)
    verbs = re.findall(r"^│ (\w+) ", done.stdout, flags=re.M)
    assert len(verbs) >= 10
    assert [v for v in verbs if f"wsi {v}" not in README] == []


def test_pictures_are_there() -> None:
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).is_file()
    assert shutil.which("make")
