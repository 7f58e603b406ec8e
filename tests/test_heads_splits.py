"""Folds: no patient in two, classes even, sites whole and as even as can be, splits of one's own checked.

Optimality is held against all assignments of small problems; balance against scikit-learn's StratifiedGroupKFold.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from heads import evenness
from heads.splits import (
    check_split,
    site_folds,
    stratified_folds,
    survival_strata,
    validation_rows,
    value_strata,
)
from wsi.errors import UsageError


def made_up(seed: int, patients: int = 60, classes: int = 3) -> tuple[list[str], list[str]]:
    """Groups and strata of a cohort: each patient of one class, with one to four slides, rows shuffled."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(classes, patients - 5 * classes, p=rng.dirichlet(np.full(classes, 5.0)))
    label = [*np.tile(range(classes), 5), *drawn]
    rows = [p for p in range(patients) for _ in range(rng.integers(1, 5))]
    rng.shuffle(rows)
    return [f"P{p:03d}" for p in rows], [f"class {label[p]}" for p in rows]


def table(groups: Sequence[str], strata: Sequence[Hashable], folds: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """(k, classes) patients, counted without the code under test."""
    names = sorted(set(strata), key=str)
    seen = {(g, s, f) for g, s, f in zip(groups, strata, folds.tolist(), strict=True)}
    return np.array([[sum(f == fold and s == name for _, s, f in seen) for name in names] for fold in range(k)])


def howard(counts: NDArray[np.int64], k: int) -> int:
    """The sum over classes v and folds f of (k n_vf - n_v)^2, as it is printed in the paper."""
    n = counts.sum(axis=0)
    return sum((k * int(counts[f, v]) - int(n[v])) ** 2 for f in range(k) for v in range(len(n)))


def tiny_sites(seed: int, n_sites: int) -> tuple[list[str], list[str], list[str]]:
    """One row a patient; sites of one to eleven patients, each with a leaning towards one of two or three classes."""
    rng = np.random.default_rng(seed)
    n_classes = int(rng.integers(2, 4))
    sites = [f"S{s}" for s in range(n_sites) for _ in range(rng.integers(1, 12))]
    leaning = {f"S{s}": rng.dirichlet(np.full(n_classes, 0.7)) for s in range(n_sites)}
    strata = [f"class {rng.choice(n_classes, p=leaning[s])}" for s in sites]
    forced = [f"class {v}" for v in range(n_classes) for _ in range(3)]  # else folds of three would be refused
    return [f"P{i}" for i in range(len(sites) + len(forced))], strata + forced, sites + ["S0"] * len(forced)


def least_of_all(groups: list[str], strata: list[str], sites: list[str], k: int) -> int:
    """The least cost over every assignment of sites to folds that leaves none empty."""
    names = sorted(set(sites))
    best = None
    for assignment in itertools.product(range(k), repeat=len(names)):
        if len(set(assignment)) == k:
            folds = np.array([assignment[names.index(site)] for site in sites])
            cost = howard(table(groups, strata, folds, k), k)
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_stratified_folds_keep_patients_and_spread_classes_within_one(seed: int, k: int) -> None:
    groups, strata = made_up(seed)
    folds = stratified_folds(groups, strata, k, seed)
    counts = table(groups, strata, folds, k)
    assert set(folds.tolist()) == set(range(k)) and folds.dtype == np.int64
    assert len(set(zip(groups, folds.tolist(), strict=True))) == len(set(groups))
    assert np.ptp(counts, axis=0).max() <= 1 and np.ptp(counts.sum(axis=1)) <= 1


def test_stratified_folds_are_as_even_as_scikit_learns_and_more() -> None:
    """scikit-learn evens out slides; here patients go first, and slides differ by less than one large patient has."""
    slides = []
    for seed in range(20):
        groups, strata = made_up(seed)
        ours, theirs = stratified_folds(groups, strata, 5, seed), np.zeros(len(groups), np.int64)
        yardstick = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, test) in enumerate(yardstick.split(groups, strata, groups)):
            theirs[test] = fold
        assert howard(table(groups, strata, ours, 5), 5) <= howard(table(groups, strata, theirs, 5), 5)
        slides.append(np.ptp(np.bincount(ours)))
    assert np.mean(slides) < 4


def test_patients_of_two_classes_count_in_both_and_are_evened_out() -> None:
    """Six patients with a slide of each class, and six of one class: three folds can have 2 + 1 + 1 each."""
    groups = [f"M{i}" for i in range(6) for _ in "ab"] + [f"A{i}" for i in range(3)] + [f"B{i}" for i in range(3)]
    strata = ["a", "b"] * 6 + ["a"] * 3 + ["b"] * 3
    for seed in range(10):
        assert table(groups, strata, stratified_folds(groups, strata, 3, seed), 3).tolist() == [[3, 3]] * 3


