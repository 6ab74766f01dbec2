"""Means over seeds and paired differences between arms, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from mixkd_jax.report.metrics import METRICS
from mixkd_jax.report.run_folder import RunFolder

LEVEL = 0.95


def interval(values: Iterable[float]) -> dict[str, Any]:
    """Mean over seeds and its confidence interval (Student's t).

    Returns:
      "mean", "low", "high" and "seeds"; low and high are None for fewer than two seeds, all three
      None for none.
    """
    x = np.asarray(list(values), float)
    if len(x) < 2:
        mean = float(x[0]) if len(x) else None
        return {"mean": mean, "low": None, "high": None, "seeds": len(x)}
    mean = float(x.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * stats.sem(x))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(x)}


def metric_values(folder: RunFolder, arm: str, metric: str) -> dict[int, float]:
    """Known values of a metric by seed; of one that should be near zero, its size."""
    zero = METRICS[metric].better == "zero"
    found = {}
    for seed in folder.seeds(arm):
        value = folder.evaluations[f"arms/{arm}/{seed}"]["metrics"].get(metric)
        if value is not None and np.isfinite(value):
            found[seed] = abs(value) if zero else value
    return found


def difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], better: str
) -> dict[str, Any]:
    """Ours minus theirs, seed by seed.

    Args:
      ours: a value for each seed.
      theirs: likewise; seeds that only one side has are left out.
      better: "higher" or "lower".

    Returns:
      What `interval` does of the differences, and "won": the seeds in which ours is better.
    """
    gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    sign = 1 if better == "higher" else -1
    return {**interval(gaps), "won": sum(sign * gap > 0 for gap in gaps)}


def differences(folder: RunFolder) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences of every arm from `ce`, and of `mixkd` from the others.

    Returns:
      {"mixkd - ce": {metric: what `difference` returns}}, for the metrics of `METRICS`.
    """
    arms = folder.arms()
    pairs = [(arm, "ce") for arm in arms if arm != "ce" and "ce" in arms]
    pairs += [("mixkd", arm) for arm in arms if arm not in ("ce", "mixkd") and "mixkd" in arms]
    return {
        f"{ours} - {theirs}": {
            name: difference(
                metric_values(folder, ours, name),
                metric_values(folder, theirs, name),
                "higher" if metric.better == "higher" else "lower",
            )
            for name, metric in METRICS.items()
        }
        for ours, theirs in pairs
    }


def analysis_values(folder: RunFolder, arm: str, *path: str) -> dict[int, float]:
    """Known numbers at `path` of each seed's `analysis.json`, as in ("calibration", "aurc")."""
    found = {}
    for seed in folder.seeds(arm):
        value = at(folder.analyses.get(f"arms/{arm}/{seed}"), *path)
        if value is not None:
            found[seed] = value
    return found


def at(tree: Any, *path: str) -> Any:
    """The entry of nested dictionaries at `path`; None if there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
