"""How units (patients, or sites with all their patients) are shared out so that every class is even over the folds.

`counts` (units, classes) says how many patients of each class a unit has. A greedy deal, descent by moves and swaps,
and for few sites a search that proves the result the best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_STARTS = 60  # of the descent, fewer where sites are many and any start comes close
_SEARCHED = 200  # sites at most: the search goes as deep as there are sites
_STEPS = 20_000  # of the exact search: below a second; counted, since a clock would make folds differ by machine

# Since the folds of a class add up to n_v, cost = k^2 sum n_vf^2 - k sum n_v^2: folds are most even where the sum of
# squares is least. To put a unit (a patient or a site) into an empty fold never costs more than into another, so the
# steps below, which prefer the emptier of equals and change only what gains, leave no fold empty.


def cost(counts: Ints, fold: Ints, k: int) -> int:
    """Sum over classes v and folds f of (k n_vf - n_v)^2; `counts` (units, classes), `fold` (units,)."""
    totals = _totals(counts, fold, k)
    return int(((k * totals - totals.sum(axis=0)) ** 2).sum())


def _totals(counts: Ints, fold: Ints, k: int) -> Ints:
    totals = np.zeros((k, counts.shape[1]), np.int64)
    np.add.at(totals, fold, counts)
    return totals


def deal(counts: Ints, order: Ints, k: int, slides: Ints, rng: np.random.Generator) -> Ints:
    """Each unit in turn to the fold that has least of its classes; then to that with fewest patients, slides."""
    totals, load, tie = np.zeros((k, counts.shape[1]), np.int64), np.zeros(k, np.int64), rng.permutation(k)
    fold = np.zeros(len(counts), np.int64)
    for unit in order:
        fold[unit] = to = np.lexsort((tie, load, totals.sum(axis=1), totals @ counts[unit]))[0]
        totals[to] += counts[unit]
        load[to] += slides[unit]
    return fold


def descend(counts: Ints, fold: Ints, k: int) -> Ints:
    """Move one unit or swap two, whichever gains most, until nothing does."""
    fold, n = fold.copy(), len(counts)
    units = np.vstack([counts, np.zeros((k, counts.shape[1]), np.int64)])  # a move is a swap with nothing
    while cost(counts, fold, k) > _least(counts, k):
        at = np.append(fold, np.arange(k))
        kinds = np.unique(np.column_stack([units, at]), axis=0, return_index=True)[1]  # equal units of a fold are one
        change = _change(units[kinds], at[kinds], _totals(counts, fold, k))
        i, j = np.unravel_index(change.argmin(), change.shape)
        if change[i, j] >= 0:
            break
        for one, other in ((kinds[i], kinds[j]), (kinds[j], kinds[i])):
            if one < n:
                fold[one] = at[other]
    return fold


def _change(units: Ints, at: Ints, totals: Ints) -> Ints:
    """(m, m) half of what the sum of squares gains when units i and j change places.

    With w = u_i - u_j it is w . (C_b - C_a) + |w|^2, where a and b are their folds and C what those hold.
    """
    held = (units @ totals.T)[:, at]  # u_i . C of the fold of j
    inner = units @ units.T
    alone = np.diag(inner) - np.diag(held)
    return held + held.T - 2 * inner + alone[:, None] + alone[None, :]


def _least(counts: Ints, k: int) -> int:
    """What remains if every class could be dealt singly: r of its patients are over, k r (k - r)."""
    over = counts.sum(axis=0) % k
    return int((k * over * (k - over)).sum())


def most_even(counts: Ints, k: int, slides: Ints, rng: np.random.Generator) -> tuple[Ints, int]:
    """The best fold of each site that was found, and a cost below which there is none."""
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]  # large first: the best single guess
    best, least = descend(counts, deal(counts, order, k, slides, rng), k), _least(counts, k)
    for _ in range(min(_STARTS, 4000 // len(counts))):
        if cost(counts, best, k) == least:
            return best, least
        fold = descend(counts, deal(counts, rng.permutation(len(counts)), k, slides, rng), k)
        best = min(best, fold, key=lambda f: cost(counts, f, k))
    if len(counts) > _SEARCHED:
        return best, least
    search = _Search(counts, k, best)
    search.visit((), ((0,) * counts.shape[1],) * k)
    return search.best, least if search.steps > _STEPS else cost(counts, search.best, k)


class _Search:
    """Branch and bound over sites, the largest first, for a split that is better than `best`."""

    def __init__(self, counts: Ints, k: int, best: Ints) -> None:
        self.order = np.lexsort((*counts.T, counts.sum(axis=1)))[::-1]  # equal sites side by side
        self.units = [tuple(row) for row in counts[self.order].tolist()]
        self.left = [*counts[self.order][::-1].cumsum(axis=0)[::-1].tolist(), [0] * counts.shape[1]]
        self.best, self.squares, self.steps = best, int((_totals(counts, best, k) ** 2).sum()), 0

    def visit(self, chosen: tuple[int, ...], totals: tuple[tuple[int, ...], ...]) -> None:
        """All folds of the sites after the `chosen` ones, whose classes add up to `totals` (k, classes)."""
        self.steps += 1
        if self.steps > _STEPS or self._bound(len(chosen), totals) >= self.squares:
            return
        if len(chosen) < len(self.units):
            unit = self.units[len(chosen)]
            for f in self._choices(chosen, totals):
                after = tuple(a + b for a, b in zip(totals[f], unit, strict=True))
                self.visit((*chosen, f), (*totals[:f], after, *totals[f + 1 :]))
        elif all(any(held) for held in totals):
            self.squares = sum(n * n for held in totals for n in held)
            self.best = np.array(chosen)[np.argsort(self.order)]

    def _choices(self, chosen: tuple[int, ...], totals: tuple[tuple[int, ...], ...]) -> list[int]:
        """Folds for the next site, the most promising first; of what only renames folds or sites, one is tried."""
        i = len(chosen)
        first = chosen[-1] if i and self.units[i] == self.units[i - 1] else 0
        alike = {totals[f]: f for f in reversed(range(first, len(totals)))}
        return sorted(alike.values(), key=lambda f: sum(a * b for a, b in zip(totals[f], self.units[i], strict=True)))

    def _bound(self, i: int, totals: tuple[tuple[int, ...], ...]) -> int:
        return sum(_filled(held, rest) for held, rest in zip(zip(*totals, strict=True), self.left[i], strict=True))


def _filled(held: tuple[int, ...], rest: int) -> int:
    """The least sum of squares of these numbers when `rest` is spread over them: the low ones are filled up."""
    low = sorted(held)
    for j in range(len(low), 0, -1):
        level, over = divmod(sum(low[:j]) + rest, j)
        if level >= low[j - 1]:
            break
    return (j - over) * level**2 + over * (level + 1) ** 2 + sum(n * n for n in low[j:])
