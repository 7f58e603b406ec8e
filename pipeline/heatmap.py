"""Scores as colours on the thumbnail: the bare overlay, and the figure that says how to read it."""

from __future__ import annotations

import functools
import io
import math
import textwrap
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.overlay import Placement
from tiling.grid import TileGrid

# Maps that run evenly in lightness and stay apart for every kind of colour vision. Diverging ones have 0 in the middle.
SEQUENTIAL = ("viridis", "magma", "cividis")
DIVERGING = ("RdBu_r", "PuOr_r")


@dataclass(frozen=True, slots=True)
class HeatStyle:
    """How scores become colours."""

    palette: str = "viridis"  # one of SEQUENTIAL, or of DIVERGING for signed scores
    limits: tuple[float, float] | None = (0.0, 1.0)  # the same on every slide; None: this slide's min and max
    alpha: float = 0.65  # opacity of the colour, 0..1; the rest is the tissue beneath, in grey

    def __post_init__(self) -> None:
        if self.palette not in SEQUENTIAL + DIVERGING:
            raise ValueError(f"palette is one of {', '.join(SEQUENTIAL + DIVERGING)}, not {self.palette!r}")
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits are (low, high) with low < high, not {self.limits}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is between 0 and 1, not {self.alpha}")


PROBABILITY = HeatStyle()
SIGNED = HeatStyle(palette="RdBu_r", limits=None)
RELATIVE = HeatStyle(limits=None)


@dataclass(frozen=True, slots=True)
class Scale:
    """What the colours of one heatmap mean: raw values from `low` to `high`, never ranks or percentiles."""

    low: float
    high: float
    words: str  # "fixed 0-1", "this slide's min-max", ...
    colours: tuple[tuple[int, int, int], ...]  # 256 RGB, from low to high, evenly spaced in value
    alpha: float  # opacity of the colours on the tissue

    def on_tissue(self) -> NDArray[np.uint8]:
        """uint8 (256, 3): the colours as they look on mid-grey tissue, for a colour bar that matches the picture."""
        return _blend(np.array(self.colours, float), np.full(256, 160.0), self.alpha)


@dataclass(frozen=True, slots=True)
class HeatLabels:
    """What is printed around a heatmap."""

    score: str  # name of the score: "p(tumour)", "attention"
    slide_id: str
    encoder: str  # its name, as the user knows it
    mpp: float  # um per level-0 px
    unit: str = ""  # of the score, where it has one
    caution: str = ""  # see `encoder_caution`
    style: HeatStyle = PROBABILITY


def encoder_caution(*, untrained: bool = False, domain: str = "") -> str:
    """The sentence that goes with everything an encoder gives that is untrained or of limited domain; else ""."""
    if untrained:
        return "Random weights: these numbers carry no meaning about tissue, and no labels are shown."
    if domain:
        return f"Limited encoder: it knows {domain}. On other material its scores and labels mean nothing."
    return ""


def colour_scale(values: NDArray[np.floating], style: HeatStyle = PROBABILITY) -> Scale:
    """The scale for `values` (any shape, NaN left out): its range, how it was chosen in words, and its colours."""
    finite = values[np.isfinite(values)]
    low, high, words = _value_range(finite, style)
    slack = 1e-6 * (high - low)  # float32 scores pass 1 by a hair
    beyond = int(((finite < low - slack) | (finite > high + slack)).sum())
    if beyond:
        words += f", {beyond} tile{'s'[: beyond != 1]} beyond it"
    return Scale(low, high, words, _colours(style.palette), style.alpha)


@functools.cache
def _colours(palette: str) -> tuple[tuple[int, int, int], ...]:
    """256 RGB, one tuple for all scales: a report holds a scale for each heatmap of each slide."""
    from matplotlib import colormaps

    table = colormaps[palette](np.linspace(0, 1, 256), bytes=True)
    return tuple((int(r), int(g), int(b)) for r, g, b, _ in table)


