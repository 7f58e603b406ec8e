"""Pictures of single tiles, cut from the slide once and kept, so that a report can be made without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.output import SlideFolder
from pipeline.pictures import write_image
from pipeline.record import SlideRecord
from tiling.grid import TileGrid
from tiling.supervised import ReaderProcess
from wsi.errors import SlideError
from wsi.location import Location


def crop_path(folder: SlideFolder, record: SlideRecord, grid: TileGrid, cell: int) -> Path:
    """Where a tile's picture is kept: `tiles/x_y_span-<slide file>.jpg`, in level-0 px."""
    region = grid.region(cell)
    return folder.path / "tiles" / f"{region.x}_{region.y}_{region.width}-{record.facts.fingerprint[:8]}.jpg"


def shown_cells(zeroshot: dict[str, Any] | None) -> list[int]:
    """The tiles that a slide's report shows."""
    shown = (zeroshot or {}).get("tiles_shown", {})
    return [int(t["cell"]) for end in ("top", "bottom") for t in shown.get(end, [])]


def cut_crops(
    folder: SlideFolder, record: SlideRecord, grid: TileGrid, reader: ReaderProcess, *, where: Location | None = None
) -> None:
    """Cuts what is missing; opens the slide only if something is. Raises SlideError, also where it is another file.

    `where` is the slide as it was asked for, where that is at hand: the record of a remote one leaves out its secrets.
    """
    shown = shown_cells(folder.zeroshot())
    cells = [cell for cell in shown if not crop_path(folder, record, grid, cell).exists()]
    if not cells:
        return
    facts = reader.open(where or record.facts.path, record.manifest_mpp, record.fallback_mpp)
    if facts.fingerprint != record.facts.fingerprint:
        raise SlideError(
            f"{record.facts.path}: is not the file that the features were made from.", hint="Run this slide again."
        )
    for cell, pixels in zip(cells, reader.crops([grid.region(c) for c in cells], grid.spec.size_px), strict=True):
        write_image(crop_path(folder, record, grid, cell), pixels)
