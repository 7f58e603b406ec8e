"""From an output folder, or features of other tools, and a table of labels to a trained, tested and saved head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import FeatureGrid
from features.foreign import open_foreign, packed_columns
from heads.bag import BagLike, PatientBag, StoredBag
from heads.config import TrainConfig
from heads.crossval import CrossValidation, cross_validate
from heads.evaluation import Evaluation, evaluate
from heads.problems import some
from heads.splits import check_split, site_folds, stratified_folds
from heads.targets import strata_of, take
from pipeline import ledger
from pipeline.csvfile import Row, Table, read_table
from pipeline.labels import Cohort, Question, cohort
from pipeline.output import OutputFolder
from pipeline.record import SlideRecord
from wsi.errors import ArtefactError, ToolkitError, UsageError


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Slides with features, wherever they lie."""

    bags: dict[str, BagLike]  # slide id -> bag, those without tiles left out
    patients: dict[str, str] = field(default_factory=dict)  # slide id -> patient, where a run knows them
    labels: Table | None = None  # what the run's own manifest, or the packed file, says of the slides
    notes: tuple[str, ...] = ()  # what else there is to know of them
    damaged: tuple[str, ...] = ()  # a sentence for each slide whose features cannot be read
    caution: str = ""  # "random weights", or the encoder's domain
    source: str = ""  # the folder or file they lie in, absolute
    drop: tuple[str, ...] = ()  # quality flags whose tiles are left out of the bags


def features_of_run(out: OutputFolder, drop: tuple[str, ...] = ()) -> FeatureSet:
    """The current features of every slide that ended well, without the tiles that have a quality flag in `drop`.

    Raises UsageError where there are no features, or none of these flags with them.
    """
    bags: dict[str, BagLike] = {}
    records: list[SlideRecord] = []
    empty, damaged = [], []
    for slide_id, outcome in sorted(ledger.last_outcomes(out.ledger).items()):
        record = SlideRecord.read(out.slide(slide_id)) if outcome.good else None
        if record is None:
            continue
        try:
            bag = StoredBag.of(FeatureGrid.open(out.slide(slide_id).features / record.current), slide_id, drop)
        except ArtefactError as error:
            damaged.append(f"{slide_id}: {error.code}. {error}")
            continue
        records.append(record)
        if len(bag):
            bags[slide_id] = bag
        else:
            empty.append(slide_id)
    if not bags:
        raise UsageError(f"{out.path}: there are no features here.", hint="Run `wsi run` first.")
    notes = (_without_tiles(empty),) if empty else ()
    domains = {r.grid.domain for r in records if r.grid.domain}
    caution = "random weights" if any(r.grid.untrained for r in records) else ", ".join(sorted(domains))
    patients = {r.id: r.patient for r in records if r.patient}
    return FeatureSet(
        bags, patients, _own_labels(out, records), notes, tuple(damaged), caution, str(out.path.absolute()), drop
    )


def features_elsewhere(path: Path) -> FeatureSet:
    """Features of CLAM, TRIDENT or STAMP in a folder, or a packed file, which may be its own table of labels."""
    faults: list[ArtefactError] = []
    found = open_foreign(path, faults)
    bags: dict[str, BagLike] = {bag.slide_id: bag for bag in found if len(bag)}
    empty = [bag.slide_id for bag in found if not len(bag)]
    labels = None
    if path.is_file():
        columns = packed_columns(path)
        flat = {k: v for k, v in columns.items() if k != "folds" and len(v) == len(found)}
        rows = [
            Row(i + 1, {**{k: str(v[i]) for k, v in flat.items()}, "id": bag.slide_id}) for i, bag in enumerate(found)
        ]
        labels = Table(path, ("id", *(k for k in flat if k != "id")), tuple(rows))
    notes = [_without_tiles(empty)] if empty else []
    if not all(bag.encoder for bag in found):
        notes.append("these files do not name their encoder: that it is one and the same is taken on trust")
    damaged = tuple(f"{fault.code}. {fault}" for fault in faults)
    return FeatureSet(bags, {}, labels, tuple(notes), damaged, source=str(path.absolute()))


def _without_tiles(slides: Sequence[str]) -> str:
    return f"{len(slides)} without tiles, so without an answer ({some(slides)})"


def whole(features: FeatureSet) -> FeatureSet:
    """Without the bags that cannot be read or hold NaN, which are told among the damaged; reads all of them once."""
    kept, told = {}, []
    for name, bag in features.bags.items():
        try:
            if not isinstance(bag, StoredBag):  # those of a run were checked when they were written
                bag.load()
            kept[name] = bag
        except ToolkitError as error:
            told.append(f"{name}: {error.code}. {error}")
    return replace(features, bags=kept, damaged=(*features.damaged, *told))


