"""What is told of a slide beside its result, where many slides may share it: the note, and the line at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from wsi.wording import number_of

UNCHECKED = "The slide could not be checked, and stands as it was done"  # begins the note
KEPT = "Its features were there already, of an earlier run with these settings: nothing was encoded."
_ASSUMED = "It has no resolution of its own: {:g} um/px from --mpp."


def assumed_mpp(fallback_mpp: float | None) -> tuple[str, ...]:
    """The note of a slide that had to fall back on --mpp; () for None."""
    return () if fallback_mpp is None else (_ASSUMED.format(fallback_mpp),)


def common_notes(slides: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines that tell of how many slides a note is, from the notes of each."""
    every = list(slides)
    begin, end = _ASSUMED.split("{:g}")
    assumed = Counter(n[len(begin) : -len(end)] for notes in every for n in notes if n.startswith(begin))
    lines = []
    for mpp, n in sorted(assumed.items()):
        told = "1 slide has no resolution of its own" if n == 1 else f"{n} slides have no resolution of their own"
        lines.append(f"{told}: {mpp}{end.rstrip('.')}")
    if unchecked := sum(any(note.startswith(UNCHECKED) for note in notes) for notes in every):
        lines.append(f"not checked: {number_of(unchecked, 'slide')} that cannot be read now, standing as done before")
    return lines
