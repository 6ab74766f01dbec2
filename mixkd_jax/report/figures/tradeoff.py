"""Figures of accuracy and calibration together: of all arms, and over a temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixkd_jax.folder import TEACHER
from mixkd_jax.report import sweeps
from mixkd_jax.report.figures import fonts, style
from mixkd_jax.report.quantities import METRICS
from mixkd_jax.report.sweeps import Sweep
from mixkd_jax.report.teachers import Point

_FAR = 8.0  # so many times one ECE, another makes a linear axis useless
# Labels of neighbouring points go to different sides.
_BESIDE = (
    {"xytext": (4, 4)},
    {"xytext": (4, -4), "va": "top"},
    {"xytext": (-4, 4), "ha": "right"},
    {"xytext": (-4, -4), "va": "top", "ha": "right"},
)


def accuracy_and_ece(results: Mapping[str, Any]) -> Figure:
    """Each seed's accuracy and ECE, and each arm's mean; the teacher where it is known.

    Of very many arms the means alone are shown, and those with options have numbers, which are told
    below. Where some ECE is many times another, the axis is logarithmic.

    Args:
      results: what `results.collect` returns.
    """
    arms = list(results["arms"])
    named, looks = style.drawn(arms), style.looks(arms)
    others = [arm for arm in arms if arm not in named]
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(height=2.6 + 0.12 * -(-len(others) // style.KEY_COLUMNS))
        axes = figure.add_subplot(xlabel="accuracy / %", ylabel="ECE / %")
        numbered = {}
        for arm in (*others, *named):  # those with a name on top
            metrics = [results["arms"][arm].get(name) for name in ("accuracy", "ece")]
            if None in metrics or any(metric["mean"] is None for metric in metrics):
                continue
            look: dict[str, Any] = {key: looks[arm][key] for key in ("color", "marker")}
            look["linestyle"] = "none"
            if not others:
                x, y = (100 * np.asarray(metric["values"]) for metric in metrics)
                axes.plot(x, y, markersize=2.5, alpha=0.55, **look)
            shown: dict[str, Any] = {"label": arm, "markersize": 6.5}
            shown = shown if arm in named else {"markersize": 4}
            x, y = (100 * metric["mean"] for metric in metrics)
            look |= {"markeredgecolor": style.INK, "markeredgewidth": 0.6}
            (point,) = axes.plot(x, y, **shown, **look)
            if arm in others:
                number = str(len(numbered) + 1)
                numbered[f"{number}  {arm}"] = point
                place = {"textcoords": "offset points", "fontsize": 6, **_BESIDE[0]}
                axes.annotate(number, (x, y), **place)
        teacher = [results["teacher"].get(name) for name in ("accuracy", "ece")]
        if None not in teacher:
            x, y = (100 * value for value in teacher)
            axes.plot(x, y, "*", color=style.INK, markersize=9, label=TEACHER)
        drawn = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata(), float)]
        drawn = [y for y in drawn if np.isfinite(y)]
        if drawn and 0 < _FAR * min(drawn) < max(drawn):
            style.log_axis(axes)
        else:
            axes.set_ylim(bottom=0)
        style.legend(figure, axes)
        style.key(figure, numbered)
    return figure


def over_temperature(sweep: Sweep) -> Figure:
    """Accuracy and ECE over the temperature, with 95 % intervals over seeds."""
    values = sweep.values()
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(height=3.6)
        top, below = figure.subplots(2, 1, sharex=True)
        for axes, metric in ((top, "accuracy"), (below, "ece")):
            looks = style.looks(list(sweep.students))
            for k, base in enumerate(sweep.students):
                found = sweep.intervals(base, metric)
                x = np.array([values.index(value) for value in found]) + 0.12 * (k - 0.5)
                mean, low, high = _columns(found.values(), metric)
                look = {key: looks[base][key] for key in ("color", "marker")}
                axes.vlines(x, low, high, color=look["color"], linewidth=1)
                axes.plot(x, mean, label=base, linestyle="none", markersize=5, **look)
        top.set(ylabel="accuracy / %")
        below.set(ylabel="ECE / %", xlabel="temperature T")
        below.set_ylim(bottom=0)
        below.set_xticks(np.arange(len(values)), [_text(value) for value in values])
        style.legend(figure, top)
    return figure


def trade(sweep: Sweep) -> Figure:
    """ECE against accuracy along the temperature: the path of kd and that of mixkd.

    Crosses are 95 % intervals over seeds; numbers along the path are temperatures. What is none
    ("std") is left out: it may lie far from all others.
    """
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(height=3.0)
        axes = figure.add_subplot(xlabel="accuracy / %", ylabel="ECE / %")
        looks = style.looks(list(sweep.students))
        for base, look in ((base, looks[base]) for base in sweep.students):
            accuracy, ece = (
                {T: at for T, at in sweep.intervals(base, name).items() if not isinstance(T, str)}
                for name in ("accuracy", "ece")
            )
            x, x_low, x_high = _columns(accuracy.values(), "accuracy")
            y, y_low, y_high = _columns(ece.values(), "ece")
            axes.hlines(y, x_low, x_high, color=look["color"], linewidth=0.8, alpha=0.6)
            axes.vlines(x, y_low, y_high, color=look["color"], linewidth=0.8, alpha=0.6)
            drawing = {key: look[key] for key in ("color", "marker", "linestyle")}
            axes.plot(x, y, label=base, markersize=5, **drawing)
            _annotate(axes, x, y, [_text(value) for value in accuracy])
        axes.set_ylim(bottom=0)
        axes.margins(x=0.1)
        style.legend(figure, axes)
    return figure


def transfer(sweep: Sweep) -> Figure:
    """Confidence minus accuracy of students against that of the teacher that each learned from.

    Vertical lines are 95 % intervals over seeds; on the dashed line a student is as overconfident
    as its teacher.
    """
    with matplotlib.rc_context(style.STYLE):
        figure, axes = _gaps()
        looks, ends = style.looks(list(sweep.students)), []
        for base in sweep.students:
            found = sweep.intervals(base, "overconfidence")
            x = [_teacher_gap(sweep, base, value) for value in found]
            mean, low, high = _columns(found.values(), "overconfidence")
            look = looks[base]
            axes.vlines(x, low, high, color=look["color"], linewidth=1)
            drawing = {key: look[key] for key in ("color", "marker", "linestyle")}
            axes.plot(x, mean, label=base, markersize=5, **drawing)
            if base == list(sweep.students)[-1]:
                _annotate(axes, np.array(x), mean, [_text(value) for value in found])
            ends += x
        _diagonal(axes, ends)
        style.legend(figure, axes)
    return figure


def overconfidence_of_teachers(points: Mapping[str, Sequence[Point]]) -> Figure:
    """Confidence minus accuracy of the students of several runs against that of their teachers.

    Args:
      points: by arm, of runs whose teacher is known.
    """
    with matplotlib.rc_context(style.STYLE):
        figure, axes = _gaps()
        looks, ends = style.looks(list(points)), []
        for arm, known in points.items():
            x = [100 * (p.teacher_overconfidence or 0) for p in known]
            y = [100 * p.overconfidence for p in known]
            look = {key: looks[arm][key] for key in ("color", "marker")}
            axes.plot(x, y, label=arm, linestyle="none", markersize=5, **look)
            ends += x
        _diagonal(axes, ends)
        style.legend(figure, axes)
    return figure


def arms_of_runs(points: Mapping[str, Sequence[Point]]) -> Figure:
    """Mean accuracy and ECE of the arms of several runs; kd and mixkd are called by their runs.

    Args:
      points: by arm.
    """
    named = style.drawn(list(points))
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(height=3.0)
        axes = figure.add_subplot(xlabel="accuracy / %", ylabel="ECE / %")
        looks = style.looks(list(points))
        for arm in named:
            x, y = (
                100 * np.array([getattr(p, key) for p in points[arm]])
                for key in ("accuracy", "ece")
            )
            look = {key: looks[arm][key] for key in ("color", "marker")}
            axes.plot(x, y, label=arm, linestyle="none", markersize=5, **look)
            if arm in sweeps.DISTILLED:
                _annotate(axes, x, y, [fonts.drawable(point.run) for point in points[arm]])
        style.log_axis(axes)
        axes.margins(x=0.12, y=0.12)
        style.legend(figure, axes)
    return figure


def _columns(found: Any, metric: str) -> tuple[np.ndarray, ...]:
    """Means and limits of intervals, as they are shown."""
    rows = list(found)
    columns = (np.array([row[key] for row in rows], float) for key in ("mean", "low", "high"))
    return tuple(METRICS[metric].scale * column for column in columns)


def _teacher_gap(sweep: Sweep, base: str, value: sweeps.Value) -> float:
    evaluations = sweep.students[base][value].values()
    gaps = [sweeps.at(evaluation, "teacher", "overconfidence") for evaluation in evaluations]
    known = [gap for gap in gaps if gap is not None]
    return 100 * float(np.mean(known)) if known else float("nan")


def _gaps() -> tuple[Figure, Axes]:
    figure = style.create(height=3.0)
    label = "confidence - accuracy / %"
    return figure, figure.add_subplot(xlabel=f"teacher: {label}", ylabel=f"student: {label}")


def _diagonal(axes: Axes, ends: Sequence[float]) -> None:
    known = [end for end in ends if np.isfinite(end)]
    if known:
        limits = [min(known), max(known)]
        axes.plot(limits, limits, color=style.INK, linestyle=(0, (2, 2)), linewidth=0.9)


def _annotate(axes: Axes, x: np.ndarray, y: np.ndarray, texts: Sequence[str]) -> None:
    for k, text in enumerate(texts):
        if np.isfinite(x[k]) and np.isfinite(y[k]):
            beside = {"textcoords": "offset points", "fontsize": 7, **_BESIDE[k % 4]}
            axes.annotate(text, (x[k], y[k]), **beside)


def _text(value: sweeps.Value) -> str:
    return fonts.drawable(value) if isinstance(value, str) else f"{value:g}"
