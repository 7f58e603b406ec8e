"""`slides.csv` and `zeroshot.csv`: one row a slide, made from what lies in the output folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import ledger
from pipeline.inforce import InForce, readable_record
from pipeline.output import OutputFolder, csv_text, write_text
from pipeline.record import SlideRecord
from tiling.quality import NAMES

SLIDE_COLUMNS = (
    "id", "slide", "patient", "status", "code", "detail", "width", "height", "mpp", "mpp_source", "vendor", "reader",
    "tiles", "padded", "unreadable", "tissue_mm2", "encoder", "stain", "features", "seconds", "warnings",
)  # fmt: skip
FLAG_COLUMNS = tuple(f"n_{name}" for name in NAMES)  # of slides whose tiles were looked over
SCORE_COLUMNS = ("id", "prompts", "tiles", "label", "label_reason")


def write_tables(out: OutputFolder) -> None:
    """Writes both tables anew. Slides that are refused are in `slides.csv` too, with the reason."""
    for name, text in tables(out):
        write_text(out.path / name, text)


def tables(out: OutputFolder) -> Iterator[tuple[str, str]]:
    """(file name, text) of both tables, from the records as they are now."""
    rows = list(slide_rows(out))
    there = dict.fromkeys(k for row in rows for k in row if k not in SLIDE_COLUMNS)
    labels = [k for k in there if k not in FLAG_COLUMNS]
    flags = [k for k in FLAG_COLUMNS if k in there]
    yield "slides.csv", csv_text([*SLIDE_COLUMNS, *flags, *labels], rows)
    scores = [_score_row(slide_id, found) for slide_id, found in scored(out).shown.items()]
    columns = dict.fromkeys([*SCORE_COLUMNS, *(k for row in scores for k in row)])
    yield "zeroshot.csv", csv_text(columns, scores)


@dataclass(frozen=True, slots=True)
class Scored:
    """The slides that last ended well, by id."""

    shown: dict[str, dict[str, Any]]  # scores of the current features, and of the words in force
    left_out: list[str]  # with tiles and words in force, but scores of other words or features


def scored(out: OutputFolder) -> Scored:
    """The scores of a folder that may be shown, and whose may not."""
    in_force = InForce.of(out)
    found = Scored({}, [])
    for slide_id, outcome in sorted(ledger.last_outcomes(out.ledger).items()):
        folder = out.slide(slide_id)
        record = readable_record(folder) if outcome.good else None
        scores = None if record is None else in_force.scores(folder, record)
        if scores is not None:
            found.shown[slide_id] = scores
        elif record is not None and record.grid.tiles and in_force.words and folder.scored:
            found.left_out.append(slide_id)
    return found


def slide_rows(out: OutputFolder) -> Iterator[dict[str, Any]]:
    """Every slide of the ledger, as it last ended, with what its record tells."""
    for slide_id, outcome in sorted(ledger.last_outcomes(out.ledger).items()):
        row = {"id": slide_id, "slide": outcome.name, "status": outcome.status, "seconds": outcome.seconds}
        if not outcome.good:
            known = {"patient": outcome.patient, **_label_columns(outcome.labels)}
            yield {**row, **known, "code": outcome.code, "detail": _sentence(outcome)}
            continue
        record = readable_record(out.slide(slide_id))
        told = {"warnings": " ".join(dict.fromkeys(outcome.notes))}
        yield {**row, **({} if record is None else _described(record)), **told}


def _score_row(slide_id: str, found: dict[str, Any]) -> dict[str, Any]:
    """A scored slide: its label, then every pooling's probability per class, `top10:adenocarcinoma`."""
    row = {"id": slide_id, "prompts": found["prompts"], "tiles": found["tiles"], "label": found["label"] or ""}
    row["label_reason"] = found["label_reason"]
    for pooling, scores in found["pooled"].items():
        row |= {f"{pooling}:{name}": p for name, p in zip(found["classes"], scores["p"], strict=False)}
    return row


def _described(record: SlideRecord) -> dict[str, Any]:
    facts, grid = record.facts, record.grid
    return {
        "patient": record.patient, "width": facts.width, "height": facts.height, "mpp": facts.known_mpp,
        "mpp_source": facts.mpp_source, "vendor": facts.vendor, "reader": facts.reader, "tiles": grid.tiles,
        "padded": grid.padded, "unreadable": grid.unreadable, "tissue_mm2": grid.tissue_mm2, "encoder": grid.encoder,
        "stain": grid.stain,
        "features": f"slides/{record.id}/features/{grid.name}",
        **{f"n_{name}": count for name, count in (grid.flagged or {}).items()}, **_label_columns(record.labels),
    }  # fmt: skip


def _label_columns(labels: dict[str, str]) -> dict[str, str]:
    return {f"label_{k}" if k in (*SLIDE_COLUMNS, *FLAG_COLUMNS) else k: v for k, v in labels.items()}


def _sentence(outcome: ledger.Outcome) -> str:
    return f"{outcome.detail.strip().splitlines()[-1] if outcome.detail else ''} {outcome.hint}".strip()
