"""Plots of how good a head is, as matplotlib figures: for files and, as SVG, for pages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from heads.evaluation import Answers
from heads.metrics import curves
from heads.metrics.calibration import reliability_curve
from heads.metrics.survival import cumulative_dynamic_auc
from heads.targets import as_pairs
from heads.tasks import Biomarker, Classification, DiscreteHazard, Regression, Survival

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("roc", "precision-recall", "reliability", "scatter", "kaplan-meier", "auc-over-time")
COLOURS = ("#0b5394", "#b45f06", "#38761d", "#741b47", "#666666", "#1f9e9e", "#a61c00", "#bf9000")


def plots(answers: Answers, high_risk: NDArray[np.bool_] | None) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of all that goes with the task. `high_risk` (n,) splits the patients for Kaplan-Meier curves."""
    task = answers.task
    if isinstance(task, Classification):
        y = np.eye(len(task.classes))[task.rows(answers.targets).numpy()]
        names = [f"class {c}" if str(c).isdigit() else str(c) for c in task.classes]
        # Of two classes one curve says all.
        shown = [1] if len(names) == 2 else list(range(len(names)))
        yield from _binary([names[i] for i in shown], y[:, shown], answers.values[:, shown])
    elif isinstance(task, Biomarker):
        yield from _binary(list(task.names), task.rows(answers.targets).numpy().astype(float), answers.values)
    elif isinstance(task, Regression):
        yield "scatter", _scatter(np.asarray(answers.targets, dtype=float), answers.values[:, 0])
    elif isinstance(task, Survival | DiscreteHazard):
        yield from _survival(answers, high_risk)


def _binary(names: list[str], y: NDArray[Any], p: NDArray[Any]) -> Iterator[tuple[str, Figure]]:
    from sklearn.metrics import auc, precision_recall_curve, roc_curve

    figures = {kind: _figure() for kind in ("roc", "precision-recall", "reliability")}
    for i, name in enumerate(names):
        known = ~np.isnan(y[:, i])
        truth, scores = y[known, i], p[known, i]
        if len(set(truth.tolist())) < 2:
            continue
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.6}
        x, t, _ = roc_curve(truth, scores)
        figures["roc"][1].plot(x, t, label=f"{name}, area {auc(x, t):.3f}", **style)
        precision, recall, _ = precision_recall_curve(truth, scores)
        figures["precision-recall"][1].step(
            recall, precision, where="post", label=f"{name}, {truth.mean():.0%} positive", **style
        )
        said, seen, count = reliability_curve(scores, truth, bins=10)
        figures["reliability"][1].plot(said[count > 0], seen[count > 0], marker="o", markersize=4, label=name, **style)
    _finish(figures["roc"][1], "false positive rate", "true positive rate", diagonal=True)
    _finish(figures["precision-recall"][1], "recall", "precision")
    _finish(figures["reliability"][1], "probability said", "share that is so", diagonal=True)
    yield from ((kind, figure) for kind, (figure, _) in figures.items())


def _survival(answers: Answers, high: NDArray[np.bool_] | None) -> Iterator[tuple[str, Figure]]:
    time, event = as_pairs(answers.targets)[0].T
    if high is not None and high.any() and not high.all():
        yield "kaplan-meier", _kaplan_meier(time, event, high)
    if answers.times is not None and len(answers.times) > 1:
        figure, axes = _figure()
        for fold in range(answers.k):
            here = answers.folds == fold
            each, _ = cumulative_dynamic_auc(
                *answers.training[fold], time[here], event[here], answers.values[here, 0], answers.times
            )
            axes.plot(answers.times, each, color=COLOURS[fold % len(COLOURS)], linewidth=1.4, label=f"fold {fold + 1}")
        axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle="--")
        _finish(axes, "time", "AUC of the risk at that time", unit=False)
        axes.set_ylim(0, 1)
        yield "auc-over-time", figure


def _kaplan_meier(time: NDArray[Any], event: NDArray[Any], high: NDArray[np.bool_]) -> Figure:
    """Two groups, cut at each fold's median training risk, with numbers at risk and the log-rank test."""
    figure, axes = _figure(height=4.6)
    ticks = np.linspace(0, time.max(), 6)
    for row, (name, rows) in enumerate((("low risk", ~high), ("high risk", high))):
        km = curves.kaplan_meier(time[rows], event[rows])
        axes.step(km.times, km.survival, where="post", color=COLOURS[row], linewidth=1.6, label=f"{name}, {rows.sum()}")
        axes.fill_between(km.times, km.low, km.high, step="post", color=COLOURS[row], alpha=0.15, linewidth=0)
        censored = time[rows & (event == 0)]
        at = np.searchsorted(km.times, censored, "right") - 1
        axes.plot(censored, km.survival[np.maximum(at, 0)], "|", color=COLOURS[row], markersize=5)
        for tick in ticks:
            axes.text(tick, -0.2 - 0.06 * row, str(int((time[rows] >= tick).sum())), color=COLOURS[row], ha="center",
                      fontsize=7, transform=axes.get_xaxis_transform())  # fmt: skip
    test = curves.logrank(time, event, high.astype(int))
    _finish(axes, "time; below: numbers at risk", "share without event", unit=False)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(ticks)
    axes.set_xticklabels([f"{t:.3g}" for t in ticks])
    axes.set_title(f"log-rank p = {test.p:.2g}", fontsize=9, loc="left")
    figure.subplots_adjust(bottom=0.26)
    return figure


def _scatter(y: NDArray[Any], said: NDArray[Any]) -> Figure:
    figure, axes = _figure()
    axes.plot(y, said, "o", markersize=3, alpha=0.6, color=COLOURS[0])
    ends = [min(y.min(), said.min()), max(y.max(), said.max())]
    axes.plot(ends, ends, color="#999999", linewidth=0.8, linestyle="--")
    _finish(axes, "truth", "predicted", unit=False, legend=False)
    return figure


def _figure(height: float = 4.0) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.14, right=0.97, top=0.93, bottom=0.14)
    return figure, axes


def _finish(axes: Axes, x: str, y: str, *, diagonal: bool = False, unit: bool = True, legend: bool = True) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if unit:
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    if legend:
        axes.legend(fontsize=8, frameon=False)


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def svg(figure: Figure) -> str:
    """The same bytes for the same figure: no date, no random names."""
    from matplotlib import rc_context

    stream = io.StringIO()
    with rc_context({"svg.hashsalt": "wsi", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
