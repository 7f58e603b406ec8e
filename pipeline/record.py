"""`slide.json`: what was done with a slide, and how to tell that it is still true. Written last, in one step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from features.header import GridHeader, grid_name, toolkit_version
from features.spec import EncoderSpec
from pipeline.config import RunConfig
from pipeline.manifest import SlideEntry
from pipeline.output import RECORD_VERSION, SlideFolder
from tiling.grid import TileGrid
from wsi.errors import ArtefactError
from wsi.facts import SlideFacts
from wsi.identity import fingerprint, plain


@dataclass(frozen=True, slots=True)
class GridRecord:
    """One feature grid of the slide."""

    name: str  # folder below features/
    tiles: int
    padded: int  # tiles that reach beyond the slide's edge
    unreadable: int  # tiles that could not be decoded; left out of bags
    tissue_mm2: float
    encoder: str
    untrained: bool
    domain: str
    seconds: dict[str, float]  # per stage
    files: tuple[dict[str, Any], ...]  # path, bytes and sha256 of every chunk


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """All that later stages need to know of a slide without opening it."""

    id: str
    name: str  # as the user knows it
    patient: str
    labels: dict[str, str]
    given_mpp: float | None  # by the manifest or --mpp, where that was used; None: the file's own
    asked_reader: str
    facts: SlideFacts
    warnings: tuple[str, ...]
    current: str  # name of the grid made last
    grids: dict[str, GridRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, entry: SlideEntry, config: RunConfig, facts: SlideFacts) -> SlideRecord:
        """A record without grids yet."""
        return cls(
            id=entry.id,
            name=entry.name,
            patient=entry.patient,
            labels=entry.labels,
            given_mpp=facts.known_mpp if facts.mpp_given else None,
            asked_reader=config.reader.name,
            facts=facts,
            warnings=facts.warnings,
            current="",
        )

    @property
    def grid(self) -> GridRecord:
        return self.grids[self.current]

    def with_notes(self, notes: tuple[str, ...]) -> SlideRecord:
        return replace(self, warnings=(*self.warnings, *notes))

    def showing(self, encoder: EncoderSpec, config: RunConfig) -> SlideRecord:
        """With the grid of these settings, which must be among its grids, as the current one."""
        return replace(self, current=grid_name(encoder, config.tile, config.tissue))

    def with_grid(self, made: GridRecord, earlier: SlideRecord | None) -> SlideRecord:
        """With one more grid; those of an earlier record are kept if they come from the same file at the same scale."""
        same = earlier is not None and _frame(earlier) == _frame(self)
        kept = earlier.grids if earlier is not None and same else {}
        return replace(self, current=made.name, grids={**kept, made.name: made})

    @classmethod
    def read(cls, folder: SlideFolder) -> SlideRecord | None:
        """The record of a slide folder, None if there is none. Raises ArtefactError if it cannot be understood."""
        found = folder.record()
        if found is None:
            return None
        try:
            if found.pop("format") != "slide-record" or found.pop("version") != RECORD_VERSION:
                raise ValueError("it is of another version")
            found.pop("toolkit_version")
            grids = {n: GridRecord(**{**g, "files": tuple(g["files"])}) for n, g in found.pop("grids").items()}
            facts = SlideFacts.from_json(found.pop("facts"))
            return cls(**{**found, "facts": facts, "grids": grids, "warnings": tuple(found["warnings"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{folder.path / 'slide.json'}: this record cannot be understood ({error}).",
                hint="Delete it; the next run makes it again.",
            ) from None

    def write(self, folder: SlideFolder) -> None:
        folder.write_record({**asdict(self), "toolkit_version": toolkit_version()})


def grid_record(header: GridHeader, grid: TileGrid, files: list[Any], seconds: dict[str, float]) -> GridRecord:
    """The record of a grid just written; counts of padded and unreadable tiles are filled in from its read status."""
    covered_um2 = float(grid.tissue_fraction.sum()) * (grid.span_px * header.slide_mpp) ** 2
    return GridRecord(
        name=header.name,
        tiles=len(grid),
        padded=0,
        unreadable=0,
        tissue_mm2=round(covered_um2 / 1e6, 4),
        encoder=header.encoder_spec.name,
        untrained=header.encoder_spec.untrained,
        domain=header.encoder_spec.domain,
        seconds={stage: round(s, 3) for stage, s in seconds.items()},
        files=tuple(plain_record(f) for f in files),
    )


def plain_record(chunk: Any) -> dict[str, Any]:
    return {key: value for key, value in plain(chunk).items() if key != "kind"}


def reuse_problem(record: SlideRecord, entry: SlideEntry, config: RunConfig, encoder: EncoderSpec) -> str | None:
    """Why a finished slide has to be done again, None if it can stand. Reads at most 1 MiB a file of the slide."""
    wanted = grid_name(encoder, config.tile, config.tissue)
    if wanted not in record.grids:
        return "settings changed" if record.grids else "never finished"
    if record.given_mpp not in ({entry.mpp} if entry.mpp else {None, entry.mpp_if_missing}):
        return f"mpp {record.given_mpp or 'of the file'} -> {entry.mpp or entry.mpp_if_missing or 'of the file'}"
    if record.asked_reader != config.reader.name:
        return f"reader {record.asked_reader} -> {config.reader.name}"
    try:
        unchanged = fingerprint(Path(f) for f in _files(record, entry)) == record.facts.fingerprint
    except OSError:
        return "slide file not readable"
    return None if unchanged else "slide file changed"


def _files(record: SlideRecord, entry: SlideEntry) -> list[Path]:
    """The slide's files where they are now: a folder of slides may have been moved as a whole."""
    was = Path(record.facts.path)
    return [
        entry.path if f == str(was) else entry.path.parent / Path(f).relative_to(was.parent) for f in record.facts.files
    ]


def _frame(record: SlideRecord) -> tuple[str, float | None]:
    return record.facts.fingerprint, record.facts.known_mpp
