"""What is told of a slide beside its result, in words that others know it by."""

from __future__ import annotations

UNCHECKED = "The slide could not be checked, and stands as it was done"  # begins the note
KEPT = "Its features were there already, of an earlier run with these settings: nothing was encoded."


def assumed_mpp(fallback_mpp: float | None) -> tuple[str, ...]:
    """The note of a slide that had to fall back on --mpp; () for None."""
    return () if fallback_mpp is None else (f"It has no resolution of its own: {fallback_mpp:g} um/px from --mpp.",)