def test_descent_mends_what_dealing_cannot() -> None:
    """Patients of many classes each: dealing alone leaves the folds uneven, moving and swapping gains."""
    gained = 0
    for seed in range(10):
        has = np.random.default_rng(seed).integers(0, 2, (24, 4))
        has[has.sum(axis=1) == 0, 0] = 1
        dealt = evenness.deal(has, np.arange(24), 3, np.ones(24, np.int64), np.random.default_rng(seed))
        before, after = (evenness.cost(has, f, 3) for f in (dealt, evenness.descend(has, dealt, 3)))
        assert after <= before
        gained += after < before
    assert gained >= 5


@pytest.mark.parametrize("make", [stratified_folds, lambda g, s, k, seed: validation_rows(g, s, 1 / k, seed)])
def test_the_same_seed_gives_the_same_folds_in_any_order_of_rows(make: Callable[..., NDArray[np.int64]]) -> None:
    groups, strata = made_up(3)
    first = make(groups, strata, 5, 1)
    order = np.random.default_rng(0).permutation(len(groups))
    moved = make([groups[i] for i in order], [strata[i] for i in order], 5, 1)
    assert moved.tolist() == first[order].tolist()
    assert make(groups, strata, 5, 2).tolist() != first.tolist()


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_site_folds_are_the_best_of_all(seed: int, k: int) -> None:
    groups, strata, sites = tiny_sites(seed, n_sites=6)
    split = site_folds(groups, strata, sites, k, seed)
    cost = howard(table(groups, strata, split.folds, k), k)
    assert split.optimal and split.cost == split.bound == cost == least_of_all(groups, strata, sites, k)
    assert set(split.folds.tolist()) == set(range(k))
    assert len(set(zip(sites, split.folds.tolist(), strict=True))) == len(set(sites))


def test_the_search_alone_finds_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descent: everything in the first k - 1 sites' folds, and the search has to mend it."""
    monkeypatch.setattr(evenness, "_STARTS", 0)
    monkeypatch.setattr(evenness, "descend", lambda counts, fold, k: np.minimum(np.arange(len(counts)), k - 1))
    for seed in range(6):
        groups, strata, sites = tiny_sites(seed, n_sites=7)
        split = site_folds(groups, strata, sites, 3)
        assert split.cost == least_of_all(groups, strata, sites, 3) and split.optimal
        assert set(split.folds.tolist()) == {0, 1, 2}


def test_the_descent_alone_comes_as_far_but_does_not_claim_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one start it misses the best of eight of these twenty."""
    cohorts = [tiny_sites(seed, n_sites=9) for seed in range(20)]
    best = [site_folds(*cohort, 3) for cohort in cohorts]
    monkeypatch.setattr(evenness, "_STEPS", 0)
    found = [site_folds(*cohort, 3) for cohort in cohorts]
    assert all(split.optimal for split in best) and [s.cost for s in found] == [s.cost for s in best]
    assert all(split.optimal == (split.cost == split.bound) and split.bound <= split.cost for split in found)
    assert not all(split.optimal for split in found)


def test_one_huge_site_fills_a_fold_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 40 + 40 patients at one site, 4 sites of 5 + 5. n = 60, folds 40, 10, 10, so 2 (60^2 + 30^2 + 30^2).

    That nothing is better shows in the search only.
    """
    size = {"huge": 40, "a": 5, "b": 5, "c": 5, "d": 5}
    sites = [name for name, n in size.items() for _ in range(2 * n)]
    strata = [label for n in size.values() for label in "xy" for _ in range(n)]
    split = site_folds([f"P{i}" for i in range(len(sites))], strata, sites, 3)
    assert sorted(np.bincount(split.folds).tolist()) == [20, 20, 80]
    assert split.cost == split.bound == 2 * (60**2 + 30**2 + 30**2) and split.optimal
    monkeypatch.setattr(evenness, "_STEPS", 0)
    unproved = site_folds([f"P{i}" for i in range(len(sites))], strata, sites, 3)
    assert (unproved.cost, unproved.bound, unproved.optimal) == (split.cost, 0, False)


