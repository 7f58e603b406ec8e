"""The report: self-contained, honest about what is not known, and unmoved by hostile names."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from pipeline import report as report_module
from pipeline.console import duration
from pipeline.heatmap import PROBABILITY, colour_scale
from pipeline.report import (
    ClassScore,
    Counts,
    Failure,
    HeadLine,
    Heatmap,
    Link,
    RunReport,
    SlideReport,
    Tile,
    TileExtremes,
    number,
    write_report,
)
from wsi.errors import GridDamaged, NoSpace, StorageError

VOID = {"meta", "img", "input", "br", "link"}


def picture(width: int = 24, height: int = 16, kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@dataclass
class Page(HTMLParser):
    """A page as a browser sees it: elements, attributes and text; unbalanced tags fail."""

    html: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    script: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.script += data
        elif "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"[ \n]+", " ", self.text)


def write(tmp_path: Path, *slides: SlideReport, **options: Any) -> Page:
    write_report(tmp_path / "report.html", RunReport("A run", slides, **options))
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


SCALE = colour_scale(np.array([0.1, 0.9]), PROBABILITY)
FULL = SlideReport(
    "case-7",
    "done",
    facts=(("Size", "4 000 x 3 000 px"), ("Resolution", "0.25 um/px (aperio.MPP)")),
    counts=Counts(12_345, 17, 3),
    seconds=(("tissue", 1.25), ("features", 65.0)),
    warnings=("three tiles are torn",),
    overview=picture(40, 30),
    width_um=1000.0,
    heatmaps=(Heatmap("p(tumour)", picture(40, 30), SCALE),),
    scores=(ClassScore("stroma", 0.25, 0.21, (0.125, 0.2, 0.5)), ClassScore("tumour", 0.75, 0.31)),
    scores_from="Mean of the 10 best tiles of each class",
    label="tumour",
    tiles=TileExtremes("p(tumour)", (Tile(picture(), 0.97, 12_000, 800),), (Tile(picture(), 0.0123, 5, 6),)),
    links=(Link("tissue outline", "slides/case-7/tissue.geojson"),),
)
BLANK = SlideReport("blank", "no tissue", overview=picture())
REFUSED = SlideReport("torn", "refused", Failure("slide_truncated", "torn.svs: ends early.", "Copy it again."))
CRASHED = SlideReport("odd", "crashed", Failure("bug", 'File "x.py", line 3\nZeroDivisionError: zero', "Report it."))


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = write(tmp_path, FULL, BLANK, REFUSED, CRASHED)
    assert {i["src"].split(",")[0] for i in page.all("img")} == {"data:image/jpeg;base64"}
    assert not page.all("link") and not page.all("iframe") and not page.all("base")
    assert "@import" not in page.html and not re.search(r"url\((?!\"\$\{base\.src)", page.html)
    assert not re.search(r"https?://", page.html)
    for anchor in page.all("a"):
        assert anchor["href"].startswith(("#", "slides/"))


def test_heads_are_listed_with_their_metrics_and_a_link(tmp_path: Path) -> None:
    link, tested = Link("sub type", "heads/sub type/report.html"), "60 patients, 5 folds"
    lines = (
        HeadLine("sub type", "classification of kind", "abmil", tested, (("auroc", 0.9126, 0.8, 1.0),), link),
        HeadLine("bare <b>", "survival of months, died", "mean", tested, ()),
    )
    page = write(tmp_path, FULL, heads=lines)
    assert "auroc 0.913 (0.800 - 1.000)" in page.words and "bare <b>" in page.words
    assert [a["href"] for a in page.all("a") if a["href"].startswith("heads")] == ["heads/sub%20type/report.html"]
    assert "Trained heads" not in write(tmp_path, FULL).words


def test_the_policy_allows_the_one_script_by_its_hash(tmp_path: Path) -> None:
    page = write(tmp_path, FULL)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert f"script-src 'sha256-{digest}'" in policy and "unsafe-eval" not in policy
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_a_slide_shows_all_that_is_known(tmp_path: Path) -> None:
    page = write(tmp_path, FULL)
    for words in (
        "case-7", "0.25 um/px (aperio.MPP)", "12\u202f345 kept, 17 padded at the edge, 3 unreadable",
        "1 min 6 s: tissue 1.2 s, features 1 min 5 s", "three tiles are torn", "p(tumour)", "range: fixed 0-1",
        "Zero-shot label (research) tumour", "0.750", "0.310", "Mean of the 10 best tiles of each class",
        "0.970 x 12\u202f000 y 800", "0.0123 x 5 y 6", "tissue outline", "200 µm",
    ):  # fmt: skip
        assert words in page.words, words


def test_score_bars_are_as_long_as_their_p_and_the_highest_leads(tmp_path: Path) -> None:
    page = write(tmp_path, FULL)
    assert [i["style"] for i in page.all("i")] == ["width:75.0%", "width:25.0%"]
    assert [s["style"] for s in page.all("s")] == ["left:12.5%;width:37.5%"]  # from 0.125 to 0.5
    assert [u["style"] for u in page.all("u")] == ["left:20.0%"]
    leading = page.html.index('<tr class="first">')
    assert page.html.index("tumour</th>", leading) < page.html.index("stroma</th>", leading)


def test_the_scale_bar_has_its_share_of_the_width(tmp_path: Path) -> None:
    page = write(tmp_path, FULL)  # 200 of 1,000 um
    assert [s["style"] for s in page.all("span") if s.get("class") == "ruler"] == ["width:20.00%"] * 2


def test_the_legend_shows_the_colours_of_the_picture(tmp_path: Path) -> None:
    page = write(tmp_path, FULL)
    gradient = next(d["style"] for d in page.all("div") if d.get("class") == "gradient")
    colours = re.findall("#[0-9a-f]{6}", gradient)
    shown = SCALE.on_tissue()
    assert [colours[0], colours[-1]] == ["#" + bytes(shown[0]).hex(), "#" + bytes(shown[255]).hex()]


def test_every_picture_has_words_and_a_size(tmp_path: Path) -> None:
    images = write(tmp_path, FULL, BLANK).all("img")
    assert all(int(image["width"]) > 0 and int(image["height"]) > 0 for image in images)
    assert (
        len(images) == 7 and [image["alt"] for image in images].count("") == 2
    )  # the icons, beside their slide's name


def test_counts_and_failures_come_before_the_slides(tmp_path: Path) -> None:
    page = write(tmp_path, FULL, replace(FULL, slide_id="again", status="reused"), BLANK, REFUSED, CRASHED)
    head = page.words[: page.words.index("All slides")]
    for words in ("5 slides", "2 done, 1 reused", "1 no tissue", "1 refused", "1 crashed"):
        assert words in head
    for words in (
        "slide_truncated",
        "torn.svs: ends early.",
        "Copy it again.",
        "ZeroDivisionError: zero",
        "Report it.",
    ):
        assert words in head
    assert "24\u202f690 tiles" in head


def test_a_traceback_is_folded_away(tmp_path: Path) -> None:
    page = write(tmp_path, CRASHED)
    assert len(page.all("details")) == 2  # in the table and in the slide's section
    assert "Traceback" in page.words and 'File "x.py", line 3' in page.text


def test_no_tissue_is_a_result(tmp_path: Path) -> None:
    page = write(tmp_path, BLANK)
    assert "This is a result, not a failure." in page.words
    assert "without a result" not in page.words


@pytest.mark.parametrize("slides", [(FULL,), (FULL, BLANK, REFUSED)])
def test_random_weights_are_said_everywhere_and_never_labelled(tmp_path: Path, slides: tuple[SlideReport, ...]) -> None:
    page = write(tmp_path, *slides, untrained=True)
    assert page.words.count("Random weights: these numbers carry no meaning") == 1 + len(slides)
    assert 'class="label"' not in page.html and "The encoder has random weights." in page.words
    assert "Numbers from random weights" in page.words  # the scores, folded away
    assert page.words.count("Zero-shot label (research)") == 1  # in the slide's section, as not shown; no column for it


def test_a_limited_encoder_is_said_everywhere(tmp_path: Path) -> None:
    page = write(tmp_path, FULL, REFUSED, domain="synthetic tissue only")
    assert page.words.count("it knows synthetic tissue only") == 3
    assert "Random" not in page.words


def test_an_ordinary_encoder_has_no_banner(tmp_path: Path) -> None:
    assert 'class="caution"' not in write(tmp_path, FULL).html


def test_why_no_label_is_shown(tmp_path: Path) -> None:
    page = write(tmp_path, replace(FULL, label=None, no_label_because="The two best classes tie."))
    assert "not shown The two best classes tie." in page.words
    page = write(tmp_path, replace(FULL, label=None, scores=(), no_label_because="The encoder has no words."))
    assert "not shown The encoder has no words." in page.words


def test_it_never_reads_as_a_diagnosis(tmp_path: Path) -> None:
    words = write(tmp_path, FULL, BLANK, REFUSED).words.lower()
    assert "for research use only" in words
    assert re.findall(r"[\w ]*diagnos\w*", words) == [" not a medical device and not a diagnosis"]
    assert not re.search(r"\b(patient has cancer|positive for|predicted diagnosis)\b", words)


def test_provenance_comes_last(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        FULL,
        provenance=(("torch", "2.13"),),
        settings_toml='[tile]\nsize_px = 224 # "a" <b>',
        command="wsi run",
    )
    tail = page.text[page.text.index("Provenance") :]
    assert "2.13" in tail and '[tile]\nsize_px = 224 # "a" <b>' in tail and "wsi run" in tail
    assert "case-7" not in tail


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path, FULL, BLANK)
    first = (tmp_path / "report.html").read_bytes()
    write(tmp_path, FULL, BLANK)
    assert (tmp_path / "report.html").read_bytes() == first


# Hostile names

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "{{ 7*7 }}{% raw %}",
    "&lt;",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_words(tmp_path: Path, name: str) -> None:
    slide = replace(
        FULL, slide_id=name, label=name, warnings=(name,), facts=((name, name),), scores_from=name,
        no_label_because=name, scores=(ClassScore(name, 0.5, 0.5),),
        heatmaps=(Heatmap(name, picture(), replace(SCALE, words=name), name),),
        tiles=TileExtremes(name, (Tile(picture(), 1.0, 1, 1),), ()), links=(Link(name, name),), seconds=((name, 1.0),),
    )  # fmt: skip
    refused = replace(REFUSED, failure=Failure(name, f"{name}\n{name}", name))
    page = write(
        tmp_path, slide, refused, warnings=(name,), facts=((name, name),), domain=name,
        provenance=((name, name),), settings_toml=name, command=name,
    )  # fmt: skip
    harmless = write(tmp_path, *(replace(s, slide_id="x") for s in (slide, refused)), facts=(("a", "b"),))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    assert len(page.all("script")) == 1 and not any("onerror" in a for _, a in page.tags)
    assert page.text.count(name) > 15


def test_a_link_cannot_become_a_scheme(tmp_path: Path) -> None:
    page = write(tmp_path, replace(FULL, links=(Link("x", "javascript:alert(1)"), Link("y", "slides/a b#?.png"))))
    links = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert links == ["javascript%3Aalert%281%29", "slides/a%20b%23%3F.png"]


def test_lone_surrogates_from_odd_file_names_do_not_stop_it(tmp_path: Path) -> None:
    assert "odd?name" in write(tmp_path, replace(BLANK, slide_id="odd\udcffname")).words


# Pictures


def shown(image: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))


def test_large_pictures_are_made_smaller_and_keep_their_shape(tmp_path: Path) -> None:
    page = write(tmp_path, replace(BLANK, overview=picture(2000, 1000, "JPEG")))
    icon, overview = (shown(image).size for image in page.all("img"))
    assert icon == (56, 28) and overview == (1000, 500)


def test_pictures_may_be_paths_and_a_lost_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(40, 30))
    page = write(tmp_path, replace(BLANK, overview=tmp_path / "a.png"))
    assert shown(page.all("img")[-1]).size == (40, 30)
    for broken in (tmp_path / "none.png", b"no picture", picture(40, 30)[:60]):
        page = write(tmp_path, replace(BLANK, overview=broken))
        assert not page.all("img") and "picture not available" in page.words


def test_a_picture_is_drawn_when_its_page_is_written_and_a_failure_is_said(tmp_path: Path) -> None:
    """With the second slide's first stroke, the first slide's page is on disk already."""
    drawn: list[tuple[str, bool]] = []

    def draw(slide: str) -> np.ndarray:
        drawn.append((slide, (tmp_path / "slides/a/report.html").exists()))
        return np.zeros((30, 40, 3), np.uint8)

    def fail() -> np.ndarray:
        raise GridDamaged("the features are gone.")

    a = replace(BLANK, slide_id="a", heatmaps=(Heatmap("p", lambda: draw("a"), SCALE), Heatmap("q", fail, SCALE)))
    b = replace(BLANK, slide_id="b", heatmaps=(Heatmap("p", lambda: draw("b"), SCALE),))
    pages = write_report(tmp_path / "report.html", RunReport("A run", (a, b), inline_limit=0))
    assert drawn == [("a", False), ("b", True)]
    page = Page(pages[0].read_text(encoding="utf-8"))
    assert shown(page.all("img")[-1]).size == (40, 30) and page.words.count("picture not available") == 1


def test_fifty_slides_stay_under_ten_megabytes(tmp_path: Path) -> None:
    """Half of them, with pictures about as dense as a thumbnail full of tissue."""
    noise = np.random.default_rng(0).integers(60, 255, (128, 128, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((1024, 820), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    dense, tiles = stream.getvalue(), (Tile(picture(112, 112, "JPEG"), 0.5, 0, 0),) * 6
    heatmaps = (Heatmap("a", dense, SCALE), Heatmap("b", dense, SCALE))
    slide = replace(FULL, overview=dense, heatmaps=heatmaps, tiles=TileExtremes("a", tiles, tiles))
    write(tmp_path, *(replace(slide, slide_id=f"s{i}") for i in range(26)))
    assert (tmp_path / "report.html").stat().st_size * 50 / 26 < 10e6


# Many slides


def test_beyond_the_limit_each_slide_has_a_page_of_its_own(tmp_path: Path) -> None:
    slides = (FULL, BLANK, replace(REFUSED, slide_id="a b'<c>%41"))
    pages = write_report(tmp_path / "out.html", RunReport("A run", slides, domain="x", inline_limit=2))
    assert pages == [*(tmp_path / "slides" / s.slide_id / "report.html" for s in slides), tmp_path / "out.html"]
    index = Page(pages[-1].read_text(encoding="utf-8"))
    assert "Highest" not in index.words and index.words.count("case-7") == 1
    targets = {unquote(a["href"]) for a in index.all("a")}
    assert targets == {f"slides/{s.slide_id}/report.html" for s in slides}
    page = Page(pages[0].read_text(encoding="utf-8"))
    assert "Highest" in page.words and page.words.count("it knows x") == 1 and "For research use only" in page.words
    for anchor in page.all("a"):
        assert (pages[0].parent / unquote(anchor["href"])).resolve() in (
            tmp_path / "out.html", tmp_path / "slides/case-7/tissue.geojson",
        )  # fmt: skip


def test_at_the_limit_there_is_one_file_with_working_anchors(tmp_path: Path) -> None:
    page = write(tmp_path, FULL, BLANK, inline_limit=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} == ids == {"top", "slide-1", "slide-2"}


@pytest.mark.parametrize("slide_id", ["", ".", "..", "../x", "/etc/x", "a\\b", "a\0b"])
def test_an_id_that_leaves_the_folder_is_refused(tmp_path: Path, slide_id: str) -> None:
    with pytest.raises(ValueError, match="no folder name"):
        write(tmp_path / "out", replace(BLANK, slide_id=slide_id), inline_limit=0)
    assert list(tmp_path.rglob("*.html")) == []


def test_a_full_disk_leaves_the_last_good_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, FULL)
    before = (tmp_path / "report.html").read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(report_module, "write_atomic", full)
    with pytest.raises(NoSpace):
        write(tmp_path, BLANK)
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StorageError, match="permission denied"):
        write(tmp_path, FULL, inline_limit=0)


def test_a_run_without_slides_is_a_page_too(tmp_path: Path) -> None:
    assert "0 slides" in write(tmp_path).words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3599.7, "1 h 0 min"),
        (4340, "1 h 12 min"),
    ],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_keep_what_matters() -> None:
    assert [number(v) for v in (1234567, 0, 0.123456, 1.2e-7, 1.0)] == [
        "1\u202f234\u202f567",
        "0",
        "0.123",
        "1.2e-07",
        "1",
    ]
