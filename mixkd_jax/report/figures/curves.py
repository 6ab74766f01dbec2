"""Lines with bands: a mean over seeds, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from mixkd_jax.report.intervals import interval


class Band(NamedTuple):
    """A mean and its limits at each of n points, f64[n]; NaN where they are not known."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def over_seeds(
    rows: Sequence[Sequence[float | None]], lowest: float = -np.inf, highest: float = np.inf
) -> Band:
    """Returns the mean over seeds with its 95 % interval (Student's t).

    Args:
      rows: n values of each seed, None where unknown.
      lowest: the least that the quantity can be; limits don't go below.
      highest: the most that it can be.

    Returns:
      A band; of one seed the limits are NaN.
    """
    columns = np.array(rows, float).T
    found = [interval(column, lowest, highest) for column in columns]
    return Band(
        *(np.array([entry[key] for entry in found], float) for key in ("mean", "low", "high"))
    )


def draw(axes: Axes, x: np.ndarray, band: Band, name: str, look: Mapping[str, Any]) -> None:
    """Draws the mean as a line, and the band wherever its limits are known."""
    axes.plot(x, band.mean, label=name, color=look["color"], linestyle=look["linestyle"])
    if np.any(np.isfinite(band.high - band.low)):
        axes.fill_between(x, band.low, band.high, color=look["color"], alpha=0.18, linewidth=0)
