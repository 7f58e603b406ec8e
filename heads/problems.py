"""Faults are told all at once: collect sentences, then refuse."""

from __future__ import annotations

from collections.abc import Sequence

from wsi.errors import ToolkitError, UsageError

_SHOWN = 20


def refuse(
    problems: Sequence[str],
    about: str,
    hint: str = "Put these right and try again.",
    kind: type[ToolkitError] = UsageError,
) -> None:
    """Raise `kind` naming every problem, the first 20 in full; do nothing where there is none."""
    if not problems:
        return
    listed = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        listed.append(f"and {len(problems) - _SHOWN} more")
    raise kind(f"{about}: {'; '.join(listed)}.", hint=hint)


def some(names: Sequence[object]) -> str:
    """The first few of many, for a sentence: `a, b, c and 7 more`."""
    shown = ", ".join(str(n) for n in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
