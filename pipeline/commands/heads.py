"""`wsi train`, `wsi predict`, `wsi evaluate`: slide-level heads on cached features."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from heads.config import TrainConfig
from pipeline.console import duration, open_console, table
from pipeline.labels import Question
from pipeline.output import OutputFolder, write_csv, write_text
from pipeline.zeroshot import file_name
from wsi.errors import UsageError
from wsi.wording import number_of

RESEARCH = "research use only, not a diagnosis"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `wsi predict` is asked for beside the head."""

    out: Path | None
    abstain: float | None
    heatmap: bool
    scale: str
    drop: tuple[str, ...] | None  # quality flags; None: those that were left out of the head's training


def question(task: str, target: str | None, columns: dict[str, str | None], *, slide_level: bool) -> Question:
    """What the options say; wrong columns are told with the table in hand."""
    targets = tuple(t.strip() for t in (target or "").split(",") if t.strip())
    event, censored = columns["event"], columns.pop("censored")
    if event and censored:
        raise UsageError("--event and --censored say the same thing.", hint="Give the one that your table has.")
    given = {**columns, "event": event or censored}
    return Question(task, targets, **given, censoring=bool(censored), slide_level=slide_level)


def plan(asked: Question, head: str, folds: int, draws: int, seed: int, settings: Sequence[str] | None) -> Any:  # noqa: PLR0917
    from pipeline.training import Plan, with_settings

    return Plan(asked, with_settings(TrainConfig(head=head, seed=seed), settings or ()), folds, draws)


def train(  # noqa: PLR0917 (one argument for each option)
    run: Path | None,
    features: Path | None,
    labels: Path | None,
    out: Path | None,
    asked: Question,
    wanted: Any,
    drop: tuple[str, ...] = (),
) -> int:
    """`wsi train`. 0, or the exit code of what is wrong."""
    from pipeline.headfolder import check_free, save
    from pipeline.headreport import write_head_report
    from pipeline.training import train as train_on

    console, started = open_console(), time.monotonic()
    source = _features(run, features, drop)
    out = out or (run or Path()) / "heads" / _name(asked, wanted.config.head)
    check_free(out)
    trained = train_on(source, labels, wanted, console.print)
    for note in trained.notes:
        console.print(f"note: {note}")
    about = {"labels": str(labels or ""), "features": str((features or run or Path()).absolute()), **asdict(asked)}
    about["drop"] = drop
    head = save(trained, out, about)
    page = write_head_report(out, head, trained.cv.answers, trained.evaluation)
    console.print(
        metrics_table(trained.evaluation, f"{wanted.config.head}, {number_of(len(set(trained.patients)), 'patient')}")
    )
    if trained.caution:
        console.print(f"The features are of limited worth ({trained.caution}): so is this head.")
    console.print(f"head: {out}; report: {page}  ({duration(time.monotonic() - started)} in all; {RESEARCH})")
    return 0


def _name(asked: Question, head: str) -> str:
    """Of the head's folder, where none is given: what it tells, and by what."""
    what = "-".join(asked.targets) or asked.task
    return f"{file_name(what)}-{head}"


def predict(run: Path | None, features: Path | None, head: Path, wishes: Wishes) -> int:
    """`wsi predict`. 0, or 3 / 4 where some / all slides could not be scored."""
    from heads import load_head
    from pipeline import predicting
    from pipeline.headfolder import dropped_by
    from pipeline.headmaps import check_scale, draw_head_maps

    console, trained = open_console(), load_head(head)
    check_scale(wishes.scale)
    if wishes.heatmap and run is None:
        raise UsageError("Maps need the run's own slides.", hint="Give OUT, the output folder of a run.")
    drop = dropped_by(trained) if wishes.drop is None else wishes.drop
    source = _features(run, features, drop)
    found, skipped = predicting.predict(source, trained, wishes.abstain)
    skipped += source.damaged
    if drop:
        console.print(f"note: tiles flagged {' or '.join(drop)} are left out")
    for note in source.notes:
        console.print(f"note: {note}")
    rows = list(predicting.written(found, trained))
    where = wishes.out or (run or Path()) / "predictions.csv"
    write_csv(where, predicting.columns(trained), rows)
    if rows:
        _show(console, rows, f"{head}: {RESEARCH}")
    if wishes.heatmap and run is not None:
        folder = OutputFolder(run).existing()
        for path in draw_head_maps(folder, list(folder.slides()), head, skipped, wishes.scale, drop=drop):
            console.print(str(path))
    for sentence in _told_once(skipped):
        console.print(sentence, style="red")
    console.print(f"{number_of(len(found), 'slide')} scored: {where}")
    return (3 if skipped else 0) if found else 4


