"""The claims that need several runs: C5 (teachers) and C6 (temperatures)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mixkd_jax.report import claims
from mixkd_jax.report.comparison import at
from mixkd_jax.report.run_folder import RunFolder

TEMPERATURE = "loss.temperature"
_FEWEST_TEACHERS = 4
_FEWEST_TEMPERATURES = 3


class Point(NamedTuple):
    """An arm of one run, its mean over seeds beside its teacher's values."""

    run: str
    accuracy: float
    ece: float
    overconfidence: float
    teacher_overconfidence: float | None


def points(folders: Mapping[str, RunFolder], arm: str) -> list[Point]:
    """Returns the runs that evaluated an arm, with all its metrics known."""
    found = []
    for run, folder in folders.items():
        rows = [folder.evaluations[f"arms/{arm}/{seed}"]["metrics"] for seed in folder.seeds(arm)]
        columns = [[row.get(k) for row in rows] for k in ("accuracy", "ece", "overconfidence")]
        if rows and all(value is not None for column in columns for value in column):
            accuracy, ece, overconfidence = np.array(columns, float).mean(1).tolist()
            teacher = at(folder.evaluations.get("teacher"), "metrics", "overconfidence")
            found.append(Point(run, accuracy, ece, overconfidence, teacher))
    return found


def differing(folders: Mapping[str, RunFolder]) -> dict[str, list[Any]]:
    """Config fields that are not the same in all runs: name -> value in each, None if absent."""
    flat = [dict(_leaves(folder.config.get("config", {}))) for folder in folders.values()]
    names = sorted({name for fields in flat for name in fields})
    rows = {name: [fields.get(name) for fields in flat] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def temperatures(folders: Mapping[str, RunFolder]) -> dict[str, str]:
    """{run: temperature} if runs differ in nothing else; empty if they do."""
    found = differing(folders)
    if list(found) != [TEMPERATURE]:
        return {}
    return dict(zip(folders, found[TEMPERATURE], strict=True))


def judge(folders: Mapping[str, RunFolder]) -> list[claims.Claim]:
    """Returns the claims C5 and C6 as several runs together show them."""
    return [
        claims.claim("C5", _transfer(folders)),
        claims.claim("C6", _trade(folders)),
    ]


def _transfer(folders: Mapping[str, RunFolder]) -> tuple[str, bool | None]:
    known = [p for p in points(folders, "mixkd") if p.teacher_overconfidence is not None]
    by_teacher = {p.teacher_overconfidence: p for p in known}
    if len(by_teacher) < _FEWEST_TEACHERS or len(by_teacher) < len(known):
        return (
            f"{len(by_teacher)} different teachers in {len(known)} runs; needs"
            f" {_FEWEST_TEACHERS} or more, one run each.",
            None,
        )
    x = np.array([p.teacher_overconfidence for p in known])
    y, z = (np.array([getattr(p, k) for p in known]) for k in ("overconfidence", "accuracy"))
    found = stats.pearsonr(x, y)
    limits = found.confidence_interval(0.95)  # pyright: ignore[reportAttributeAccessIssue]
    r, low, high = (float(value) for value in (found[0], limits.low, limits.high))  # pyright: ignore[reportArgumentType]
    partial = partial_correlation(x, y, z)
    shows = (
        f"{len(known)} teachers: correlation {r:.2f} [{low:.2f}, {high:.2f}],"
        f" {partial:.2f} with accuracy held fixed."
    )
    return shows, low > 0 and partial > 0


def partial_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Pearson's correlation of what a line in z leaves of x and of y."""
    residuals = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    return float(np.asarray(np.corrcoef(np.stack(residuals)))[0, 1])


def _trade(folders: Mapping[str, RunFolder]) -> tuple[str, bool | None]:
    scale = [run for run, value in temperatures(folders).items() if value != "std"]
    by_arm = {
        arm: [point for point in points(folders, arm) if point.run in scale]
        for arm in ("kd", "mixkd")
    }
    if any(len(found) < _FEWEST_TEMPERATURES for found in by_arm.values()):
        return (
            f"Needs {_FEWEST_TEMPERATURES} or more runs of kd and mixkd that differ in"
            f" {TEMPERATURE} alone.",
            None,
        )
    together, spread = {}, {}
    for arm, found in by_arm.items():
        accuracy, ece = (np.array([getattr(p, k) for p in found]) for k in ("accuracy", "ece"))
        together[arm] = float(stats.spearmanr(accuracy, ece)[0])  # pyright: ignore[reportArgumentType]
        spread[arm] = float(np.ptp(ece))
    shows = "; ".join(
        f"{arm}: rank correlation {together[arm]:.2f}, ECE varies by {100 * spread[arm]:.2f} points"
        for arm in by_arm
    )
    return f"{shows}.", together["mixkd"] > 0 and spread["mixkd"] > spread["kd"]


def _leaves(values: Any, path: str = ""):
    if not isinstance(values, Mapping):
        yield path, values
        return
    for name, value in values.items():
        yield from _leaves(value, f"{path}.{name}" if path else name)
