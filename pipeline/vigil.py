"""Waiting for slides that other processes have: until they are done there, or their owners are missed for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.claims import PACE, Owner, Pace, look, take_away

_LONGEST_S = 15.0  # between two looks; the first comes after one second, each further one after twice as long
_LOOKS = 4  # at least so many find an owner silent before it counts as gone


@dataclass(slots=True)
class _Silence:
    said: bytes
    seconds: float
    looked: float


@dataclass(slots=True)
class Vigil:
    """What this process has seen of claims, look by look, by its own clock alone.

    Modification times are of another machine's clock, and may be cached: they are not asked.
    """

    pace: Pace = PACE
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _seen: dict[Path, _Silence] = field(default_factory=dict)
    _pause: float = 1.0

    def is_free(self, folder: Path) -> bool:
        """True where nobody has a claim on the folder any more. That of a silent owner is taken away."""
        try:
            said = look(folder)
            if said is not None and self._is_over(folder, said):
                take_away(folder, said)
                said = None
        except OSError:
            return False  # the disk does not answer: no time to judge its users
        if said is None:
            self._seen.pop(folder, None)
        return said is None

    def owners(self) -> list[str]:
        """Who has the folders that were not free, one entry a folder."""
        return [str(Owner.of(silence.said) or "another process") for silence in self._seen.values()]

    def pause(self, *, shortest: bool = False) -> None:
        """Sleeps until it is worth looking again: longer each time."""
        self._pause = 1.0 if shortest else self._pause
        self.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_S, self.pace.silent_s / _LOOKS)

    def _is_over(self, folder: Path, said: bytes) -> bool:
        now, owner = self.clock(), Owner.of(said)
        before = self._seen.get(folder)
        if before is None or before.said != said:
            self._seen[folder] = _Silence(said, 0.0, now)
            return owner is not None and owner.is_gone
        # Who watches may have been asleep as well, or the disk away for both: no single look counts for much.
        before.seconds += min(now - before.looked, self.pace.silent_s / _LOOKS)
        before.looked = now
        return before.seconds >= self.pace.silent_s or (owner is not None and owner.is_gone)
