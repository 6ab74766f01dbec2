"""Students that differ in one number alone: the temperature, or the teacher's temperature.

They are arms of one run, or one arm in several runs. Claims C5 and C6 are decided by them, seed by
seed: students of one seed saw the same batches, so that what differs within a seed is the number.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from mixkd_jax.report import intervals
from mixkd_jax.report.intervals import at, interval
from mixkd_jax.report.quantities import METRICS
from mixkd_jax.report.records import Records

TEMPERATURE, TEACHER_TEMPERATURE = "temperature", "teacher_temperature"
DISTILLED = ("kd", "mixkd")
FEWEST_VALUES, FEWEST_SEEDS = 3, 2
Value = float | str  # a number, or the name of a rule: "std"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Evaluations of students that differ in one value alone.

    Attributes:
      field: `TEMPERATURE` or `TEACHER_TEMPERATURE`.
      students: "kd" and "mixkd", as far as there are any -> value -> seed -> content of
        `evaluation.json`; numbers rise, texts come last.
    """

    field: str
    students: dict[str, dict[Value, dict[int, Any]]]

    def values(self) -> list[Value]:
        """All values, numbers first."""
        return _ordered({value for found in self.students.values() for value in found})

    def numbers(self, base: str) -> list[Value]:
        """The values of `base` that are numbers, rising."""
        return [v for v in self.students.get(base, {}) if not isinstance(v, str)]

    def curves(self, base: str, *path: str) -> dict[int, list[float]]:
        """Returns for each seed what its evaluations have at `path`, over `numbers(base)`.

        Seeds that lack one of the numbers are left out.
        """
        rows = [self.students[base][value] for value in self.numbers(base)]
        seeds = set.intersection(*(set(row) for row in rows)) if rows else set()
        curves = {seed: [at(row[seed], *path) for row in rows] for seed in sorted(seeds)}
        return {seed: curve for seed, curve in curves.items() if None not in curve}

    def intervals(self, base: str, metric: str) -> dict[Value, dict[str, Any]]:
        """Returns the mean over seeds of a metric, and its interval, at each value of `base`."""
        found = {}
        for value, seeds in self.students.get(base, {}).items():
            known = [at(evaluation, "metrics", metric) for evaluation in seeds.values()]
            spec = METRICS[metric]
            found[value] = interval((x for x in known if x is not None), spec.lowest, spec.highest)
        return found


def within(records: Records, field: str) -> Sweep:
    """Returns the arms of one run that differ in `field` alone: the largest such set.

    Arms with the same recipe but for the field belong together; of arms with the same value, too,
    the first counts. `kd` mixes nothing, and goes with `mixkd` of the same loss.
    """
    groups: dict[str, dict[str, dict[str, dict[Value, str]]]] = {}
    for arm in records.arms:
        recipe = records.recipe(arm)
        if recipe.get("base") not in DISTILLED:
            continue
        options = dict(recipe["options"])
        temperatures = {
            TEMPERATURE: options.pop(TEMPERATURE, None),
            TEACHER_TEMPERATURE: recipe.get(TEACHER_TEMPERATURE),
        }
        value = _value(temperatures.pop(field))
        if value is not None:
            key = json.dumps([recipe["loss"], options, temperatures], sort_keys=True)
            alike = groups.setdefault(key, {}).setdefault(recipe["base"], {})
            alike.setdefault(json.dumps(recipe.get("mixup")), {}).setdefault(value, arm)
    # Of each base, then of each loss, those with the most values; the first where several have.
    largest = [
        {base: max(found.values(), key=len) for base, found in group.items()}
        for group in groups.values()
    ]
    chosen = max(largest, key=lambda group: sum(map(len, group.values())), default={})
    return Sweep(
        field,
        {
            base: {
                value: records.of_arm(records.evaluations, arms[value]) for value in _ordered(arms)
            }
            for base, arms in sorted(chosen.items())
        },
    )


def across(runs: Mapping[str, Records], field: str) -> Sweep:
    """Returns the arms kd and mixkd of runs whose configs differ in `config.loss.<field>` alone."""
    differing_fields = differing(runs)
    if list(differing_fields) != [f"loss.{field}"]:
        return Sweep(field, {})
    values = [_value(value) for value in differing_fields[f"loss.{field}"]]
    by_value = {v: run for v, run in zip(values, runs.values(), strict=True) if v is not None}
    students = {
        base: {
            value: by_value[value].of_arm(by_value[value].evaluations, base)
            for value in _ordered(by_value)
            if base in by_value[value].arms
        }
        for base in DISTILLED
    }
    return Sweep(field, {base: found for base, found in students.items() if found})


