"""Means over seeds and paired differences between arms, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mixkd_jax.report.quantities import METRICS
from mixkd_jax.report.records import Records, base

LEVEL = 0.95


def interval(
    values: Iterable[float], lowest: float = -np.inf, highest: float = np.inf
) -> dict[str, Any]:
    """Returns the mean over seeds, its 95 % confidence interval (Student's t), and the spread.

    Args:
      values: one a seed.
      lowest: the least that the quantity can be; the interval doesn't go below.
      highest: the most that it can be.

    Returns:
      "mean", "std" (sample standard deviation), "low", "high" and "seeds"; std, low and high are
      None for fewer than two seeds, the mean is None for none.
    """
    x = np.asarray(list(values), float)
    found = {"mean": float(x.mean()) if len(x) else None, "std": None, "low": None, "high": None}
    if len(x) > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * stats.sem(x))
        found |= {
            "std": float(x.std(ddof=1)),
            "low": max(found["mean"] - half, lowest),
            "high": min(found["mean"] + half, highest),
        }
    return {**found, "seeds": len(x)}


def metric_values(records: Records, arm: str, metric: str) -> dict[int, float]:
    """Returns the known values of a metric by seed; of one that should be near 0, their sizes."""
    values = signed_values(records, arm, metric)
    if METRICS[metric].better == "zero":
        return {seed: abs(value) for seed, value in values.items()}
    return values


def signed_values(records: Records, arm: str, metric: str) -> dict[int, float]:
    """Returns the known values of a metric by seed, with their signs."""
    return _known(records.of_arm(records.evaluations, arm), "metrics", metric)


def analysis_values(records: Records, arm: str, *path: str) -> dict[int, float]:
    """Returns the known numbers at `path` of each seed's `analysis.json`."""
    return _known(records.of_arm(records.analyses, arm), *path)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """Returns ours minus theirs of the seeds that both have."""
    return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], better: str
) -> dict[str, Any]:
    """Compares two sides seed by seed.

    Args:
      ours: a value for each seed.
      theirs: likewise; seeds that only one side has are left out.
      better: "higher" or "lower".

    Returns:
      What `interval` does of ours minus theirs, and "won": the seeds in which ours is better.
    """
    gaps = paired(ours, theirs).values()
    sign = 1 if better == "higher" else -1
    return {**interval(gaps), "won": sum(sign * gap > 0 for gap in gaps)}


def pairs(arms: list[str]) -> list[tuple[str, str]]:
    """Returns which arms are compared: all with `ce`, `mixkd` with the bases, options with theirs.

    An arm with options, "mixkd:temperature=4", is also compared with "mixkd".
    """
    found = [(arm, "ce") for arm in arms if arm != "ce" and "ce" in arms]
    found += [("mixkd", arm) for arm in arms if arm in ("mixup", "kd") and "mixkd" in arms]
    found += [(arm, base(arm)) for arm in arms if base(arm) != arm and base(arm) in arms]
    return list(dict.fromkeys(found))


def differences(records: Records) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the paired differences between the arms of `pairs`.

    Returns:
      {"mixkd - ce": {metric: what `difference` returns}}, for the metrics of `METRICS`.
    """
    return {
        f"{ours} - {theirs}": {
            name: difference(
                metric_values(records, ours, name),
                metric_values(records, theirs, name),
                "higher" if metric.better == "higher" else "lower",
            )
            for name, metric in METRICS.items()
        }
        for ours, theirs in pairs(records.arms)
    }


def slope(x: ArrayLike, y: ArrayLike) -> float | None:
    """Returns the slope of the least-squares line of y over x; None if x doesn't vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    spread = float(np.sum((x - x.mean()) ** 2)) if len(x) > 1 else 0.0
    return float(np.sum((x - x.mean()) * (y - y.mean()))) / spread if spread else None


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Spearman's rank correlation; 0 where one side doesn't vary and so orders nothing."""
    return correlation(stats.rankdata(x), stats.rankdata(y))


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Returns Pearson's correlation; 0 where one side doesn't vary."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.dot(x, y)) / norm if norm else 0.0


def at(tree: Any, *path: str) -> Any:
    """Returns the entry of nested dictionaries at `path`; None if there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _known(contents: Mapping[int, Any], *path: str) -> dict[int, float]:
    values = {seed: at(content, *path) for seed, content in contents.items()}
    return {seed: value for seed, value in values.items() if value is not None}
