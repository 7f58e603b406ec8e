"""What is known of a slide once it has been opened, as plain values: what crosses process borders in its place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wsi.errors import MppImplausible, MppMissing, from_record
from wsi.geometry import Region
from wsi.resolution import GIVEN

if TYPE_CHECKING:
    from wsi.slide import Slide


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """A slide without its pixels. Stands in for a Slide wherever only its frame and identity are asked for."""

    path: str  # or the URL, without secrets
    reader: str  # fast, openslide, tiffslide, image, omezarr
    vendor: str
    width: int  # level-0 px
    height: int
    levels: tuple[tuple[int, int, float], ...]  # width, height, downsample
    bounds: Region  # level-0 px; the whole slide where the file declares none
    known_mpp: float | None  # um per level-0 px; None where the file has no resolution worth believing
    mpp_source: str
    objective_power: float | None
    fingerprint: str
    files: tuple[str, ...]  # all files of the slide, the main one first
    warnings: tuple[str, ...]
    mpp_problem: dict[str, Any] | None = None  # as_record() of why there is no mpp
    reader_note: str = ""  # why no faster reader took it

    @classmethod
    def of(cls, slide: Slide) -> SlideFacts:
        """Takes the facts of an open slide; a missing resolution is kept as a problem, not raised."""
        mpp, problem = None, None
        try:
            mpp = slide.mpp
        except (MppMissing, MppImplausible) as error:
            problem = error.as_record()
        return cls(
            path=str(slide.path),
            reader=slide.reader,
            vendor=slide.vendor,
            width=slide.size.width,
            height=slide.size.height,
            levels=tuple((level.size.width, level.size.height, level.downsample) for level in slide.levels),
            bounds=slide.bounds,
            known_mpp=mpp,
            mpp_source=slide.mpp_source,
            objective_power=slide.objective_power,
            fingerprint=slide.fingerprint,
            files=tuple(str(f) for f in slide.files),
            warnings=slide.warnings,
            mpp_problem=problem,
            reader_note=slide.reader_note,
        )

    @property
    def mpp(self) -> float:
        """um per level-0 pixel. Raises what Slide.mpp raises where there is none."""
        if self.known_mpp is None:
            raise from_record(self.mpp_problem or MppMissing(f"{self.path}: no resolution.").as_record())
        return self.known_mpp

    @property
    def read_by(self) -> str:
        """The reader, and why it was not a faster one."""
        return f"{self.reader} ({self.reader_note})" if self.reader_note else self.reader

    @property
    def mpp_given(self) -> bool:
        """True if the resolution is the caller's, not the file's."""
        return self.mpp_source == GIVEN

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> SlideFacts:
        return cls(
            **{
                **record,
                "levels": tuple((int(w), int(h), float(d)) for w, h, d in record["levels"]),
                "bounds": Region(**record["bounds"]),
                "files": tuple(record["files"]),
                "warnings": tuple(record["warnings"]),
            }
        )
