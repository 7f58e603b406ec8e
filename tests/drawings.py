"""GeoJSON as people and QuPath write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SQUARE = [[[100, 100], [500, 100], [500, 500], [100, 500], [100, 100]]]


def feature(coordinates: Any = SQUARE, classed: Any = None, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    """A QuPath annotation; `classed` as QuPath has it, or only its name."""
    said = {"name": classed, "color": [1, 2, 3]} if isinstance(classed, str) else classed
    known = {"objectType": "annotation", **properties} | ({} if said is None else {"classification": said})
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": known}


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[list[float]]]:
    return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]


def collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def written(path: Path, content: Any) -> Path:
    """The file, of an object, a text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path
