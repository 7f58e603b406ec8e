"""One slide's folder: its record, its grids, and what hangs on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from heads.bag import kept_rows
from pipeline.audit.context import Look, temporary_files
from pipeline.audit.findings import Finding
from pipeline.audit.grids import GridsAudit
from pipeline.audit.pictures import crop_findings, map_findings, picture_findings
from pipeline.audit.sources import source_findings
from pipeline.ledger import Outcome
from pipeline.output import RECORD_VERSION, SlideFolder
from pipeline.record import SlideRecord
from pipeline.seal import Seal, json_seal
from tiling.annotations import check_size
from wsi.errors import ArtefactError, TissueInvalid
from wsi.identity import file_sha256


def audit_slide(slide_id: str, look: Look, *, slides: bool = False) -> Iterator[Finding]:
    """All that is wrong with one slide; with `slides`, with its own file too."""
    folder = look.out.slide(slide_id)
    record, faults = _record(folder, look)
    yield from faults
    if not folder.path.is_dir():
        return
    grids = GridsAudit(folder, record, look)
    yield from grids.findings()
    for below in (folder.path, folder.features, folder.heatmaps, folder.path / "tiles"):
        yield from temporary_files(below, slide_id)
    if record is not None:
        yield from picture_findings(folder, record)
        yield from _tissue(folder, record)
    scores, faults = _scores(folder, grids, look)
    yield from faults
    yield from map_findings(folder, scores)
    yield from crop_findings(folder, record, scores, grids.current)
    if slides and record is not None:
        yield from source_findings(record, look.pool)


def _record(folder: SlideFolder, look: Look) -> tuple[SlideRecord | None, list[Finding]]:
    """The record, and what is wrong with it; None where it is missing or cannot be used."""
    path, outcome = folder.path / "slide.json", look.outcomes.get(folder.id)
    record, code, told = None, "", ""
    try:
        code, told = _unsealed(path.read_bytes())
        record = None if code else SlideRecord.read(folder)
    except FileNotFoundError:
        if outcome is not None and outcome.good:
            code, told = "record_missing", f"the slide ended {outcome.status!r}, and its record is gone"
    except (OSError, ArtefactError) as error:
        code, told = "record_damaged", str(error)
    if record is not None:
        code, told = _strange(record, folder, outcome)
    remove = (path,) if code in ("record_damaged", "record_foreign") and path.exists() else ()
    return record, [Finding(code, path, told.removesuffix("."), folder.id, remove)] if code else []


def _unsealed(data: bytes) -> tuple[str, str]:
    """Code and half a sentence for a record that is not as it was written; "" for a sound one."""
    if json_seal(data) is Seal.WHOLE:
        return "", ""
    if older := _older(data):
        return "record_older", f"it is of version {older}, and {RECORD_VERSION} is read"
    return "record_damaged", "it is not as it was written"


def _strange(record: SlideRecord, folder: SlideFolder, outcome: Outcome | None) -> tuple[str, str]:
    """What is wrong with a record that is as it was written."""
    if record.current not in record.grids:
        return "record_damaged", "it does not name the grid made last"
    if record.id != folder.id:
        return "record_foreign", f"it is of the slide {record.id}"
    return ("outcome_missing", "the ledger does not know this slide") if outcome is None else ("", "")


def _older(data: bytes) -> int:
    """The version of a record of before, 0 for none."""
    try:
        found = json.loads(data)
        version = found["version"]
        return version if found["format"] == "slide-record" and 0 < version < RECORD_VERSION else 0
    except (ValueError, KeyError, TypeError):
        return 0


def _tissue(folder: SlideFolder, record: SlideRecord) -> Iterator[Finding]:
    """People edit this one: what is another file than the run left may be damaged or drawn, but has to be JSON."""
    path = folder.tissue
    if not path.is_file():
        yield Finding("tissue_missing", path, "it is missing", folder.id)
        return
    try:
        if record.tissue is not None and file_sha256(path) == record.tissue.sha256:
            return
        check_size(path)
        if json.loads(path.read_bytes())["type"] != "FeatureCollection":
            raise ValueError("no FeatureCollection")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, TissueInvalid) as error:
        yield Finding("tissue_unreadable", path, f"it is no GeoJSON of areas ({error})", folder.id, (path,))
    else:
        yield Finding("tissue_edited", path, "it is not as the run left it", folder.id)


def _scores(folder: SlideFolder, grids: GridsAudit, look: Look) -> tuple[dict[str, Any] | None, list[Finding]]:
    """zeroshot.json, whatever it is of; None where it is missing or damaged."""
    path = folder.path / "zeroshot.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        wanted = look.scored and folder.id in look.last_run and _has_scores(grids)
        told = "the last run asked for prompts, and this slide has no scores"
        return None, [Finding("scores_missing", path, told, folder.id)] if wanted else []
    except OSError as error:
        return None, [Finding("scores_damaged", path, f"it cannot be read ({error})", folder.id)]
    if json_seal(data) is not Seal.WHOLE:
        told = "it is not as it was written, or of an older version"
        return None, [Finding("scores_damaged", path, told, folder.id, (path,))]
    scores = json.loads(data)
    grid = grids.current
    if grid is not None and scores.get("grid") == grid.path.name and scores["tiles"] > len(grid):
        told = f"scores of {scores['tiles']} tiles, and there are {len(grid)}"
        return scores, [Finding("scores_damaged", path, told, folder.id, (path,))]
    return scores, []


def _has_scores(grids: GridsAudit) -> bool:
    """Whether a run with prompts scores these features: of tiles that were read, by an encoder that knows words."""
    grid = grids.current
    return grid is not None and grid.encoder.has_text and bool(kept_rows(grid).any())
