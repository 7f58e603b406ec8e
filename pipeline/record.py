"""`slide.json`: what was done with a slide, and how to tell that it is still true. Written last, in one step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from features import FeatureGrid
from features.header import grid_name, toolkit_version
from features.spec import EncoderSpec
from pipeline.config import RunConfig
from pipeline.filecheck import slide_files
from pipeline.manifest import SlideEntry
from pipeline.output import RECORD_VERSION, SlideFolder
from tiling.drawn import DrawnTissue
from tiling.grid import READ_FAILED, READ_PADDED
from tiling.quality import flag_counts
from tiling.tissue import TissueConfig
from wsi.errors import ArtefactError
from wsi.facts import SlideFacts
from wsi.identity import file_sha256, plain


@dataclass(frozen=True, slots=True)
class GridRecord:
    """One feature grid of the slide."""

    name: str  # folder below features/
    tiles: int
    padded: int  # tiles that reach beyond the slide's edge
    unreadable: int  # tiles that could not be decoded; left out of bags
    tissue_mm2: float  # in the tiles kept
    dtype: str
    encoder: str
    untrained: bool
    domain: str
    seconds: dict[str, float]  # per stage
    files: tuple[dict[str, Any], ...]  # path, bytes and sha256 of every chunk
    flagged: dict[str, int] | None = None  # tiles by quality flag; None where they were not looked over
    stain: str = ""  # how stains were normalised, "none" included; "" in records of older versions


@dataclass(frozen=True, slots=True)
class TissueRecord:
    """Where the tissue came from, and the tissue.geojson that was left."""

    identity: dict[str, Any]  # plain TissueConfig or DrawnTissue
    sha256: str  # of tissue.geojson: differs once somebody edited it

    def __post_init__(self) -> None:
        if not isinstance(self.identity, dict):
            raise TypeError(f"the tissue's identity is no object: {self.identity!r}")

    def is_of(self, config: TissueConfig) -> bool:
        """True if it was detected, under these settings."""
        return self.identity == plain(config)

    @property
    def drawn(self) -> str:
        """The digest of the areas that somebody drew, "" where tissue was detected."""
        return str(self.identity.get("digest", ""))


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """All that later stages need to know of a slide without opening it."""

    id: str
    name: str  # as the user knows it
    patient: str
    labels: dict[str, str]
    manifest_mpp: float | None  # what a manifest said, over the file's own
    fallback_mpp: float | None  # what --mpp said, where it had to be used
    asked_reader: str
    thumbnail_px: int  # longer side asked for
    facts: SlideFacts
    warnings: tuple[str, ...]
    current: str  # name of the grid made last
    grids: dict[str, GridRecord] = field(default_factory=dict)
    tissue: TissueRecord | None = None  # of the current grid
    pictures: dict[str, str] = field(default_factory=dict)  # thumbnail and overlay, with their SHA-256
    sha256: dict[str, str] = field(default_factory=dict)  # of the slide's files, by name; empty without --hash full

    @classmethod
    def of(cls, entry: SlideEntry, config: RunConfig, facts: SlideFacts) -> SlideRecord:
        """A record without grids yet."""
        return cls(
            id=entry.id,
            name=entry.name,
            patient=entry.patient,
            labels=entry.labels,
            manifest_mpp=entry.mpp,
            fallback_mpp=facts.known_mpp if facts.mpp_given and entry.mpp is None else None,
            asked_reader=config.reader.name,
            thumbnail_px=config.pictures.thumbnail_px,
            facts=facts,
            warnings=facts.warnings,
            current="",
        )

    @property
    def grid(self) -> GridRecord:
        return self.grids[self.current]

    def with_notes(self, notes: tuple[str, ...]) -> SlideRecord:
        return replace(self, warnings=(*self.warnings, *notes))

    def asked_by(self, entry: SlideEntry) -> SlideRecord:
        """With what may change without the slide changing: where it lies, whose it is, what is known of it."""
        files = tuple(str(f) for f in slide_files(self.facts, entry))
        facts = replace(self.facts, path=str(entry.path), files=files)
        return replace(self, name=entry.name, patient=entry.patient, labels=entry.labels, facts=facts)

    def describes(self, grid: FeatureGrid) -> bool:
        """True if the current grid was made from the same file at the same scale, and is stored as recorded."""
        header = grid.header
        same = (header.slide_fingerprint, header.slide_mpp) == (self.facts.fingerprint, self.facts.known_mpp)
        return same and header.dtype == self.grid.dtype and _listed(grid) == self.grid.files

    def pictures_stand(self, folder: SlideFolder) -> bool:
        """True if thumbnail and overlay are as they were left, and a tissue.geojson is there, edited or not."""
        try:
            return bool(self.pictures) and picture_digests(folder) == self.pictures and folder.tissue.exists()
        except OSError:
            return False

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
                raise ValueError("it is of another version of the toolkit")
            found.pop("toolkit_version")
            grids = {n: GridRecord(**{**g, "files": tuple(g["files"])}) for n, g in found.pop("grids").items()}
            facts = SlideFacts.from_json(found.pop("facts"))
            told = found.pop("tissue", None)
            tissue = None if told is None else TissueRecord(**told)
            made = {"facts": facts, "grids": grids, "tissue": tissue, "warnings": tuple(found["warnings"])}
            return cls(**{**found, **made})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{folder.path / 'slide.json'}: this record cannot be understood ({error}).",
                hint="Delete it; the next run makes it again.",
            ) from None

    def write(self, folder: SlideFolder) -> None:
        folder.write_record({**asdict(self), "toolkit_version": toolkit_version()})


def grid_record(grid: FeatureGrid, seconds: dict[str, float]) -> GridRecord:
    """The record of a grid just written or found whole."""
    header, status = grid.header, grid.read_status
    # Each tile speaks for its cell of the lattice: with a stride below its size tiles overlap, and count once.
    covered_um2 = float(grid.tissue_fraction.sum()) * (header.stride_px * header.slide_mpp) ** 2
    return GridRecord(
        name=grid.path.name,
        tiles=len(grid),
        padded=int((status == READ_PADDED).sum()),
        unreadable=int((status == READ_FAILED).sum()),
        tissue_mm2=round(covered_um2 / 1e6, 4),
        dtype=header.dtype,
        encoder=header.encoder_spec.name,
        untrained=header.encoder_spec.untrained,
        domain=header.encoder_spec.domain,
        seconds={stage: round(s, 3) for stage, s in seconds.items()},
        files=_listed(grid),
        flagged=None if grid.quality is None else flag_counts(grid.quality),
        stain=grid.tile_spec.stain,
    )


def picture_digests(folder: SlideFolder) -> dict[str, str]:
    """Of the pictures that are drawn with the features. Raises OSError where one is gone."""
    return {path.name: file_sha256(path) for path in (folder.thumbnail, folder.overlay)}


def _listed(grid: FeatureGrid) -> tuple[dict[str, Any], ...]:
    return tuple(asdict(f) for f in grid.records)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a slide's features are to be of."""

    entry: SlideEntry
    config: RunConfig
    tissue: TissueConfig | DrawnTissue  # that is in force for this slide
    encoder: EncoderSpec