def tile_means(values: NDArray[np.floating], shape: tuple[int, int], placement: Placement) -> NDArray[np.float64]:
    """Lattice values (rows, cols) as pixels of a thumbnail of `shape` (h, w); NaN where no tile with a value lies.

    Where tiles overlap, a pixel takes the mean of the tiles that cover it.
    Raises ValueError if `values` has another shape than the lattice.
    """
    if values.shape != placement.grid.keep.shape:
        raise ValueError(f"values of shape {values.shape} on a lattice of shape {placement.grid.keep.shape}")
    cells = np.flatnonzero(np.isfinite(values))
    total, count = np.zeros(shape), np.zeros(shape)
    boxes = placement.boxes(cells).clip(0)
    for (left, top, right, bottom), value in zip(boxes.tolist(), values.ravel()[cells].tolist(), strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def overlay(
    values: NDArray[np.floating],
    thumbnail: NDArray[np.uint8],
    placement: Placement,
    style: HeatStyle = PROBABILITY,
) -> NDArray[np.uint8]:
    """The thumbnail, uint8 (h, w, 3), with every tile that has a value coloured by it where it lies.

    `values` is (rows, cols) float, NaN for cells without one: those pixels stay as they are. Beneath the colour the
    tissue is shown in pale grey, so that the stain does not mix into the colour and the scale can be read off.
    """
    field = tile_means(values, thumbnail.shape[:2], placement)
    scale = colour_scale(values, style)
    inside = np.isfinite(field)
    share = (field[inside] - scale.low) / (scale.high - scale.low)
    colours = np.array(scale.colours, float)[np.floor(share.clip(0, 1) * 255 + 0.5).astype(int)]
    image = thumbnail.copy()
    image[inside] = _blend(colours, thumbnail[inside] @ np.array([0.299, 0.587, 0.114]), style.alpha)  # luma, BT.601
    return image


def heatmap_figure(
    values: NDArray[np.floating], thumbnail: NDArray[np.uint8], placement: Placement, labels: HeatLabels
) -> bytes:
    """PNG of the overlay with its colour bar, scale bar and the facts needed to read it. Same input, same bytes.

    The overlay is in the PNG pixel for pixel; a thumbnail under 400 px is enlarged by a whole number first.
    """
    image = overlay(values, thumbnail, placement, labels.style)
    enlarge = max(1, 400 // max(image.shape[:2]))
    with _MATPLOTLIB:
        sheet = _Sheet(image.repeat(enlarge, axis=0).repeat(enlarge, axis=1), labels)
        sheet.head()
        sheet.colour_bar(colour_scale(values, labels.style))
        sheet.foot(placement.grid, um_per_px=placement.frame.px[0] * labels.mpp / enlarge)
        return sheet.png()


def scale_bar_um(width_um: float) -> float:
    """A round length (1, 2 or 5 times a power of ten, in um), the longest of at most a third of `width_um`."""
    decade = 10 ** math.floor(math.log10(width_um / 3))
    return max(step * decade for step in (1, 2, 5) if step * decade <= width_um / 3)


def length_text(um: float) -> str:
    """A length as a person writes it: "500 µm", "2 mm"."""
    return f"{um / 1000:.4g} mm" if um >= 1000 else f"{um:.4g} µm"


def _blend(colours: NDArray[np.floating], grey: NDArray[np.floating], alpha: float) -> NDArray[np.uint8]:
    """Colours (n, 3) over grey (n,), 0..255. The grey has half its contrast and lies in the light half of its range:
    lightness is the colour map's way to say how much, and tissue must not speak over it.
    """
    pale = 127.5 + grey[:, None] / 2
    return np.floor(alpha * colours + (1 - alpha) * pale + 0.5).astype(np.uint8)


def _value_range(finite: NDArray[np.floating], style: HeatStyle) -> tuple[float, float, str]:
    if style.limits is not None:
        low, high = style.limits
        return low, high, "fixed 0-1" if (low, high) == (0, 1) else f"fixed {low:g} to {high:g}"
    if finite.size == 0:
        return 0.0, 1.0, "no tile has a value"
    low, high, words = float(finite.min()), float(finite.max()), "this slide's min-max"
    size = max(abs(low), abs(high))
    if style.palette in DIVERGING and size:
        low, high, words = -size, size, "this slide's min-max, symmetric about 0"
    if low == high:
        pad = abs(low) * 0.01 or 0.01
        return low - pad, high + pad, f"every tile has {low:.4g}"
    return low, high, words


_MATPLOTLIB = threading.Lock()  # which is not made for several threads: slides are drawn side by side

# Lengths of the sheet in pixels; at 72 dpi a point of type is a pixel too.
_MARGIN, _BAR_SPACE, _MIN_WIDTH, _MIN_HEIGHT = 24, 132, 420, 220
_INK, _FAINT, _CAUTION = "#1f2328", "#59636e", "#8a4b00"
_SMALL, _LINE = 12, 17


class _Sheet:
    """A white sheet with the picture, and room for a head, a foot and the colour bar. All lengths in pixels."""

    def __init__(self, image: NDArray[np.uint8], labels: HeatLabels) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.labels = labels
        self.h, self.w = image.shape[:2]
        inner = max(self.w, _MIN_WIDTH)
        self.width = inner + _BAR_SPACE + 2 * _MARGIN
        self.caution = textwrap.wrap(labels.caution, (self.width - 2 * _MARGIN) // 7)
        self.top = _MARGIN + 48 + _LINE * len(self.caution) + 10 * bool(self.caution)
        self.height = self.top + max(self.h, _MIN_HEIGHT) + 92
        self.left = _MARGIN + (inner - self.w) // 2
        self.bar_left = _MARGIN + inner + 20
        self.figure = Figure(figsize=(self.width / 72, self.height / 72), dpi=72, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.figure.figimage(image, self.left, self.height - self.top - self.h, origin="upper")

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """One line of text whose baseline is `y` below the sheet's top. Taken literally: $ starts no formula."""
        look: dict[str, Any] = {
            "size": _SMALL,
            "color": _INK,
            "family": "DejaVu Sans",
            "parse_math": False,
            "usetex": False,
        }
        self.figure.text(x / self.width, 1 - y / self.height, _drawable(text), va="baseline", **look | style)

    def line(self, x: tuple[float, float], y: float, thickness: float) -> None:
        from matplotlib.lines import Line2D

        at = [1 - y / self.height] * 2
        self.figure.add_artist(Line2D([x[0] / self.width, x[1] / self.width], at, linewidth=thickness, color=_INK))

    def head(self) -> None:
        fit = (self.width - 2 * _MARGIN) // 8
        self.write(_MARGIN, _MARGIN + 14, _shortened(self.labels.score, fit), size=16, weight="bold")
        self.write(_MARGIN, _MARGIN + 34, _shortened(self.labels.slide_id, fit), color=_FAINT)
        for i, sentence in enumerate(self.caution):
            self.write(_MARGIN, _MARGIN + 60 + _LINE * i, sentence, color=_CAUTION, weight="bold")

    def colour_bar(self, scale: Scale) -> None:
        """The colours as they lie on mid-grey tissue, with raw values beside them and the range in words below."""
        tall = min(max(self.h, _MIN_HEIGHT) - 4 * _LINE, 300)
        bottom = self.height - self.top - tall - 8
        axes = self.figure.add_axes(
            (self.bar_left / self.width, bottom / self.height, 18 / self.width, tall / self.height)
        )
        axes.imshow(
            scale.on_tissue()[:, None], aspect="auto", origin="lower", extent=(0, 1, 0, 1), interpolation="nearest"
        )
        axes.set_axis_off()
        for share in (0, 0.25, 0.5, 0.75, 1):
            value = scale.low + share * (scale.high - scale.low)
            self.write(self.bar_left + 26, self.top + 8 + tall * (1 - share) + 4, f"{value:.3g} {self.labels.unit}")
        for i, words in enumerate(textwrap.wrap(scale.words, 16, break_on_hyphens=False)):
            self.write(self.bar_left, self.top + tall + 30 + 15 * i, words, color=_FAINT, size=11)

    def foot(self, grid: TileGrid, um_per_px: float) -> None:
        base = self.height - _MARGIN
        bar = scale_bar_um(self.w * um_per_px)
        self.line((self.left, self.left + bar / um_per_px), base - 46, 3)
        self.write(self.left, base - 28, length_text(bar))
        facts = f"{self.labels.encoder} · tile {length_text(grid.span_px * self.labels.mpp)}"
        if grid.stride_px != grid.span_px:
            facts += f", every {length_text(grid.stride_px * self.labels.mpp)}"
        self.write(_MARGIN, base, f"{facts} · research use only", color=_FAINT)

    def png(self) -> bytes:
        stream = io.BytesIO()
        self.figure.savefig(stream, format="png", metadata={"Software": None})
        return stream.getvalue()


def _shortened(text: str, fit: int) -> str:
    """At most `fit` characters, the middle left out: both ends of a slide's name tell it from others."""
    return text if len(text) <= fit else f"{text[: fit // 2]}…{text[-(fit - fit // 2 - 1) :]}"


def _drawable(text: str) -> str:
    """The text on one line, with a mark for each character the figure's typeface lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    return "".join(c if ord(c) in known else "\ufffd" for c in " ".join(text.split()))
