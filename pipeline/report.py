"""One page that says what a run did: `write_report` puts plain values and pictures into self-contained HTML."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, ImageOps

from features.files import storage_errors, write_atomic
from pipeline.console import duration
from pipeline.heatmap import Scale, encoder_caution, length_text, scale_bar_um
from wsi.errors import ToolkitError

Status = Literal["done", "reused", "no tissue", "refused", "crashed", "stopped"]
FAILED: tuple[Status, ...] = ("refused", "crashed", "stopped")
Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
# PNG or JPEG, or a call that draws it. Paths are read, and calls made, when the page is written: cohorts of thousands
# need little memory then.
Picture = bytes | Path | Callable[[], Pixels]
Facts = tuple[tuple[str, str], ...]  # (name, value as it is to be read), in the order shown


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a slide has no result."""

    code: str  # stable: mpp_missing, slide_truncated, ...
    sentence: str  # what went wrong
    hint: str = ""  # what to do next


@dataclass(frozen=True, slots=True)
class Counts:
    """Tiles of one slide."""

    kept: int
    padded: int = 0  # of those kept: white where they reach beyond the slide's edge
    unreadable: int = 0  # of those kept: left out of every score
    flagged: tuple[tuple[str, int], ...] = ()  # of those kept, by quality flag; empty where they were not looked over


@dataclass(frozen=True, slots=True)
class Heatmap:
    """A bare overlay (`pipeline.heatmap.overlay`) over the same area as the slide's overview, and its scale."""

    name: str  # of the score: "p(tumour)"
    image: Picture
    scale: Scale
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Zero-shot result of one class."""

    name: str
    p: float  # 0..1
    similarity: float  # cosine, -1..1
    spread: tuple[float, float, float] | None = None  # quartiles 25, 50, 75 % of p over prompt draws


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile with the score that brought it here."""

    image: Picture
    score: float
    x: int  # level-0 px, top-left corner
    y: int


@dataclass(frozen=True, slots=True)
class TileExtremes:
    """Tiles at both ends of one score."""

    score: str  # its name
    top: tuple[Tile, ...]  # highest first
    bottom: tuple[Tile, ...]  # lowest first


@dataclass(frozen=True, slots=True)
class Link:
    """A file of the slide; `href` is a path relative to the report's folder, not yet quoted."""

    text: str
    href: str


@dataclass(frozen=True, slots=True)
class SlideReport:
    """All that the page shows of one slide. What is not known stays empty and is not shown."""

    slide_id: str  # safe as a folder name
    status: Status
    failure: Failure | None = None
    facts: Facts = ()  # size, mpp and its source, reader, levels
    counts: Counts | None = None
    seconds: tuple[tuple[str, float], ...] = ()  # per stage, in the order they ran
    warnings: tuple[str, ...] = ()
    overview: Picture | None = None  # thumbnail with the tissue's outline and the kept tiles
    width_um: float | None = None  # of the area the overview and the heatmaps cover: gives the scale bar
    heatmaps: tuple[Heatmap, ...] = ()
    scores: tuple[ClassScore, ...] = ()  # in the order of the prompt set
    scores_from: str = ""  # "mean of the 10 best tiles of each class; prompts kather9"
    label: str | None = None
    no_label_because: str = ""  # shown in the place of a label
    tiles: TileExtremes | None = None
    links: tuple[Link, ...] = ()

    @property
    def total_seconds(self) -> float:
        return sum(seconds for _, seconds in self.seconds)


@dataclass(frozen=True, slots=True)
class HeadLine:
    """A trained head of the run, in one line."""

    name: str
    task: str  # "classification of subtype"
    network: str
    tested: str  # "60 patients, 5 folds"
    metrics: tuple[tuple[str, float, float, float], ...]  # name, value, limits of its interval
    page: Link | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """All that the page shows of a run. An untrained encoder's labels are never shown, whatever the slides say."""

    title: str
    slides: Sequence[SlideReport]
    facts: Facts = ()  # of the run: encoder, tile, device, date, time taken
    warnings: tuple[str, ...] = ()
    heads: tuple[HeadLine, ...] = ()
    untrained: bool = False  # the encoder has random weights
    domain: str = ""  # of the encoder, where it is limited: "synthetic tissue only"
    provenance: Facts = ()  # versions, sha256 of the weights, seed, host
    settings_toml: str = ""
    command: str = ""
    inline_limit: int = 60  # with more slides than this, each slide has a page of its own

    @property
    def caution(self) -> str:
        return encoder_caution(untrained=self.untrained, domain=self.domain)