def differing(runs: Mapping[str, Records]) -> dict[str, list[Any]]:
    """Config fields that are not the same in all runs: name -> value in each, None if absent."""
    flat = [dict(_leaves(run.config)) for run in runs.values()]
    names = sorted({name for fields in flat for name in fields})
    rows = {name: [fields.get(name) for fields in flat] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def trade(sweep: Sweep) -> dict[str, Any] | None:
    """Measures how accuracy and ECE go together over the temperature, seed by seed.

    Returns:
      None for fewer than three temperatures or two seeds of kd or of mixkd; else for both "values",
      "accuracy" and "ece" (an interval at each value), "correlation" (rank correlation of accuracy
      and ECE over the values: the interval of the seeds') and "range" (largest minus smallest ECE
      over the values, likewise); and "range_difference", mixkd minus kd, paired by seed.
    """
    found: dict[str, Any] = {}
    ranges = {}
    for base in DISTILLED:
        accuracy, ece = (sweep.curves(base, "metrics", name) for name in ("accuracy", "ece"))
        seeds = [seed for seed in accuracy if seed in ece]
        if len(sweep.numbers(base)) < FEWEST_VALUES or len(seeds) < FEWEST_SEEDS:
            return None
        ranges[base] = {seed: max(ece[seed]) - min(ece[seed]) for seed in seeds}
        together = [intervals.rank_correlation(accuracy[seed], ece[seed]) for seed in seeds]
        found[base] = {
            **_shown(sweep, base, ("accuracy", "ece")),
            "correlation": interval(together, -1, 1),
            "range": interval(ranges[base].values(), 0, 1),
        }
    found["range_difference"] = interval(intervals.paired(ranges["mixkd"], ranges["kd"]).values())
    return found if found["range_difference"]["seeds"] >= FEWEST_SEEDS else None


def transfer(sweep: Sweep) -> dict[str, Any] | None:
    """Measures how the student's signed gap follows its teacher's, seed by seed.

    The gap is confidence minus accuracy. The teacher's logits are divided by the values of the
    sweep, which leaves its accuracy as it is.

    Returns:
      None for fewer than three values or two seeds of mixkd; else for mixkd, and for kd if it has
      as much, "values", "overconfidence" and "accuracy" (an interval at each), "teacher" (its gap
      at each), "slope" and "correlation" (of the student's gap over the teacher's: the interval of
      the seeds'); and "teacher_accuracy": [lowest, highest].
    """
    found: dict[str, Any] = {}
    for base in DISTILLED:
        student = sweep.curves(base, "metrics", "overconfidence")
        teacher = sweep.curves(base, "teacher", "overconfidence")
        seeds = [seed for seed in student if seed in teacher]
        slopes = [intervals.slope(teacher[seed], student[seed]) for seed in seeds]
        known = [slope for slope in slopes if slope is not None]
        if len(sweep.numbers(base)) < FEWEST_VALUES or len(known) < max(len(seeds), FEWEST_SEEDS):
            continue
        together = [intervals.correlation(teacher[seed], student[seed]) for seed in seeds]
        accuracies = sweep.curves(base, "teacher", "accuracy").values()
        scores = [accuracy for curve in accuracies for accuracy in curve]
        found[base] = {
            **_shown(sweep, base, ("overconfidence", "accuracy")),
            "teacher": teacher[seeds[0]],
            "slope": interval(known),
            "correlation": interval(together, -1, 1),
            "teacher_accuracy": [min(scores), max(scores)] if scores else None,
        }
    return found if "mixkd" in found else None


def _shown(sweep: Sweep, base: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Returns the values of a base, and an interval of each metric at each of them."""
    numbers = sweep.numbers(base)
    by_metric = {name: sweep.intervals(base, name) for name in metrics}
    return {
        "values": numbers,
        **{name: [found[value] for value in numbers] for name, found in by_metric.items()},
    }


def _value(value: Any) -> Value | None:
    """Returns a number, also if a text says it, or the text; None for anything else."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if type(value) in (int, float) else None


def _ordered(values: Any) -> list[Value]:
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def _leaves(values: Any, path: str = ""):
    if not isinstance(values, Mapping):
        yield path, values
        return
    for name, value in values.items():
        yield from _leaves(value, f"{path}.{name}" if path else name)
