"""`<slide id>.json`: which tiles of a slide were written, and how to tell that it is still true. Written last."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.header import toolkit_version
from pipeline.config import RunConfig
from pipeline.manifest import SlideEntry
from pipeline.output import SlideFolder
from pipeline.tileimages import ImageConfig
from tiling.drawn import DrawnTissue
from tiling.tissue import TissueConfig
from wsi.facts import SlideFacts
from wsi.identity import plain


@dataclass(frozen=True, slots=True)
class TileRecord:
    """A finished slide."""

    wanted: dict[str, Any]  # plain settings that it was made under
    mpp_if_missing: float | None  # what --mpp said, where it had to be used
    facts: SlideFacts
    tiles: int
    unreadable: int  # tiles that could not be decoded: not written, and told in the CSV
    files: dict[str, int]  # path below the slide's folder -> bytes; of a folder of images, how many there are
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, folder: SlideFolder) -> TileRecord | None:
        """The record of a slide's folder, None if there is none that can be understood: then it is made again."""
        try:
            found = json.loads(_path(folder).read_text(encoding="utf-8"))
            found.pop("toolkit_version")
            facts = SlideFacts.from_json(found.pop("facts"))
            return cls(**{**found, "facts": facts, "warnings": tuple(found["warnings"])})
        except (OSError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def write(self, folder: SlideFolder) -> None:
        text = json.dumps({**asdict(self), "toolkit_version": toolkit_version()}, indent=1)
        folder.write_text(_path(folder).name, text)

    def stands(self, wanted: dict[str, Any], entry: SlideEntry, folder: SlideFolder) -> bool:
        """True if it is of these settings, and its files are there in full length; see `check_file` for the slide's."""
        fallback = None if self.mpp_if_missing is None else entry.mpp_if_missing
        if self.wanted != wanted or self.mpp_if_missing != fallback:
            return False
        try:
            return sizes(folder, self.files) == self.files
        except OSError:
            return False


def _path(folder: SlideFolder) -> Path:
    """No slide can be called so that its images lie there: they go to `<slide id>`."""
    return folder.path / f"{folder.id}.json"


def wanted_tiles(
    entry: SlideEntry, config: RunConfig, tissue: TissueConfig | DrawnTissue, images: ImageConfig
) -> dict[str, Any]:
    """All that a slide's tiles depend on, beside the slide."""
    asked = {"tile": config.tile, "tissue": tissue, "images": images, "reader": config.reader.name, "mpp": entry.mpp}
    asked["geojson_top"] = config.pictures.geojson_top
    return dict(plain(asked))


def sizes(folder: SlideFolder, names: Iterable[str]) -> dict[str, int]:
    """Bytes of files, and how many files are in a folder. Raises OSError where one is gone."""
    paths = {name: folder.path / name for name in names}
    return {name: sum(1 for _ in p.iterdir()) if p.is_dir() else p.stat().st_size for name, p in paths.items()}