def write_report(path: Path, report: RunReport) -> list[Path]:
    """Writes the report; returns the pages written, `path` last.

    Up to `report.inline_limit` slides it is one file. Beyond, each slide's section is a page of its own, at
    `slides/<id>/report.html` beside `path`. Pages need no network and no other file, run no foreign script (a hash in
    their content security policy names the one they have), and are replaced in one step each.
    Raises NoSpace or StorageError where the disk refuses, ValueError for a slide id that is no plain folder name.
    """
    apart = len(report.slides) > report.inline_limit
    book = _Book(path, report, apart)
    pages = [book.write_slide_page(slide) for slide in report.slides] if apart else []
    return [*pages, book.write_index()]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """How pictures are shown on a page with at most `slides` slides: longest sides in pixels, and JPEG quality."""

    slides: float
    overview: int
    heatmap: int
    tile: int
    quality: int


# So that 50 slides full of tissue, with two heatmaps and twelve tiles each, stay under 10 MB.
_SIZES = (_Sizes(8, 1000, 1000, 160, 82), _Sizes(25, 600, 480, 88, 70), _Sizes(math.inf, 480, 400, 80, 62))
_ICON = 56


def page_environment() -> Environment:
    """The templates of all pages, with what each page carries: style, script, and the script's hash."""
    templates = Path(__file__).parent / "templates"
    env = Environment(
        loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    script = (templates / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    env.globals |= {
        "css": Markup((templates / "report.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
    }
    return env


class _Book:
    """The pages of one report."""

    def __init__(self, path: Path, report: RunReport, apart: bool) -> None:
        self.path, self.report, self.apart = path, report, apart
        on_a_page = 1 if apart else len(report.slides)
        self.sizes = next(sizes for sizes in _SIZES if on_a_page <= sizes.slides)
        self.env = page_environment()
        self.env.filters |= {"picture": self._picture, "duration": duration, "number": number, "hex": _hex}
        self.env.globals |= {
            "run": report,
            "sizes": self.sizes,
            "icon": _ICON,
            "failed_states": FAILED,
            "scale_bar": _scale_bar,
            "apart": apart,
        }

    def write_index(self) -> Path:
        tally = Counter(slide.status for slide in self.report.slides)
        tiles = sum(slide.counts.kept for slide in self.report.slides if slide.counts)
        page = {"tally": tally, "tiles": tiles, "href": self._slide_href, "to_root": "", "to_file": self._file_href("")}
        return self._write(self.path, "report.html", page)

    def write_slide_page(self, slide: SlideReport) -> Path:
        page = self.path.parent / self._slide_page(slide.slide_id)
        with storage_errors(page):
            page.parent.mkdir(parents=True, exist_ok=True)
        back = "../../"
        values = {"slide": slide, "home": back + quote(self.path.name), "to_file": self._file_href(back)}
        return self._write(page, "slide_page.html", values)

    def _write(self, path: Path, template: str, values: dict[str, Any]) -> Path:
        html = self.env.get_template(template).render(values)
        with storage_errors(path):
            write_atomic(path, html.encode("utf-8", errors="replace"))
        return path

    def _slide_href(self, index: int) -> str:
        """Where a slide's section is, seen from the index."""
        return quote(self._slide_page(self.report.slides[index].slide_id)) if self.apart else f"#slide-{index + 1}"

    @staticmethod
    def _slide_page(slide_id: str) -> str:
        if slide_id in ("", ".", "..") or any(c in slide_id for c in "/\\\0"):
            raise ValueError(f"{slide_id!r} is no folder name; slide ids come from the manifest")
        return f"slides/{slide_id}/report.html"

    @staticmethod
    def _file_href(prefix: str) -> Any:
        # Quoted whole, colons too: no name can become a scheme such as javascript.
        return lambda link: prefix + quote(link.href)

    def _picture(self, source: Picture, longest: int) -> dict[str, Any] | None:
        """Size and data URI of a picture at most `longest` px a side, as JPEG; None if it cannot be had."""
        try:
            image = _opened(source)
        except (ToolkitError, OSError, ValueError, Image.DecompressionBombError):
            return None
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=self.sizes.quality, optimize=True, progressive=True)
        uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
        return {"uri": uri, "width": image.width, "height": image.height}


def _opened(source: Picture) -> Image.Image:
    if callable(source):
        return Image.fromarray(source())
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def number(value: float) -> str:
    """A raw value with three digits that matter, or a whole number in thin-spaced groups of three."""
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:.3g}"


def _hex(colour: Sequence[int]) -> str:
    return "#" + bytes(colour).hex()


def _scale_bar(width_um: float) -> dict[str, Any]:
    bar = scale_bar_um(width_um)
    return {"percent": f"{100 * bar / width_um:.2f}", "text": length_text(bar)}