def test_slides_do_not_weigh_in_site_folds() -> None:
    """Two sites of four patients each and two of one: patients are even only if each fold has a large and a small."""
    patients = [(site, p) for site, n in (("a", 4), ("b", 4), ("c", 1), ("d", 1)) for p in range(n)]
    rows = [(site, f"{site}{p}") for site, p in patients for _ in range(9 if site == "c" else 1)]
    split = site_folds([p for _, p in rows], ["x"] * len(rows), [s for s, _ in rows], 2)
    fold = dict(zip([s for s, _ in rows], split.folds.tolist(), strict=True))
    assert fold["a"] != fold["b"] and fold["c"] != fold["d"] and split.cost == 0


def test_many_sites_are_split_without_a_search_as_deep() -> None:
    """One hospital of 2,000 patients and a thousand of one each: a search would go beyond Python's recursion."""
    sites = ["big"] * 2000 + [f"S{i}" for i in range(1000)]
    split = site_folds([f"P{i}" for i in range(3000)], ["x"] * 3000, sites, 3)
    assert sorted(np.bincount(split.folds).tolist()) == [500, 500, 2000]
    assert split.cost == 3000**2 + 2 * 1500**2 and not split.optimal


def test_tcga_lung_is_split_by_site(shared_data: Callable[[str], Path]) -> None:
    """862 patients of 66 sites: as even as if there were no sites at all, 430 = 5 * 86 LUAD and 432 = 5 * 86 + 2."""
    with h5py.File(shared_data("bags/tcga_lung_hipt.h5")) as file:
        patient, code, site = (file[f"meta/{c}"].asstr()[:].tolist() for c in ("case_id", "oncotree_code", "site"))
    started = time.perf_counter()
    split = site_folds(patient, code, site, 5)
    assert time.perf_counter() - started < 10
    assert len(set(zip(site, split.folds.tolist(), strict=True))) == 66
    assert sorted(table(patient, code, split.folds, 5).tolist()) == [[86, 86]] * 3 + [[86, 87]] * 2
    assert split.optimal and split.cost == 5 * 2 * 3
    assert np.ptp(table(patient, code, stratified_folds(patient, code, 5), 5), axis=0).max() <= 1


BAD_FOLDS: list[tuple[list[str], list[Hashable], int, str]] = [
    (["a", "b"], ["x"], 2, "2 patients' names and 1 classes"),
    ([], [], 2, "there are no bags"),
    (["a", "a", "b"], ["x"] * 3, 3, "there are 2 patients for 3 folds"),
    (["a", "b", "c", "d"], ["x", "x", "x", "y"], 3, "each of the 3 folds, but 'y' has 1"),
    (["a", "b", "c", "c"], ["x", "x", 1, 1], 2, "each of the 2 folds, but '1' has 1"),
    (["a", "", ""], ["x"] * 3, 2, "2 bags have no patient"),
    (["a", "b"], ["x"] * 2, 1, "at least 2 folds, not 1"),
]


