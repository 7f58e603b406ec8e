"""What the command line says while it works: a live bar on a terminal, plain lines elsewhere; and its tables."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from heads.problems import some
from pipeline.ledger import CRASHED, GOOD, REFUSED, STOPPED
from pipeline.notes import KEPT
from wsi.wording import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pipeline.ledger import Outcome

LOG_WIDTH = 160  # of tables where there is no terminal to ask
NOTES = 12  # kinds of notes at the end of a run
_VARIES = re.compile(r"\S*[\d/]\S*|\S+\.\w\S*")  # from slide to slide: numbers, paths, names of files
_PLURAL = re.compile(r"(?<=\d )(\w+)s\b")
HEARTBEAT_S = 30.0  # without a terminal, at most one line of progress in this time


def open_console(*, stderr: bool = False) -> Console:
    """Standard output, or error. Without a terminal, lines are as long as they are: logs are searched."""
    plain: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True, "stderr": stderr}
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=LOG_WIDTH)


class RunConsole:
    """Watches a run, from any thread. Draws nothing until entered as a context manager.

    `check` is called at every step of the run, and may end it by raising.
    """

    def __init__(self, console: Console, slides: int, check: Callable[[], None] | None = None) -> None:
        self.console, self.slides, self._check = console, slides, check or (lambda: None)
        self.live = console.is_terminal
        self.tiles, self.ended, self.started = 0, 0, time.monotonic()
        self.said = self.started
        self._told_of_others = False
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("slides"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
            transient=True,
        )
        self._task = self._bar.add_task("", total=slides, rate="")
        self._shares: dict[int, float] = {}  # of the slide under way in each thread, what is done
        self._lock = threading.RLock()

    def __enter__(self) -> RunConsole:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def slide_started(self, name: str, tiles: int) -> None:
        with self._lock:
            self._shares[threading.get_ident()] = 0.0
            self._bar.update(self._task, description=f"{name} ({number_of(tiles, 'tile')})")

    def tiles_done(self, count: int, share: float) -> None:
        """`count` more tiles encoded; `share` of the slide under way in this thread is done."""
        self._check()
        with self._lock:
            self._shares[threading.get_ident()] = share
            self.tiles += count
            self._bar.update(self._task, completed=self._completed(), rate=self._rate())
            if not self.live and time.monotonic() - self.said > HEARTBEAT_S:
                self._say(f"{self.ended}/{self.slides} slides, {self.tiles} tiles, {self._rate()}{self._left()}")

    def slide_ended(self, outcome: Outcome, counted: bool) -> None:
        """One slide is over; `counted` if its tiles came through `tiles_done` already."""
        with self._lock:
            self._tell_end(outcome, counted)
        self._check()

    def _tell_end(self, outcome: Outcome, counted: bool) -> None:
        self.ended += 1
        self.tiles += 0 if counted else outcome.tiles
        whole = [thread for thread, share in self._shares.items() if share >= 1]
        for thread in whole[:1] if counted else []:
            del self._shares[thread]
        self._bar.update(self._task, completed=self._completed(), rate=self._rate())
        line = f"[{self.ended}/{self.slides}] {outcome.name}: {outcome.status}"
        if outcome.good:
            line += f", {number_of(outcome.tiles, 'tile')}, {outcome.seconds:.1f} s"
            line += ", its features were there already" if KEPT in outcome.notes else ""
        elif outcome.status != STOPPED:  # what stops the run is told as its end
            line += f" ({outcome.code}). {last_line(outcome.detail)} {outcome.hint}".rstrip()
        if not (self.live and outcome.good):
            self._say(line, "" if outcome.good else "red")

    def _completed(self) -> float:
        return min(self.slides, self.ended + sum(self._shares.values()))

    def progress(self) -> dict[str, float | None]:
        """Slides that are over and tiles that are done, tiles per second, seconds left (None before the first end)."""
        with self._lock:
            spent = time.monotonic() - self.started
            left = spent / self.ended * (self.slides - self.ended) if self.ended else None
            rate = self.tiles / max(1e-9, spent)
            told = {"slides": self.ended, "tiles": self.tiles, "tiles_per_s": round(rate, 1)}
            return {**told, "left_s": None if left is None else round(left)}

    def others_at_work(self, slides: dict[str, int]) -> None:
        """`slides` by the process that has them; told once, however long it takes."""
        self._check()
        if not self._told_of_others:
            self._told_of_others = True
            n = sum(slides.values())
            whose = ", ".join(slides) or "another process"
            told = number_of(n, "slide is", "slides are")
            self._say(f"{told} being done by another run ({whose}): waiting for it")

    def _say(self, line: str, style: str = "") -> None:
        self.said = time.monotonic()
        self._bar.console.print(Text(line, style=style), soft_wrap=True)

    def _rate(self) -> str:
        return f"{self.tiles / max(1e-9, time.monotonic() - self.started):.0f} tiles/s"

    def _left(self) -> str:
        spent = time.monotonic() - self.started
        return f", about {duration(spent / self.ended * (self.slides - self.ended))} left" if self.ended else ""


def last_line(text: str) -> str:
    """The sentence of an error, or the exception's line of a traceback."""
    return text.strip().splitlines()[-1] if text.strip() else ""


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `3 min 20 s`, `5 min`, `1 h 12 min`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {s} s" if s else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes for people: `512 B`, `3.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> Table:
    """A plain table; cells are shown as text, never as markup: slides may be called anything."""
    shown = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    return shown


def noted(outcomes: Iterable[Outcome], told: tuple[str, ...] = ()) -> list[str]:
    """What there is to know of slides, a line for each kind of note, with the first slide it is of.

    Notes are of one kind if they differ in numbers and names of files only. Those that begin as one of `told` are left
    out: they are told elsewhere.
    """
    kinds: dict[str, dict[str, str]] = {}  # kind -> slide -> its note
    for outcome in outcomes:
        for note in outcome.notes:
            if not note.startswith(told):
                kinds.setdefault(_VARIES.sub("", _PLURAL.sub(r"\1", note)), {}).setdefault(outcome.name, note)
    lines = [_of_kind(notes) for notes in kinds.values()]
    hidden = len(lines) - NOTES
    return lines if hidden <= 0 else [*lines[:NOTES], f"note: and {hidden} kinds more; slides.csv has all of them"]


def _of_kind(notes: dict[str, str]) -> str:
    (name, note), *others = notes.items()
    alike = f" (and of {len(others)} more the like: {some([other for other, _ in others])})" if others else ""
    return f"note: {name}: {note.removeprefix(f'{name}: ')}{alike}"


def summary(outcomes: list[Outcome], seconds: float) -> str:
    """The line at the end of a run, and one with the codes of what was refused."""
    tally = Counter(o.status for o in outcomes)
    parts = [f"{tally[s]} {s}" for s in (*GOOD, REFUSED, CRASHED) if tally[s]]
    tiles = sum(o.tiles for o in outcomes if o.status == "done" and KEPT not in o.notes)
    text = f"{number_of(len(outcomes), 'slide')}: {', '.join(parts) or 'none'}; "
    text += f"{number_of(tiles, 'tile')} in {duration(seconds)}"
    codes = Counter(o.code for o in outcomes if not o.good)
    if codes:
        text += "\nnot done: " + ", ".join(f"{code} {n}" for code, n in codes.most_common())
    return text