def _own_labels(out: OutputFolder, records: list[SlideRecord]) -> Table | None:
    columns = dict.fromkeys(name for r in records for name in r.labels)
    if not columns:
        return None
    rows = [
        Row(i + 1, {"id": r.id, "patient": r.patient or r.id, **{c: r.labels.get(c, "") for c in columns}})
        for i, r in enumerate(records)
    ]
    return Table(out.path / "slides.csv", ("id", "patient", *columns), tuple(rows))


@dataclass(frozen=True, slots=True)
class Plan:
    """How a head is to be trained and tested."""

    question: Question
    config: TrainConfig
    folds: int = 5
    draws: int = 1000  # of the bootstrap


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A cross-validated head with all that is told of it."""

    cv: CrossValidation
    evaluation: Evaluation
    slides: tuple[tuple[str, ...], ...]  # of each bag
    notes: tuple[str, ...]
    caution: str
    sites: tuple[str, ...] | None = None  # of each bag

    @property
    def patients(self) -> tuple[str, ...]:
        """Of each bag: once each, but where every slide is a bag."""
        return self.cv.answers.patients


def train(features: FeatureSet, labels: Path | None, plan: Plan, progress: Callable[[str], None]) -> Trained:
    """Cross-validates a head on a cohort. Raises ManifestError or UsageError naming all that is wrong with it."""
    features = whole(features)
    told = labelled(features, labels, plan.question)
    joined = join(features, told, slide_level=plan.question.slide_level)
    folds, how = _folds(joined, plan)
    notes = (*(f"left out: {why}" for why in features.damaged), *features.notes, *told.notes, *how)
    progress(f"{len(set(joined.patients))} patients, {len(told.slide_ids)} slides, {int(folds.max()) + 1} folds")
    config = plan.config
    cv = cross_validate(
        joined.bags, joined.targets, folds, task=plan.question.task, groups=joined.patients, config=config,
        progress=progress,
    )  # fmt: skip
    evaluation = evaluate(cv.answers, draws=plan.draws, seed=config.seed)
    slides = tuple(tuple(part.slide_id for part in bag.parts) for bag in joined.bags)
    return Trained(cv, evaluation, slides, notes, features.caution, joined.sites)


def labelled(features: FeatureSet, labels: Path | None, question: Question, *, learning: bool = True) -> Cohort:
    """The slides that have both features and an answer; `learning` asks for answers that differ, too."""
    table = read_table(labels) if labels else features.labels
    if table is None:
        raise UsageError("There is no table of labels.", hint="Give --labels labels.csv.")
    return cohort(table, question, list(features.bags), features.patients, learning=learning)


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """One bag for each patient, or for each slide; every field speaks of the bags one by one."""

    bags: list[PatientBag]
    patients: list[str]
    targets: Any
    sites: tuple[str, ...] | None
    folds: tuple[str, ...] | None


def join(features: FeatureSet, told: Cohort, *, slide_level: bool) -> Joined:
    """Slides of one patient become one bag, where the table has seen to it that they agree; or each its own."""
    owners = told.slide_ids if slide_level else told.patients
    first = {owner: i for i, owner in reversed(list(enumerate(owners)))}
    rows = sorted(first.values())
    bags = PatientBag.join([features.bags[s] for s in told.slide_ids], owners)
    sites = tuple(told.sites[i] for i in rows) if told.sites else None
    folds = tuple(told.folds[i] for i in rows) if told.folds else None
    return Joined(bags, [told.patients[i] for i in rows], take(told.targets, rows), sites, folds)


def _folds(joined: Joined, plan: Plan) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if joined.folds is not None:
        return check_split(joined.patients, joined.folds), ("folds are those of the table",)
    strata, seed = strata_of(joined.targets, plan.question.task), plan.config.seed
    if joined.sites is None:
        return stratified_folds(joined.patients, strata, plan.folds, seed), ()
    split = site_folds(joined.patients, strata, joined.sites, plan.folds, seed)
    how = "as even as can be" if split.optimal else "the most even found"
    return split.folds, (f"{len(set(joined.sites))} sites are kept whole; classes over folds are {how}",)


def with_settings(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """`lr=1e-4` and the like over a training configuration. Raises UsageError for unknown names, with those known."""
    changes: dict[str, Any] = {}
    known = {name: getattr(config, name) for name in TrainConfig.__dataclass_fields__}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign or name not in known:
            raise UsageError(f"--set {setting}: is no training setting.", hint=f"Settings are {', '.join(known)}.")
        changes[name] = _value(text)
    return replace(config, **changes)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None if text.lower() in ("none", "") else text