@pytest.mark.parametrize(("groups", "strata", "k", "told"), BAD_FOLDS)
def test_what_cannot_be_split_is_said(groups: list[str], strata: list[Hashable], k: int, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        stratified_folds(groups, strata, k)
    with pytest.raises(UsageError, match=told):
        site_folds(groups, strata, [f"S{i}" for i in range(len(groups))], k)


def test_all_that_is_wrong_with_sites_is_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        site_folds(["a", "a", "b", "c", "d"], ["x"] * 4 + ["y"], ["S1", "S2", "S1", "", "S2"], 4)
    for told in ("3 sites for 4 folds", "1 bags have no site", "1 patients have more than one site (a)", "'x' has 3"):
        assert told in str(caught.value)
    with pytest.raises(UsageError, match="5 patients' names and 1 sites"):
        site_folds(["a", "b", "c", "d", "e"], ["x"] * 5, ["S1"], 2)


@pytest.mark.parametrize("share", [0.02, 0.25, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_held_back_rows_are_whole_patients_of_every_class(seed: int, share: float) -> None:
    groups, strata = made_up(seed, patients=40)
    held = validation_rows(groups, strata, share, seed)
    assert held.dtype == np.bool_ and held.shape == (len(groups),)
    assert len(set(zip(groups, held.tolist(), strict=True))) == len(set(groups))
    counts = table(groups, strata, held.astype(np.int64), 2)
    for kept, out in counts.T.tolist():
        wanted = min(max(int(share * (kept + out) + 0.5), 1), kept + out - 1)
        assert out == wanted if kept + out > 1 else out == 0


def test_a_class_never_loses_its_last_patient_to_validation() -> None:
    """Patient M has the only slide of class y, and N the last but one of x that may go."""
    for seed in range(20):
        held = validation_rows(["M", "M", "N", "O"], ["x", "y", "x", "x"], 0.9, seed)
        assert held.tolist() in ([False, False, True, False], [False, False, False, True], [False, False, True, True])
    assert validation_rows(["a", "b"], ["x", "y"], 0.5).tolist() == [False, False]


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        validation_rows(["a", "b"], ["x", "x"], share)


def test_a_split_of_ones_own_is_numbered_in_its_order() -> None:
    assert check_split(list("abcd"), ["7", "10", "7", "9"]).tolist() == [0, 2, 0, 1]
    assert check_split(list("abc"), ["train", "test", "train"]).tolist() == [1, 0, 1]
    assert check_split(list("abc"), ["1.0", 1, "2"]).tolist() == [0, 0, 1]
    assert check_split(list("abc"), ["2015", "2019", "20240101"]).tolist() == [0, 1, 2]


BAD_SPLITS: list[tuple[str, list[Hashable], str]] = [
    ("aabbcd", [0, 1, 0, 1, 0, 1], "2 patients lie in more than one fold \\(a, b\\)"),
    ("abcdeabcde", [0] * 5 + [1] * 5, "5 patients lie in more than one fold \\(a, b, c and 2 more\\)"),
    ("abc", ["1", "1", "1"], "at least 2 folds, not 1"),
    ("abc", [0, 1, 3], "folds without a bag: 2"),
    ("abc", ["1", "2", "5"], "folds without a bag: 3, 4"),
    ("abcd", [0, None, "", 1], "2 bags are in no fold"),
    ("abc", [0, float("nan"), 1], "1 bags are in no fold"),
    ("abc", [0, 1], "3 patients' names and 2 folds"),
]


@pytest.mark.parametrize(("groups", "folds", "told"), BAD_SPLITS)
def test_a_split_that_leaks_or_lacks_is_refused(groups: str, folds: list[Hashable], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_split(list(groups), folds)


def test_a_bag_without_a_fold_is_no_leak() -> None:
    with pytest.raises(UsageError) as caught:
        check_split(["a", "a", "b"], [0, None, 1])
    assert "more than one fold" not in str(caught.value)


def test_survival_is_spread_by_event_and_time() -> None:
    """60 patients, half dying, times 1..60: ten in each of six crossings, which just do not count as rare."""
    event = [i % 2 for i in range(60)]
    strata = survival_strata(range(1, 61), event)
    assert {s: strata.count(s) for s in set(strata)} == {
        f"{end}, {third}": 10 for end in ("event", "censored") for third in ("early", "middle", "late")
    }
    assert strata[0] == "censored, early" and strata[59] == "event, late"
    assert survival_strata(range(1, 61), event, least=11) == ["event" if e else "censored" for e in event]


def test_survival_counts_patients_not_slides() -> None:
    """30 patients with four slides each: 20 slides in a crossing, but five patients only."""
    rows = [p for p in range(30) for _ in range(4)]
    strata = survival_strata([p + 1 for p in rows], [p % 2 for p in rows], groups=[f"P{p}" for p in rows])
    assert set(strata) == {"event", "censored"}
    alone = [1] * 100 + list(range(2, 61))  # the first patient has a hundred slides
    spread = survival_strata(alone, [1] * 159, groups=["P1"] * 100 + [f"P{t}" for t in range(2, 61)])
    assert [spread.count(f"event, {third}") for third in ("early", "middle", "late")] == [119, 20, 20]


def test_values_are_spread_by_quantile() -> None:
    assert value_strata(range(40))[::10] == ["below 9.75", "9.75 to 19.5", "19.5 to 29.25", "29.25 and above"]
    assert len(set(value_strata(range(30)))) == 3  # four bins would have seven each
    assert set(value_strata(range(12))) == {"any value"}


def test_values_that_are_mostly_one_still_make_bins() -> None:
    """80 zeros and 20 others, and the reverse: all three quartiles are the value that most have."""
    assert value_strata([0] * 80 + list(range(1, 21))) == ["below 1"] * 80 + ["1 and above"] * 20
    assert value_strata([9] * 80 + list(range(-20, 0))) == ["9 and above"] * 80 + ["below 9"] * 20
    assert len(set(value_strata([5] * 40))) == 1


def test_quantiles_count_a_patient_once() -> None:
    """Patient 0 has a hundred slides of value 0; the median of the patients is still 9.5."""
    groups = ["P00"] * 100 + [f"P{i:02d}" for i in range(1, 20)]
    assert set(value_strata([0.0] * 100 + list(range(1, 20)), 2, groups)) == {"below 9.5", "9.5 and above"}
