"""Who is trained on and who is tested: folds that keep a patient whole, classes even and, if asked, sites apart.

All count patients, not slides: a patient with ten slides is one. A patient whose slides are of two classes counts in
both. The same names and seed give the same folds, in whatever order the rows come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from heads.evenness import Ints, cost, deal, descend, most_even
from heads.problems import refuse, some

_HINT = "Use fewer folds, merge rare classes or add patients."


@dataclass(frozen=True, slots=True, eq=False)
class SiteSplit:
    """Folds that keep sites whole, and how close they are to the most even ones there can be."""

    folds: Ints  # (n,) 0..k-1
    cost: int  # sum over classes v and folds f of (k n_vf - n_v)^2, n in patients; 0 = every class in equal parts
    bound: int  # no split of these sites costs less

    @property
    def optimal(self) -> bool:
        """True where no other split is more even; False where none better was found, but one may exist."""
        return self.cost == self.bound


def stratified_folds(groups: Sequence[str], strata: Sequence[Hashable], k: int, seed: int = 0) -> Ints:
    """(n,) fold 0..k-1 of every bag: a patient lies in one fold, and each class is spread evenly over all.

    groups (n,) patient of each bag; strata (n,) its class, or what else is to be spread; a tuple names several, each
    spread by itself. Where every patient has one class, the patients of a class, and of all, differ by one at most
    between folds; slides are evened out after them.

    Raises UsageError naming all that is wrong: fewer patients than folds, a class with fewer patients than folds.
    """
    refuse(_faults(groups, strata, k), "No folds can be made", _HINT)
    rows, has = _patients(groups, strata)
    slides, rng = np.bincount(rows), np.random.default_rng(seed)
    shuffled = rng.permutation(len(has))
    # Patients of several classes first, since those of one can fill what they leave; then class by class.
    keys = (-slides[shuffled], has[shuffled].argmax(axis=1), -has[shuffled].sum(axis=1))
    return descend(has, deal(has, shuffled[np.lexsort(keys)], k, slides, rng), k)[rows]


def site_folds(
    groups: Sequence[str], strata: Sequence[Hashable], sites: Sequence[str], k: int, seed: int = 0
) -> SiteSplit:
    """Folds that also keep each site whole, so that no head is tested on a site whose look it has learnt.

    sites (n,) hospital of each bag; TCGA's is the second field of the barcode. Minimises the sum over classes v and
    folds f of (k n_vf - n_v)^2 (Howard et al., Nat Commun 12:4423, 2021). Sites are few and uneven, so classes may
    stay uneven too: `cost` says how much. Descent from several starts, then a search that proves the result the best
    where it ends in time (a dozen sites or so; often more).

    Raises UsageError as `stratified_folds` does, and for fewer sites than folds or a patient with two sites.
    """
    faults = [*_faults(groups, strata, k), *_site_faults(groups, sites, k)]
    refuse(faults, "No folds can be made that keep sites whole", _HINT)
    rows, has = _patients(groups, strata)
    where = np.unique(np.asarray(sites, dtype=str), return_inverse=True)[1]
    home = np.zeros(len(has), np.int64)
    home[rows] = where
    counts = np.zeros((where.max() + 1, has.shape[1]), np.int64)  # patients by site and class
    np.add.at(counts, home, has)
    fold, bound = most_even(counts, k, np.bincount(where), np.random.default_rng(seed))
    return SiteSplit(fold[where], cost(counts, fold, k), bound)


def validation_rows(
    groups: Sequence[str], strata: Sequence[Hashable], share: float, seed: int = 0
) -> NDArray[np.bool_]:
    """(n,) True for the part of the training rows that is held back to fit temperature and thresholds, and to stop.

    Whole patients: `share` of every class, at least one where a class has two, and never its last. All False where no
    class has two. Raises UsageError for a share outside 0 to 1.
    """
    shares = [] if 0 < share < 1 else [f"the share must lie between 0 and 1, not {share}"]
    refuse([*_row_faults(groups, strata), *shares], "No rows can be held back")
    rows, has = _patients(groups, strata)
    size, held = has.sum(axis=0), np.zeros(len(has), bool)
    wanted, taken = np.maximum(np.floor(share * size + 0.5), 1), np.zeros_like(size)
    for patient in np.random.default_rng(seed).permutation(len(has)):
        own = has[patient] == 1
        held[patient] = (taken < wanted)[own].any() and (taken + 1 < size)[own].all()
        taken += has[patient] * held[patient]
    return held[rows]


def check_split(groups: Sequence[str], folds: Sequence[Hashable]) -> Ints:
    """(n,) 0..k-1: folds that somebody made, numbered in the order of their names. Numbers may be written as text.

    Raises UsageError naming patients that lie in two folds, bags in none, folds numbered from 0 or 1 that are empty,
    or fewer than two folds.
    """
    refuse(_row_faults(groups, folds, "folds"), "This split cannot be used")
    names = [fold_name(fold) for fold in folds]
    found = sorted(
        set(names) - {""}, key=lambda name: (not _is_number(name), float(name) if _is_number(name) else name)
    )
    refuse(
        _split_faults(groups, names, found), "This split cannot be used", "Mend the folds, or leave them to be made."
    )
    return np.array([found.index(name) for name in names], dtype=np.int64)


def survival_strata(
    time: Sequence[float], event: Sequence[float], groups: Sequence[str] | None = None, least: int = 10
) -> list[str]:
    """(n,) event or censored, crossed with the third of all times; by event alone where a crossing is rare.

    groups (n,) patient of each bag (each its own if None). A crossing is rare with fewer than `least` patients.
    """
    ends = ["event" if seen else "censored" for seen in event]
    owners, times, first = _owners(groups, np.asarray(time, dtype=np.float64))
    third = np.digitize(times, np.quantile(times[first], (1 / 3, 2 / 3)))
    crossed = [f"{end}, {('early', 'middle', 'late')[t]}" for end, t in zip(ends, third, strict=True)]
    return crossed if _rarest(owners, crossed) >= least else ends


def value_strata(y: Sequence[float], bins: int = 4, groups: Sequence[str] | None = None, least: int = 10) -> list[str]:
    """(n,) quantile bin of each value, named by its limits; fewer bins where one would have under `least` patients."""
    owners, values, first = _owners(groups, np.asarray(y, dtype=np.float64))
    low = np.unique(values)[:2][-1]  # where most values are the lowest, these are a bin
    for n in range(bins, 1, -1):
        edges = np.unique(np.maximum(np.quantile(values[first], np.arange(1, n) / n), low))
        names = _between(edges)
        strata = [names[i] for i in np.digitize(values, edges)]
        if _rarest(owners, strata) >= least:
            return strata
    return ["any value"] * len(values)


def _between(edges: NDArray[np.float64]) -> list[str]:
    limits = [f"{edge:g}" for edge in edges]
    inner = [f"{low} to {high}" for low, high in pairwise(limits)]
    return [f"below {limits[0]}", *inner, f"{limits[-1]} and above"]


def _owners(
    groups: Sequence[str] | None, values: NDArray[np.float64]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.intp]]:
    """Patients, values and the first row of each patient, so that quantiles count a patient once."""
    owners = [str(i) for i in range(len(values))] if groups is None else list(groups)
    return owners, values, np.unique(np.asarray(owners, dtype=str), return_index=True)[1]


def _rarest(groups: Iterable[str], strata: Iterable[Hashable]) -> int:
    """Patients of the class that has fewest."""
    return min(Counter(stratum for _, stratum in set(zip(groups, strata, strict=True))).values())


def _own(stratum: Hashable) -> tuple[Hashable, ...]:
    """The classes of a bag: several where it is a tuple, as the answers to several questions are."""
    return stratum if isinstance(stratum, tuple) else (stratum,)


def _classes(strata: Iterable[Hashable]) -> list[Hashable]:
    return sorted({own for stratum in strata for own in _own(stratum)}, key=str)


def _patients(groups: Sequence[str], strata: Sequence[Hashable]) -> tuple[NDArray[np.intp], Ints]:
    """(n,) patient of each row, in the order of names, and (patients, classes) 1 where a patient has the class."""
    names, rows = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    column = {stratum: i for i, stratum in enumerate(_classes(strata))}
    has = np.zeros((len(names), len(column)), np.int64)
    for row, stratum in zip(rows, strata, strict=True):
        has[row, [column[own] for own in _own(stratum)]] = 1
    return rows, has


def _row_faults(groups: Sequence[str], others: Sequence[Hashable], what: str = "classes") -> list[str]:
    if len(groups) != len(others):
        return [f"there are {len(groups)} patients' names and {len(others)} {what}"]
    if not len(groups):
        return ["there are no bags"]
    nameless = sum(not str(group) for group in groups)
    return [f"{nameless} bags have no patient"] if nameless else []


def _faults(groups: Sequence[str], strata: Sequence[Hashable], k: int) -> list[str]:
    faults = _row_faults(groups, strata)
    if k < 2:
        return [*faults, f"there must be at least 2 folds, not {k}"]
    patients = len(set(groups))
    if faults or patients < k:
        return faults or [f"there are {patients} patients for {k} folds"]
    size = Counter(own for _, own in {(g, own) for g, s in zip(groups, strata, strict=True) for own in _own(s)})
    rare = [f"'{stratum}' has {size[stratum]}" for stratum in _classes(strata) if size[stratum] < k]
    return [f"a class needs a patient in each of the {k} folds, but {some(rare)}"] if rare else []


def _site_faults(groups: Sequence[str], sites: Sequence[str], k: int) -> list[str]:
    if len(sites) != len(groups):
        return [f"there are {len(groups)} patients' names and {len(sites)} sites"]
    faults = []
    if nameless := sum(not str(site) for site in sites):
        faults.append(f"{nameless} bags have no site")
    if len(set(sites)) < k:
        faults.append(f"there are {len(set(sites))} sites for {k} folds")
    if moved := _in_several(zip(groups, sites, strict=True)):
        faults.append(f"{len(moved)} patients have more than one site ({some(moved)})")
    return faults


def _split_faults(groups: Sequence[str], names: Sequence[str], found: Sequence[str]) -> list[str]:
    faults = []
    if nameless := sum(not name for name in names):
        faults.append(f"{nameless} bags are in no fold")
    if len(found) < 2:
        faults.append(f"there must be at least 2 folds, not {len(found)}")
    if empty := _gaps(found):
        faults.append(f"folds without a bag: {some(empty)}")
    placed = [(group, name) for group, name in zip(groups, names, strict=True) if name]
    if torn := _in_several(placed):
        faults.append(f"{len(torn)} patients lie in more than one fold ({some(torn)})")
    return faults


def _in_several(placed: Iterable[tuple[str, Hashable]]) -> list[str]:
    """Patients that are there with more than one site or fold."""
    times = Counter(group for group, _ in set(placed))
    return sorted(group for group, n in times.items() if n > 1)


def _gaps(found: Sequence[str]) -> list[int]:
    """Numbers left out between folds counted from 0 or 1. Others, such as years, are names."""
    if not found or not all(name.isdecimal() for name in found) or int(found[0]) > 1:
        return []
    return sorted(set(range(int(found[0]), int(found[-1]))) - {int(name) for name in found})


def fold_name(fold: Hashable) -> str:
    """Empty for None and NaN; 1, 1.0 and "1.0" are one fold, since tables with gaps are saved as floats."""
    text = str(fold).strip()
    if _is_number(text):
        return str(int(float(text))) if float(text).is_integer() else str(float(text))
    return "" if text in ("None", "nan") else text


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)).item()
    except ValueError:
        return False
