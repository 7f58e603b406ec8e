"""The pictures of one slide: all carry, or are listed with, the digest of their bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from features import FeatureGrid
from pipeline.audit.findings import Finding
from pipeline.crops import crop_path, shown_cells
from pipeline.output import SlideFolder
from pipeline.pictures import HEAD
from pipeline.record import SlideRecord
from pipeline.seal import Seal, jpeg_seal, json_seal
from wsi.identity import file_sha256

_CROP = re.compile(r"-?\d+_-?\d+_\d+-[0-9a-f]{8}\.jpg")
_PARTS = (".png", ".npy")  # of a heatmap, beside its label
_OF_A_HEAD = re.compile(r"(attention|contribution)-")


def picture_findings(folder: SlideFolder, record: SlideRecord) -> Iterator[Finding]:
    """Thumbnail and overlay."""
    for path in (folder.thumbnail, folder.overlay):
        if fault := _fault(path, record.pictures.get(path.name, "")):
            yield Finding(f"picture_{fault}", path, _SAID[fault], folder.id, _there(path))


def map_findings(folder: SlideFolder, scores: dict[str, Any] | None) -> Iterator[Finding]:
    """Heatmaps with their values and labels, and QuPath's layer of the prompts."""
    listed = {Path(drawn["file"]).stem for drawn in (scores or {}).get("heatmaps", ())}
    labelled = {path.stem for path in folder.heatmaps.glob("*.json")}
    drawn = {path.stem for path in folder.heatmaps.glob("*.png") if path.with_suffix(".npy").exists()}
    for stem in sorted(listed | labelled | drawn):
        yield from _map(folder, folder.heatmaps / f"{stem}.json", listed=stem in listed)
    layer = folder.zeroshot_layer
    if scores is not None and listed and (fault := _fault(layer, scores.get("layer_sha256", ""))):
        remove = _there(layer, folder.path / "zeroshot.json")  # scores are written with it
        yield Finding(f"map_{fault}", layer, _SAID[fault], folder.id, remove)


def crop_findings(
    folder: SlideFolder, record: SlideRecord | None, scores: dict[str, Any] | None, grid: FeatureGrid | None
) -> Iterator[Finding]:
    """Pictures of single tiles; which of them ought to be there is known of the current features' scores."""
    for path in sorted((folder.path / "tiles").glob("*.jpg")):
        if _CROP.fullmatch(path.name) and jpeg_seal(path.read_bytes()) is not Seal.WHOLE:
            yield Finding("crop_altered", path, _SAID["altered"], folder.id, (path,))
    if grid is None or record is None or scores is None or scores.get("grid") != record.current:
        return
    for cell in shown_cells(scores):
        path = crop_path(folder, record, grid.grid, cell)
        if not path.exists():
            yield Finding("crop_missing", path, "the report has no picture of this tile", folder.id)


_SAID = {"missing": "it is missing", "altered": "it is not as it was written"}


def _map(folder: SlideFolder, label: Path, *, listed: bool) -> Iterator[Finding]:
    parts = [label, *(label.with_suffix(suffix) for suffix in _PARTS)]
    told = _label(label)
    of_head = told["source"].startswith(HEAD) if told else bool(_OF_A_HEAD.match(label.name)) and not listed
    kind = "head_map" if of_head else "map"
    if told is None:
        fault = "altered" if label.exists() else "missing"
        yield Finding(f"{kind}_{fault}", label, _SAID[fault], folder.id, _there(*parts))
        return
    for path in parts[1:]:
        if fault := _fault(path, told["sha256"][path.suffix[1:]]):
            yield Finding(f"{kind}_{fault}", path, _SAID[fault], folder.id, _there(*parts))


def _label(path: Path) -> dict[str, Any] | None:
    """What a heatmap's label says; None where it is missing or not as it was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return dict(json.loads(data)) if json_seal(data) is Seal.WHOLE else None


def _fault(path: Path, sha256: str) -> str:
    """missing, altered, or "" for a file as it was written."""
    try:
        return "" if file_sha256(path) == sha256 else "altered"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "altered"


def _there(*paths: Path) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.exists())
