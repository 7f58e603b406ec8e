"""Numbers of things in sentences."""

from __future__ import annotations


def number_of(n: int, noun: str, plural: str = "") -> str:
    """`1 slide`, `3 slides`; `plural` where it is not the noun with an s, as in `2 series`."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