def _told_once(sentences: Sequence[str]) -> list[str]:
    """Of many slides with one and the same fault the first, and how many more."""
    alike: dict[str, list[str]] = {}
    for sentence in sentences:
        slide, _, why = sentence.partition(": ")
        alike.setdefault(why.replace(slide, "..."), []).append(sentence)
    return [s[0] if len(s) == 1 else f"{s[0]} So it is with {len(s) - 1} more." for s in alike.values()]


def evaluate(head: Path, labels: Path | None, on: Path | None, features: Path | None, draws: int) -> int:
    """`wsi evaluate`."""
    import json

    from heads import load_head
    from heads.evaluation import evaluate as judged
    from pipeline.headfolder import dropped_by
    from pipeline.predicting import answers_on

    console, trained = open_console(), load_head(head)
    asked = trained.card.about.get("asked", {})
    names = ("task", "targets", "time", "event", "patient", "id", "censoring", "slide_level")
    known: dict[str, Any] = {n: asked[n] for n in names if n in asked}
    if not known:
        raise UsageError(f"{head}: does not tell what it was trained for.", hint="Train it with `wsi train`.")
    trained_on = Path(asked["features"])
    source = _features(*((on, features) if on or features else _either(trained_on)), dropped_by(trained))
    answers, notes = answers_on(source, trained, labels, Question(**known | {"targets": tuple(known["targets"])}))
    for note in notes:
        console.print(f"note: {note}")
    evaluation = judged(answers, draws=draws)
    where = on or features
    name = (labels.stem if labels else "own-labels") + (f"-{file_name(where.resolve().name)}" if where else "")
    write_text(head / f"evaluation-{name}.json", json.dumps({**evaluation.as_json(), "notes": notes}, indent=1) + "\n")
    console.print(metrics_table(evaluation, f"{head} on {number_of(len(set(answers.patients)), 'patient')}"))
    console.print(f"{head / f'evaluation-{name}.json'}  ({RESEARCH})")
    return 0


def _either(path: Path) -> tuple[Path | None, Path | None]:
    """As a run's folder, or as features of another tool."""
    return (path, None) if (path / "run.toml").exists() else (None, path)


def _features(run: Path | None, features: Path | None, drop: tuple[str, ...]) -> Any:
    from pipeline.training import features_elsewhere, features_of_run

    if (run is None) == (features is None):
        raise UsageError("Features come from one place.", hint="Give OUT of a `wsi run`, or --features, not both.")
    if features and drop:
        raise UsageError(
            f"{features}: features of other tools have no quality flags, so no tile can be dropped by them.",
            hint="Drop none: --drop none.",
        )
    return features_elsewhere(features) if features else features_of_run(OutputFolder(run or Path()).existing(), drop)


def metrics_table(evaluation: Any, title: str) -> Any:
    """Each metric with its interval, and the folds' range."""
    rows = []
    for name, i in evaluation.overall.items():
        folds = [fold[name] for fold in evaluation.folds if name in fold]
        each = " ".join(f"{v:.3f}" for v in folds) if len(folds) > 1 else ""
        rows.append((name, f"{i.value:.3f}", f"{i.low:.3f} - {i.high:.3f}", each))
    return table(title, ("metric", "value", "95 % of patients drawn", "folds"), rows, right=("value",))


def _show(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    names = [n for n in rows[0] if not n.startswith("spread ")]
    shown = [[f"{v:.3f}" if isinstance(v, float) else v for v in (row[n] for n in names)] for row in rows[:40]]
    console.print(table(title, names, shown))
    if len(rows) > len(shown):
        console.print(f"... and {len(rows) - len(shown)} more in the table")
