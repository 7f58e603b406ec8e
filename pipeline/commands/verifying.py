"""`wsi verify`: what is damaged in an output folder, told slide by slide, and removed if asked to."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pipeline import ledger
from pipeline.audit.findings import ENCODE, REDRAW, Finding
from pipeline.audit.folder import Audit, check_verifiable
from pipeline.audit.repair import Repair
from pipeline.console import HEARTBEAT_S, duration, open_console
from pipeline.interrupts import EXIT_CODE, Interrupts
from pipeline.output import OutputFolder
from wsi.wording import number_of

NOT_WHOLE = 3
_SHOWN = 8  # findings of one slide; --json has all


def verify(path: Path, *, slides: bool, repair: bool, as_json: bool) -> int:
    """`wsi verify`. 0 if all is whole, 3 if something is damaged, repaired or not: a run has to make it again."""
    console, out = open_console(), OutputFolder(path)
    check_verifiable(out)
    told, mend = _Told(console, out, as_json), Repair(out) if repair else None
    try:
        held = out.alone() if repair else out.unchanging()
        with Interrupts() as stop, held, Audit.of(out, slides=slides) as audit:
            for slide_id, findings in _gone_through(console, audit, stop.check, quiet=as_json):
                told.add(slide_id, findings, [] if mend is None else mend.of(findings))
        told.end(mend)
    except KeyboardInterrupt:
        if not as_json:
            console.print("Interrupted. What was not gone through yet is not known.")
        return EXIT_CODE
    return NOT_WHOLE if told.damaged else 0


def _gone_through(
    console: Console, audit: Audit, check: Callable[[], None], *, quiet: bool
) -> Iterator[tuple[str, list[Finding]]]:
    """The folder's findings under no name, before a repair makes its tables differ; then every slide's."""
    ids, said = audit.ids(), time.monotonic()
    with console.status("looking at what is there") as status:
        yield "", list(audit.folder())
        for done, slide_id in enumerate(ids, start=1):
            check()
            yield slide_id, audit.slide(slide_id)
            line = f"{done}/{len(ids)} slides verified"
            status.update(line)
            if not (quiet or console.is_terminal) and time.monotonic() - said > HEARTBEAT_S:
                said = time.monotonic()
                console.print(line)


class _Told:
    """Prints findings as they come, counts them, and sums up."""

    def __init__(self, console: Console, out: OutputFolder, as_json: bool) -> None:
        self._console, self._out, self._as_json = console, out, as_json
        self._started = time.monotonic()
        self._codes: Counter[str] = Counter()
        self._slides, self._removed = 0, 0
        self._remedies: Counter[str] = Counter()  # damaged slides by the gravest remedy
        self.damaged = 0  # slides, and the folder itself

    def add(self, slide_id: str, findings: list[Finding], removed: list[Path]) -> None:
        """The findings of one slide, or of the folder under ""."""
        damage = [f for f in findings if f.damage]
        self._slides += bool(slide_id)
        self._removed += len(removed)
        self._codes.update(f.code for f in damage)
        self.damaged += bool(damage)
        remedies = {f.remedy for f in damage}
        if slide_id and (gravest := next((r for r in (ENCODE, REDRAW) if r in remedies), "")):
            self._remedies[gravest] += 1
        if self._as_json:
            for finding in findings:
                gone = any(path in removed for path in finding.remove)
                self._say(json.dumps({**finding.as_json(self._out.path), "removed": gone}))
        elif findings:
            self._lines(slide_id or self._out.path.name, findings, bool(damage))

    def end(self, mend: Repair | None) -> None:
        """The summary: what was found, and what to do."""
        if self._as_json:
            return
        for sentence in mend.refused if mend is not None else ():
            self._say(sentence, "red")
        spent = duration(time.monotonic() - self._started)
        if not self.damaged:
            self._say(f"{number_of(self._slides, 'slide')} verified in {spent}: whole")
            return
        codes = ", ".join(f"{n} {code}" for code, n in self._codes.most_common())
        self._say(f"{number_of(self._slides, 'slide')} verified in {spent}: not whole ({codes})")
        if mend is not None:
            self._say(f"{self._removed} files and folders removed")
        if self._remedies:
            self._say(
                f"to be encoded again: {number_of(self._remedies[ENCODE], 'slide')}; to be drawn or scored again: "
                f"{self._remedies[REDRAW]}"
            )
        if command := ledger.last_command(self._out.ledger):
            self._say(f"run again: {shlex.join(['wsi', *command])}")
        if mend is None:
            self._say("A run makes damaged features again by itself; --repair removes all that is damaged or left over")

    def _lines(self, name: str, findings: list[Finding], damaged: bool) -> None:
        codes = ", ".join(f"{code} x {n}" if n > 1 else code for code, n in Counter(f.code for f in findings).items())
        self._say(f"{name}: {'not whole' if damaged else 'whole, but look'} ({codes})", "red" if damaged else "")
        for finding in findings[:_SHOWN]:
            self._say(f"  {finding.shown(self._out.path)}: {finding}")
        if len(findings) > _SHOWN:
            self._say(f"  and {len(findings) - _SHOWN} more: --json has them all")

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)
