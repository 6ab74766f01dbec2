"""Claim C5 as several runs show it, whose teachers are different models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from mixkd_jax.folder import TEACHER
from mixkd_jax.report import intervals
from mixkd_jax.report.claims import Finding
from mixkd_jax.report.records import Records

FEWEST_TEACHERS = 4
RULE = (
    f"Over at least {FEWEST_TEACHERS} runs with different teachers, the teacher's and the mixkd"
    " student's confidence minus accuracy correlate (95 % interval above 0), also with the"
    " student's accuracy held fixed (partial correlation above 0)."
)


class Point(NamedTuple):
    """An arm of one run, its means over seeds beside its teacher's value; fractions."""

    run: str
    accuracy: float
    ece: float
    overconfidence: float
    teacher_overconfidence: float | None


def points(runs: Mapping[str, Records], arm: str) -> list[Point]:
    """Returns the runs that evaluated an arm, with all these metrics known."""
    found = []
    for run, records in runs.items():
        metrics = ("accuracy", "ece", "overconfidence")
        columns = [intervals.signed_values(records, arm, name).values() for name in metrics]
        if columns[0] and all(len(column) == len(records.seeds(arm)) for column in columns):
            means = (float(np.mean(list(column))) for column in columns)
            teacher = intervals.at(records.evaluations.get(TEACHER), "metrics", "overconfidence")
            accuracy, ece, overconfidence = means
            found.append(Point(run, accuracy, ece, overconfidence, teacher))
    return found


def transfer(runs: Mapping[str, Records]) -> Finding:
    """Decides C5 by the students of different teachers."""
    known = [p for p in points(runs, "mixkd") if p.teacher_overconfidence is not None]
    different = {p.teacher_overconfidence for p in known}
    if len(different) < FEWEST_TEACHERS or len(different) < len(known):
        return Finding(
            f"{len(different)} different teachers in {len(known)} runs; needs {FEWEST_TEACHERS} or"
            " more, one run each."
        )
    x = np.array([p.teacher_overconfidence for p in known], float)
    y, z = (np.array([getattr(p, name) for p in known]) for name in ("overconfidence", "accuracy"))
    if not np.ptp(y):
        return Finding("The students of all teachers are equally overconfident.", False)
    result = stats.pearsonr(x, y)
    limits = result.confidence_interval(0.95)  # pyright: ignore[reportAttributeAccessIssue]
    r, low, high = (float(value) for value in (result[0], limits.low, limits.high))  # pyright: ignore[reportArgumentType]
    partial = partial_correlation(x, y, z)
    shows = (
        f"{len(known)} teachers: correlation {r:.2f} [{low:.2f}, {high:.2f}],"
        f" {partial:.2f} with accuracy held fixed."
    )
    numbers = {"correlation": {"mean": r, "low": low, "high": high}, "partial": partial}
    return Finding(shows, low > 0 and partial > 0, numbers)


def partial_correlation(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Returns Pearson's correlation of what a line in z leaves of x and of y."""
    lines = [(v, intervals.slope(z, v) or 0.0) for v in (x, y)]
    return intervals.correlation(*(v - v.mean() - slope * (z - z.mean()) for v, slope in lines))
