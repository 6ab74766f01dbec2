"""Learning curves: what was logged while training, over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mixkd_jax.report.figures import style
from mixkd_jax.report.figures.curves import Band, draw

Logs = Sequence[Sequence[Mapping[str, Any]]]  # the lines of each seed
_POINTS = 150


def curve(logs: Logs, name: str, points: int = _POINTS) -> tuple[np.ndarray, Band]:
    """Returns the mean and range over seeds of a logged quantity.

    Args:
      logs: the lines of `metrics.jsonl` of one model a seed.
      name: key of the quantity; lines without it or without an "epoch" are left out.
      points: at most this many; neighbouring epochs are averaged, within each seed first.

    Returns:
      Epochs f64[n], and the mean with the lowest and highest seed; n = 0 if no line has `name`.
      Where seeds have come to different epochs, each point is over the seeds that have come so
      far; where there is but one, the limits are NaN, and all is where a value is not finite.
    """
    seeds = [
        [
            (line["epoch"], line[name])
            for line in log
            if name in line and line.get("epoch") is not None
        ]
        for log in logs
    ]
    epochs = np.unique([epoch for seed in seeds for epoch, _ in seed])
    if epochs.size == 0:
        return np.zeros(0), Band(*np.zeros((3, 0)))
    group = np.arange(epochs.size) // -(-epochs.size // points)
    counts, means = [], []
    for seed in filter(None, seeds):
        table = np.asarray(seed, float)  # None becomes NaN
        index = group[np.searchsorted(epochs, table[:, 0])]
        counts.append(np.bincount(index, minlength=group[-1] + 1))
        values = np.where(np.isfinite(table[:, 1]), table[:, 1], np.nan)
        total = np.bincount(index, values, minlength=group[-1] + 1)
        means.append(total / np.maximum(counts[-1], 1))
    present, stack = np.asarray(counts) > 0, np.asarray(means)
    several = present.sum(0) > 1
    low = np.min(stack, 0, where=present, initial=np.inf)
    high = np.max(stack, 0, where=present, initial=-np.inf)
    mean = np.sum(stack, 0, where=present) / present.sum(0)
    band = Band(mean, np.where(several, low, np.nan), np.where(several, high, np.nan))
    return np.bincount(group, epochs) / np.bincount(group), band


def has(logs: Mapping[str, Logs], name: str) -> bool:
    """Whether any line has a quantity."""
    return any(name in line for seeds in logs.values() for log in seeds for line in log)


def learning_curves(models: Mapping[str, Logs], name: str, label: str, *, log: bool) -> Figure:
    """One line an arm, the mean over seeds, with a band from the lowest to the highest seed.

    Args:
      models: arm (or "teacher") -> the lines of each seed.
      name: logged quantity.
      label: of the vertical axis, with the unit.
      log: whether the vertical axis is logarithmic; it is linear if no value is positive. If not,
        the quantity is a share, shown in %.
    """
    looks = style.looks(list(models))
    with matplotlib.rc_context(style.STYLE):
        figure = style.create()
        axes = figure.add_subplot(xlabel="epoch", ylabel=label)
        positive = False
        for model, logs in models.items():
            epochs, band = curve(logs, name)
            scaled = Band(*(part * (1 if log else 100) for part in band))
            draw(axes, epochs, scaled, model, looks[model])
            positive |= bool(np.any(band.mean > 0))
        axes.set_xlim(left=0)
        if log and positive:
            style.log_axis(axes)
            axes.set_ylabel(f"{label}, logarithmic")
        elif not log:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0), min(high, 102))
        style.legend(figure, axes)
    return figure
