"""Figures of one run, one panel each, in one style: colour-blind-safe and legible in grey.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so nothing global is
left behind. `svg` turns one into text for an HTML page.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mixkd_jax.report.run_folder import STANDARD_ARMS
from mixkd_jax.files import write_bytes

# Axes, text and the teacher are drawn in this colour; a page replaces it by its own text colour.
INK = "#1a1a19"
# Okabe and Ito (2008) without black and yellow; markers and dashes tell the arms apart in grey.
# The lengths have no common factor, so no two of the first 210 arms look the same.
_COLORS = ("#d55e00", "#e69f00", "#56b4e9", "#0072b2", "#009e73", "#cc79a7")
_MARKERS = ("s", "^", "D", "o", "v", "P", "X")
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), "solid", (0, (9, 3)))
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so the layout is the same anywhere
    "font.size": 9.5,
    "grid.alpha": 0.35,
    "grid.color": "#8a8a85",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "mixkd_jax",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_POINTS = 150


class Curve(NamedTuple):
    """A logged quantity against epochs, over seeds: float64 arrays of one length.

    NaN marks a point where a seed's value is not finite.
    """

    epoch: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def arm_styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each arm; the standard arms look the same in every report."""
    others = [arm for arm in arms if arm not in STANDARD_ARMS]
    order = [*STANDARD_ARMS, *others]
    place = {arm: order.index(arm) for arm in arms}
    return {
        arm: {
            "color": _COLORS[i % len(_COLORS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "marker": _MARKERS[i % len(_MARKERS)],
        }
        for arm, i in place.items()
    }


def merge_bins(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Sums the calibration bins of several evaluations.

    Args:
      evaluations: contents of `evaluation.json` files; "bins" holds three lists of one length.

    Returns:
      "count", "confidence" and "correct", float64[bins]: sums over the examples in each bin.
    """
    keys = ("count", "confidence", "correct")
    return {k: np.sum([np.asarray(e["bins"][k], float) for e in evaluations], 0) for k in keys}


def curve(logs: Sequence[Sequence[Mapping[str, Any]]], name: str, points: int = _POINTS) -> Curve:
    """Mean and range over seeds of the logged quantity `name`.

    Args:
      logs: the records of one run a seed.
      name: key of the quantity; records without it or without an "epoch" are left out.
      points: at most this many; neighbouring epochs are averaged, within each seed first.

    Returns:
      The curve; empty arrays if no record has `name`. Where seeds have come to different epochs,
      each point is over the seeds that have come so far.
    """
    wanted = {"epoch", name}
    seeds = [[(r["epoch"], r[name]) for r in log if wanted <= r.keys()] for log in logs]
    epochs = np.unique([epoch for seed in seeds for epoch, _ in seed])
    if epochs.size == 0:
        return Curve(*np.zeros((4, 0)))
    group = np.arange(epochs.size) // -(-epochs.size // points)
    counts, means = [], []
    for seed in filter(None, seeds):
        table = np.asarray(seed, float)  # None, which strict JSON has for NaN, becomes NaN
        values = np.where(np.isfinite(table[:, 1]), table[:, 1], np.nan)
        index = group[np.searchsorted(epochs, table[:, 0])]
        counts.append(np.bincount(index, minlength=group[-1] + 1))
        total = np.bincount(index, values, minlength=group[-1] + 1)
        means.append(total / np.maximum(counts[-1], 1))
    present, stack = np.asarray(counts) > 0, np.asarray(means)
    return Curve(
        epoch=np.bincount(group, epochs) / np.bincount(group),
        mean=np.sum(stack, 0, where=present) / present.sum(0),
        low=np.min(stack, 0, where=present, initial=np.inf),
        high=np.max(stack, 0, where=present, initial=-np.inf),
    )


def training_curves(
    arms: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], name: str, label: str, log: bool
) -> Figure:
    """One line an arm, the mean over seeds, with a band from the lowest to the highest seed.

    Args:
      arms: arm (or "teacher") -> the records of each seed.
      name: logged quantity.
      label: label of the vertical axis, with the unit.
      log: whether the vertical axis is logarithmic; it is linear if no value is positive.
    """
    styles = arm_styles([arm for arm in arms if arm != "teacher"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel=label)
        lines = {arm: curve(logs, name) for arm, logs in arms.items()}
        for arm, line in lines.items():
            style = styles.get(arm, {})
            color, dash = style.get("color", INK), style.get("linestyle", "solid")
            axes.plot(line.epoch, line.mean, label=arm, color=color, linestyle=dash)
            axes.fill_between(line.epoch, line.low, line.high, color=color, alpha=0.18, linewidth=0)
        axes.set_xlim(left=0)
        if log and any(np.any(line.mean > 0) for line in lines.values()):
            log_axis(axes)
        elif not log:
            axes.set_ylim(0, 1.02)
        legend(figure, axes)
    return figure


def log_axis(axes: Axes) -> None:
    """Plain numbers (0.05, not a power of ten), readable at once and in any font."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, where it hides no data, in as few rows as the figure's width allows."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    width = figure.get_figwidth() * 72
    fitting = (n for n in range(len(labels), 1, -1) if _legend_width(labels, n) <= width)
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=next(fitting, 1),
        columnspacing=1.0,
        handlelength=2.2,
    )


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """Estimate in points: 6 a character, 40 for a column's line and spaces."""
    rows = -(-len(labels) // columns)
    starts = range(0, len(labels), rows)
    return sum(40 + 6 * max(map(len, labels[i : i + rows])) for i in starts)


def reliability(
    bins: Mapping[str, np.ndarray],
    name: str,
    style: Mapping[str, Any],
    limits: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """Accuracy against confidence in each bin, above the share of examples in the bin.

    Args:
      bins: sums as `merge_bins` returns.
      name: title.
      style: the arm's look as `arm_styles` returns; empty for the teacher.
      limits: lowest and highest accuracy of each bin, to be drawn as intervals.
    """
    count = bins["count"]
    used = count > 0
    edges = np.linspace(0, 1, count.size + 1)
    confidence, accuracy = (bins[k][used] / count[used] for k in ("confidence", "correct"))
    color = style.get("color", INK)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9, 3.5), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 1], [0, 1], color=INK, linestyle=(0, (2, 2)), linewidth=1)
        top.bar(edges[:-1][used], accuracy, 1 / count.size, align="edge", color=color, alpha=0.25)
        top.plot(confidence, accuracy, color=color, marker=style.get("marker", "*"), markersize=5)
        if limits is not None:
            low, high = (limit[used] for limit in limits)
            top.vlines(confidence, low, high, color=color, linewidth=1.2)
        top.set(ylabel="accuracy", title=name, xlim=(0, 1), ylim=(0, 1.02))
        share = count / max(count.sum(), 1)
        below.bar(edges[:-1], share, 1 / count.size, align="edge", color=color, alpha=0.6)
        below.set(xlabel="confidence", ylabel="share")
        below.yaxis.set_major_locator(MaxNLocator(3))
    return figure


def accuracy_and_ece(results: Mapping[str, Any]) -> Figure:
    """Each seed's accuracy and ECE, and each arm's mean; the teacher where it is known.

    Args:
      results: what `results.collect` returns.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel="accuracy / %", ylabel="ECE / %")
        for arm, look in arm_styles(list(results["arms"])).items():
            points = [results["arms"][arm].get(k) for k in ("accuracy", "ece")]
            if None in points or any(point["mean"] is None for point in points):
                continue
            drawing = {"color": look["color"], "marker": look["marker"], "linestyle": "none"}
            x, y = (100 * np.asarray(point["values"]) for point in points)
            axes.plot(x, y, markersize=4, alpha=0.55, **drawing)
            means = [100 * point["mean"] for point in points]
            axes.plot(*means, markersize=9, markeredgecolor=INK, label=arm, **drawing)
        teacher = [results["teacher"].get(k) for k in ("accuracy", "ece")]
        if None not in teacher:
            x, y = (100 * value for value in teacher)
            axes.plot(x, y, "*", color=INK, markersize=12, label="teacher")
        axes.set_ylim(bottom=0)
        legend(figure, axes)
    return figure


def save(figure: Figure, path: epath.Path) -> None:
    """Writes `path`.png and `path`.pdf for a paper: white ground, bytes that depend on it alone."""
    png, pdf = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42, "savefig.facecolor": "white"}):
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        dates = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        figure.savefig(pdf, format="pdf", metadata=dates)
    write_bytes(path.with_suffix(".png"), png.getvalue())
    write_bytes(path.with_suffix(".pdf"), pdf.getvalue())


def svg(figure: Figure, prefix: str, description: str) -> str:
    """An `<svg>` element for an HTML page: scales with it, and takes its text colour for the ink.

    Args:
      figure: any figure of this module.
      prefix: put before every id, so that several figures can share a page.
      description: what a screen reader says.

    Returns:
      Text that depends on the figure alone: no date, no random ids.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    view = re.findall(r'viewBox="[^"]*"', text)[0]
    body = text[text.index(">", text.index("<svg")) + 1 :].strip()
    body = re.sub(r' id="', f' id="{prefix}-', body.replace(INK, "currentColor"))
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", body)
    body = body.replace(">*{", f">#{prefix}-figure_1 *{{")  # or it would style the whole page
    # The namespaces are names, never fetched; matplotlib writes xlink:href for its markers.
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} {view} role="img" aria-label="{html.escape(description)}">{body}'
