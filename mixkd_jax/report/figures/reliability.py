"""Figures of calibration: reliability diagrams, risk against coverage, corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixkd_jax.report.figures import fonts, style
from mixkd_jax.report.figures.curves import Band, draw, over_seeds
from mixkd_jax.report.intervals import at

Contents = Mapping[str, Sequence[Mapping[str, Any]]]  # model -> one seed's file each


class Diagram(NamedTuple):
    """What a reliability diagram shows of one model.

    Attributes:
      bins: "count", "confidence" and "correct", f64[bins]: sums over the examples in each bin.
      limits: lowest and highest accuracy of each bin, f64[bins] each; None where unknown.
    """

    bins: dict[str, np.ndarray]
    limits: tuple[np.ndarray, np.ndarray] | None


def diagram(
    evaluations: Sequence[Mapping[str, Any]], analyses: Sequence[Mapping[str, Any]]
) -> Diagram:
    """Adds up the bins of a model's seeds.

    Args:
      evaluations: contents of `evaluation.json`.
      analyses: contents of `analysis.json`, whose bootstrap intervals are averaged over seeds;
        there may be none.
    """
    keys = ("count", "confidence", "correct")
    bins = {k: np.sum([np.asarray(e["bins"][k], float) for e in evaluations], 0) for k in keys}
    found = bootstrap_limits(analyses) if analyses else None
    same = found is not None and found[0].size == bins["count"].size
    return Diagram(bins, found if same else None)


def bootstrap_limits(analyses: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % bootstrap intervals, averaged over the seeds that have a bin."""
    tables = [analysis["calibration"]["reliability"] for analysis in analyses]
    low, high = (np.array([table[key] for table in tables], float) for key in ("low", "high"))
    number = np.sum(~np.isnan(low), 0)
    ends = (np.nansum(end, 0) / np.maximum(number, 1) for end in (low, high))
    low, high = (np.where(number > 0, end, np.nan) for end in ends)
    return low, high


def diagrams(models: Mapping[str, Diagram], looks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Reliability diagrams side by side: accuracy against confidence, above the share of examples.

    Args:
      models: what to show of each, at most two for a column's width.
      looks: as `style.looks` returns them.
    """
    width = style.WIDTH if len(models) > 1 else style.WIDTH / 2
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(width, 2.6)
        axes = figure.subplots(
            2, len(models), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False
        )
        for column, (name, shown) in enumerate(models.items()):
            _draw_diagram(axes[0, column], axes[1, column], shown, looks[name])
            axes[0, column].set_title(fonts.drawable(name))
        axes[0, 0].set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        axes[0, 0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes[1, 0].set(ylabel="share")
        axes[1, 0].yaxis.set_major_locator(MaxNLocator(3))
    return figure


def _draw_diagram(top: Axes, below: Axes, shown: Diagram, look: Mapping[str, Any]) -> None:
    count = shown.bins["count"]
    used = count > 0
    edges = np.linspace(0, 1, count.size + 1)
    confidence, accuracy = (shown.bins[k][used] / count[used] for k in ("confidence", "correct"))
    color = look["color"]
    top.plot([0, 1], [0, 1], color=style.INK, linestyle=(0, (2, 2)), linewidth=0.9)
    top.bar(edges[:-1][used], accuracy, 1 / count.size, align="edge", color=color, alpha=0.25)
    top.plot(confidence, accuracy, color=color, marker=look["marker"], markersize=3.5)
    if shown.limits is not None:
        low, high = (limit[used] for limit in shown.limits)
        top.vlines(confidence, low, high, color=color, linewidth=1)
    below.bar(edges[:-1], count / max(count.sum(), 1), 1 / count.size, align="edge", color=color)
    below.set(xlabel="confidence")


def risk_coverage(analyses: Contents) -> Figure:
    """Error among the most confident test images, against their share."""
    looks = style.looks(list(analyses))
    with matplotlib.rc_context(style.STYLE):
        figure = style.create()
        axes = figure.add_subplot(xlabel="coverage / %", ylabel="error / %")
        for name, seeds in analyses.items():
            curves = [analysis["calibration"]["risk_coverage"] for analysis in seeds]
            band = over_seeds([curve["risk"] for curve in curves], 0, 1)
            x = 100 * np.array(curves[0]["coverage"], float)
            draw(axes, x, Band(*(100 * part for part in band)), name, looks[name])
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        style.legend(figure, axes)
    return figure


def corruption(analyses: Contents) -> Figure:
    """Accuracy and overconfidence over the severity of corruptions, averaged over these."""
    looks = style.looks(list(analyses))
    panels = {
        "accuracy": ("accuracy / %", 0),
        "overconfidence": ("confidence - accuracy / %", -1),
    }
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(height=4.0)
        rows = figure.subplots(2, 1, sharex=True)
        for axes, (score, (label, lowest)) in zip(rows, panels.items(), strict=True):
            for name, seeds in analyses.items():
                found = [at(seed, "corruption", "scores", "mean", score) for seed in seeds]
                if None in found:
                    continue
                band = over_seeds(found, lowest, 1)
                scaled = Band(*(100 * part for part in band))
                draw(axes, np.arange(band.mean.size), scaled, name, looks[name])
            axes.set(ylabel=label)
        rows[1].axhline(0, color=style.INK, linewidth=0.7)
        rows[1].set(xlabel="severity of corruption (0: none)")
        style.legend(figure, rows[0])
    return figure
