"""Figures of the analysis: between two images, outside the pair, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixkd_jax.report.comparison import at, interval
from mixkd_jax.report.figures import INK, STYLE, arm_styles, legend

# Analyses of one arm's seeds, or of the teacher alone.
Analyses = Mapping[str, Sequence[Mapping[str, Any]]]
_NORMAL = 1.96


class Band(NamedTuple):
    """A mean and its 95 % interval at each of n points; NaN where they are not known."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(statistics: Sequence[Mapping[str, Any]]) -> Band:
    """Over seeds with Student's t, or over the pairs of a single model from its standard errors.

    Args:
      statistics: of each seed, with lists or numbers "mean" and "stderr".
    """
    means = np.array([np.atleast_1d(np.array(s["mean"], float)) for s in statistics])
    if len(means) == 1:
        half = _NORMAL * np.atleast_1d(np.array(statistics[0]["stderr"], float))
        return Band(means[0], means[0] - half, means[0] + half)
    found = [interval(column) for column in means.T]
    return Band(*(np.array([f[key] for f in found], float) for key in ("mean", "low", "high")))


def lambda_curves(analyses: Analyses, measure: str, label: str) -> Figure:
    """A measure in 20 bins of λ, on pairs of test images.

    Args:
      analyses: "teacher" or an arm -> the `analysis.json` of its seeds.
      measure: a name of `vicinity`; models without it are left out.
      label: of the vertical axis, with the unit.
    """
    looks = _looks(analyses)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axes = figure.add_subplot(xlabel="λ, the weight of the first image", ylabel=label)
        for name, seeds in analyses.items():
            found = [at(s, "splits", "test", "mixed", "all", "bins", measure) for s in seeds]
            if not found or None in found:
                continue
            line = band(found)
            x = (np.arange(line.mean.size) + 0.5) / line.mean.size
            look = {key: looks[name][key] for key in ("color", "linestyle")}
            axes.plot(x, line.mean, label=name, **look)
            axes.fill_between(x, line.low, line.high, color=look["color"], alpha=0.18, linewidth=0)
        axes.set_xlim(0, 1)
        legend(figure, axes)
    return figure


def outside_pair(analyses: Analyses) -> Figure:
    """Probability outside the two mixed classes, and whether it follows r; at the peak.

    Test pairs of different classes with λ between 0.45 and 0.55.
    """
    names, looks = list(analyses), _looks(analyses)
    x = np.arange(len(names))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.6), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True)
        mass = {k: _peak(analyses, k) for k in ("outside", "outside_reference")}
        colors = [looks[name]["color"] for name in names]
        reference = mass["outside_reference"].mean
        top.bar(x, mass["outside"].mean, 0.6, color=colors, alpha=0.35, label="p(x̃)")
        _error_bars(top, x, mass["outside"], INK)
        top.hlines(reference, x - 0.3, x + 0.3, color=INK, linewidth=2, label="reference r")
        top.set(ylabel="probability outside the pair")
        top.set_ylim(bottom=0)
        shown = {
            "structure": ("with r", "o"),
            "structure_other": ("r of another pair", "s"),
            "structure_shuffled": ("shuffled", "x"),
        }
        for k, (measure, (label, marker)) in enumerate(shown.items()):
            points, place = _peak(analyses, measure), x + 0.18 * (k - 1)
            below.plot(place, points.mean, marker, color=INK, label=label, markersize=6)
            _error_bars(below, place, points, INK)
        below.axhline(0, color=INK, linewidth=0.8)
        below.set(ylabel="rank correlation outside")
        below.set_xticks(x, names)
        for axes in (top, below):
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1, handlelength=1.2
            )
    return figure


def reliability_intervals(analyses: Sequence[Mapping[str, Any]]) -> Band:
    """Accuracy in each bin with its bootstrap interval, averaged over seeds."""
    diagrams = [analysis["calibration"]["reliability"] for analysis in analyses]
    columns = [np.array([d[key] for d in diagrams], float) for key in ("accuracy", "low", "high")]
    known = ~np.isnan(columns[0])
    number = known.sum(0)
    sums = (np.where(known, column, 0).sum(0) for column in columns)
    return Band(*(np.where(number > 0, total / np.maximum(number, 1), np.nan) for total in sums))


def risk_coverage(analyses: Analyses) -> Figure:
    """Error among the most confident test images, against their share."""
    looks = _looks(analyses)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axes = figure.add_subplot(xlabel="coverage / %", ylabel="error / %")
        for name, seeds in analyses.items():
            curves = [analysis["calibration"]["risk_coverage"] for analysis in seeds]
            x = 100 * np.array(curves[0]["coverage"])
            nothing = [0.0] * len(x)  # one model has no interval: its curve is drawn alone
            line = band([{"mean": curve["risk"], "stderr": nothing} for curve in curves])
            look = {key: looks[name][key] for key in ("color", "linestyle")}
            axes.plot(x, 100 * line.mean, label=name, **look)
            edges = 100 * line.low, 100 * line.high
            axes.fill_between(x, *edges, color=look["color"], alpha=0.18, linewidth=0)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        legend(figure, axes)
    return figure


def corruption(analyses: Analyses) -> Figure:
    """Accuracy and overconfidence over the severity of corruptions, averaged over these."""
    looks = _looks(analyses)
    labels = {"accuracy": "accuracy / %", "overconfidence": "confidence - accuracy / %"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 5.0), layout="constrained")
        rows = figure.subplots(2, 1, sharex=True)
        for axes, (score, label) in zip(rows, labels.items(), strict=True):
            for name, seeds in analyses.items():
                found = [at(s, "corruption", "scores", "mean", score) for s in seeds]
                if None in found:
                    continue
                line = band([{"mean": f, "stderr": [0.0] * len(f)} for f in found])
                x, look = np.arange(line.mean.size), looks[name]
                drawing = {key: look[key] for key in ("color", "linestyle", "marker")}
                axes.plot(x, 100 * line.mean, label=name, markersize=4, **drawing)
                edges = 100 * line.low, 100 * line.high
                axes.fill_between(x, *edges, color=look["color"], alpha=0.18, linewidth=0)
            axes.set(ylabel=label)
        rows[1].axhline(0, color=INK, linewidth=0.8)
        rows[1].set(xlabel="severity of corruption (0: none)")
        legend(figure, rows[1])
    return figure


def _peak(analyses: Analyses, measure: str) -> Band:
    """A measure of every model on test pairs of different classes at the peak."""
    bands = []
    for seeds in analyses.values():
        found = [s["splits"]["test"]["mixed"]["different"]["peak"][measure] for s in seeds]
        bands.append(band(found))
    return Band(*(np.concatenate(part) for part in zip(*bands, strict=True)))


def _error_bars(axes: Axes, x: np.ndarray, values: Band, color: str) -> None:
    axes.vlines(x, values.low, values.high, color=color, linewidth=1.2)


def _looks(analyses: Analyses) -> dict[str, Any]:
    arms = arm_styles([name for name in analyses if name != "teacher"])
    return {"teacher": {"color": INK, "linestyle": "solid", "marker": "*"}, **arms}
