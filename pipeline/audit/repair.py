"""`wsi verify --repair`: what is damaged goes, so that the run it came from makes it again.

Only files that the toolkit writes are removed, by their names, and only inside the output folder: nothing is followed
through a link. Each step leaves a state that the next `wsi verify` or `wsi run` understands, so a kill costs nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from features.files import remove_tree, storage_errors, write_atomic
from pipeline.audit.findings import Finding
from pipeline.audit.folder import line_stands
from pipeline.claims import is_claim
from pipeline.output import OutputFolder
from pipeline.record import SlideRecord
from wsi.errors import ArtefactError
from wsi.identity import file_sha256

# Below a grid's folder, or one of a writer's that was cut off: what `features` writes there, and zarr on its way to it.
_ARRAYS = "features|coords|keep|tissue_fraction|read_status|quality"
_GRID_FILE = rf"(zarr\.json|manifest/zarr\.json|({_ARRAYS})/(zarr\.json|c/\d+(/\d+)?))"
_ON_ITS_WAY = r"([^/]+/)*(\.[^/]+\.[0-9a-f]+\.tmp|[^/]+\.[0-9a-f]{32}\.partial)"
_OURS = re.compile(rf"(grid/)?({_GRID_FILE}|{_ON_ITS_WAY})|grid\.json|rows/\d{{6}}\.rows|rows/\.[^/]+\.tmp")


class Repair:
    """Removes what findings name; `refused` says what was left, and why."""

    def __init__(self, out: OutputFolder) -> None:
        self._out = out
        self.refused: list[str] = []

    def of(self, findings: Iterable[Finding]) -> list[Path]:
        """Removes what the findings of one slide, or of the folder itself, name. Gives what was removed.

        Raises StorageError where the disk refuses.
        """
        findings = list(findings)
        removed = []
        for path in dict.fromkeys(path for finding in findings for path in finding.remove):
            codes = {finding.code for finding in findings if path in finding.remove}
            if link := self._link_on(path):
                self.refused.append(f"{path}: is left, since {link} is a link.")
            elif os.path.lexists(path):
                with storage_errors(path):
                    self._remove(path, codes)
                removed.append(path)
        for slide_id in dict.fromkeys(f.slide for f in findings if f.slide and f.code.startswith(("grid_", "chunk_"))):
            self._forget_lost_grids(slide_id)
        return removed

    def _remove(self, path: Path, codes: set[str]) -> None:
        if path == self._out.ledger:
            lines = path.read_bytes().splitlines(keepends=True)
            write_atomic(path, b"".join(line for line in lines if line_stands(line)))
        elif "tissue_unreadable" in codes:  # a person may have drawn it
            path.rename(path.with_name(f"tissue-edited-{file_sha256(path)[:8]}.geojson"))
        elif is_claim(path):
            remove_tree(path)
        elif path.is_dir():
            self._remove_grid(path)
        else:
            path.unlink(missing_ok=True)

    def _remove_grid(self, folder: Path) -> None:
        """The files of a grid, those first without which it cannot be opened; folders once they are empty."""
        for path in sorted(_files(folder), key=lambda path: (path.parent != folder, path)):
            name = path.relative_to(folder).as_posix()
            if _OURS.fullmatch(name) and not path.is_symlink():
                path.unlink(missing_ok=True)
            else:
                self.refused.append(f"{path}: is left, since the toolkit did not write it.")
        for where, _, _ in os.walk(folder, topdown=False):
            if not any(Path(where).iterdir()):
                Path(where).rmdir()

    def _forget_lost_grids(self, slide_id: str) -> None:
        """Takes grids that are no more out of a sound record, but for the current one: its run makes that again."""
        folder = self._out.slide(slide_id)
        try:
            record = SlideRecord.read(folder)
        except ArtefactError:
            return
        if record is None or self._link_on(folder.path / "slide.json"):
            return
        there = {n: g for n, g in record.grids.items() if n == record.current or (folder.features / n).is_dir()}
        if there != record.grids:
            replace(record, grids=there).write(folder)

    def _link_on(self, path: Path) -> Path | None:
        """The first link on the way from the output folder to `path`, itself included."""
        steps = path.relative_to(self._out.path).parts
        on_the_way = [self._out.path.joinpath(*steps[: n + 1]) for n in range(len(steps))]
        return next((step for step in on_the_way if step.is_symlink()), None)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        yield from (Path(where, name) for name in names)
        yield from (link for name in folders if (link := Path(where, name)).is_symlink())