def reuse_problem(record: SlideRecord, wanted: Wanted) -> str:
    """Why a finished slide has to be done again, "" if it can stand where `check_file` finds nothing either."""
    entry, config = wanted.entry, wanted.config
    if record.current != grid_name(wanted.encoder, config.tile, wanted.tissue):
        return _tissue_change(record, wanted.tissue) or "settings changed"
    before, now = _asked(record), _wanted(record, entry, config)
    if changed := [f"{what} {was} -> {now[what]}" for what, was in before.items() if now[what] != was]:
        return "; ".join(changed)
    if record.grid.unreadable > config.reader.max_unreadable * record.grid.tiles:
        return f"{record.grid.unreadable} of {record.grid.tiles} tiles are unreadable"
    return ""


def _tissue_change(record: SlideRecord, now: TissueConfig | DrawnTissue) -> str:
    """Whether its tissue is drawn, detected or edited anew; "" where that is not it."""
    drawn = "" if record.tissue is None else record.tissue.drawn
    if not isinstance(now, DrawnTissue):
        return "its tissue was drawn and is detected now" if drawn else ""
    if not drawn:
        return "its tissue was detected and is drawn now"
    return "its drawn tissue was edited" if now.digest != drawn else ""


def _asked(record: SlideRecord) -> dict[str, object]:
    """What the record was made under, beside what is in the grid's name."""
    return {
        "dtype": record.grid.dtype,
        "reader": record.asked_reader,
        "thumbnail_px": record.thumbnail_px,
        "mpp": record.manifest_mpp,
        "mpp of slides that tell none": record.fallback_mpp,
    }


def _wanted(record: SlideRecord, entry: SlideEntry, config: RunConfig) -> dict[str, object]:
    return {
        "dtype": config.encoder.dtype,
        "reader": config.reader.name,
        "thumbnail_px": config.pictures.thumbnail_px,
        "mpp": entry.mpp,
        # --mpp matters to slides that had to fall back on it only
        "mpp of slides that tell none": None if record.fallback_mpp is None else entry.mpp_if_missing,
    }


def _frame(record: SlideRecord) -> tuple[str, float | None]:
    return record.facts.fingerprint, record.facts.known_mpp
