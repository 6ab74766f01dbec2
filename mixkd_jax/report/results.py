"""The numbers of one run: statistics over seeds, for `results.json` and the printed table."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import tabulate

from mixkd_jax.folder import TEACHER, TIMES
from mixkd_jax.report import claims, intervals
from mixkd_jax.report.intervals import at
from mixkd_jax.report.quantities import CALIBRATION, METRICS, VICINAL
from mixkd_jax.report.records import Records, by_model, read

BASELINE = "ce"
MISSING = "-"


def collect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the results of a run's folder, as `results.json` holds them.

    Returns:
      A dictionary of plain, finite JSON values; `None` where a value is missing or not finite.
      Shares are fractions.
      "teacher": {metric: value}, empty before the teacher is evaluated.
      "arms": {arm: {metric: {"mean", "std", "low", "high", "values"}}}, values by rising seed. std
        is the sample standard deviation (ddof=1), low and high bound the 95 % confidence interval
        of the mean; these are None for one seed. All but the values are None if any value is:
        dropping a failed seed would flatter its arm.
      "seeds": {arm: [seed]}.
      "wins": {arm: {metric: {"wins", "seeds"}}}: seeds in which the arm is strictly better than
        the baseline `ce` of the same seed, out of those where both values are known.
      "time": wall seconds by part ("compile", "train", "evaluate", ...); "other": imports, data and
        all else; their "total", from the command to the last measurement; and "cpu", the seconds
        of all cores together. Without the run's `time.json` no "other" and "cpu".
      "differences": {"mixkd - ce": {metric: {"mean", "std", "low", "high", "seeds", "won"}}},
        paired by seed; see `intervals.differences`.
      "data": name of the images, how many for what, and how many were broken and "skipped": of
        images in memory those left out of any part, of streams those met while training.
      "claims": the paper's claims, as `claims.Claim` has them.
      "analyses": {model: {quantity: {"mean", "std", "low", "high", "seeds"}}} of the teacher and
        of each arm: what tables show of `analysis.json`, each by its place in that file, such as
        "calibration/scaled/ece"; empty if nothing was analysed. As in "arms", a value that one
        seed lacks leaves all but the seeds None.
      "best": {arm: {metric: as in "arms"}} of the students as they were where they did best on the
        validation images, with the "steps" of these by rising seed; empty if the run keeps none.
      "behind": {model: step} of the students that are in none of these numbers, because others
        were evaluated at a later step.
      "warnings": sentences about files that count as missing, and checkpoints moved aside.

    Raises:
      FileNotFoundError: `path` is not a run's folder.
      ConfigError: its `config.json` can't be read.
    """
    return summarize(read(path))


def summarize(records: Records) -> dict[str, Any]:
    """Does what `collect` does with files that were read already."""
    teacher = records.evaluations.get(TEACHER, {"metrics": {}})["metrics"]
    values = {arm: _values(records, arm) for arm in records.arms}
    seeds = {arm: records.seeds(arm) for arm in values}
    return {
        "teacher": {name: _float(value) for name, value in teacher.items()},
        "arms": {
            arm: {name: _statistics(row) for name, row in metrics.items()}
            for arm, metrics in values.items()
        },
        "seeds": seeds,
        "wins": _wins(records),
        "time": _time(records),
        "data": _data(records),
        "differences": intervals.differences(records),
        "claims": [dataclasses.asdict(claim) for claim in claims.judge(records)],
        "analyses": _analyses(records),
        "best": _best(records),
        "behind": records.behind,
        "warnings": records.warnings,
    }


def _analyses(records: Records) -> dict[str, dict[str, Any]]:
    return {
        model: {
            "/".join(path): intervals.interval(_complete([at(a, *path) for a in analyses]))
            for path in (*VICINAL, *CALIBRATION)
        }
        for model, analyses in by_model(records, records.analyses).items()
    }


def _complete(values: list[float | None]) -> list[float]:
    """Returns the values, none if one isn't known: leaving a seed out would flatter the others."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _best(records: Records) -> dict[str, dict[str, Any]]:
    found = {}
    for arm in records.arms:
        rows = list(records.of_arm(records.best, arm).values())
        if rows:
            names = dict.fromkeys(name for row in rows for name in row["metrics"])
            values = {name: [_float(row["metrics"].get(name)) for row in rows] for name in names}
            metrics = {name: _statistics(row) for name, row in values.items()}
            found[arm] = {**metrics, "steps": [row["step"] for row in rows]}
    return found


def _data(records: Records) -> dict[str, Any]:
    data = records.about.get("data", {})
    skipped = data.get("skipped", 0)
    known = skipped if type(skipped) is int else 0
    return {**data, "skipped": known + len(records.skipped)}


def _values(records: Records, arm: str) -> dict[str, list[float | None]]:
    """Returns {metric: one value a seed}."""
    rows = [e["metrics"] for e in records.of_arm(records.evaluations, arm).values()]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_float(row.get(name)) for row in rows] for name in names}


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _statistics(values: list[float | None]) -> dict[str, Any]:
    found = intervals.interval(_complete(values))
    return {**{key: found[key] for key in ("mean", "std", "low", "high")}, "values": values}


def _wins(records: Records) -> dict[str, dict[str, dict[str, int]]]:
    """Returns the seeds in which each arm beats the baseline, by metric; a tie is no win."""
    if BASELINE not in records.arms:
        return {}
    return {
        arm: {name: _won_of(records, arm, name) for name in METRICS}
        for arm in records.arms
        if arm != BASELINE
    }


def _won_of(records: Records, arm: str, metric: str) -> dict[str, int]:
    better = "higher" if METRICS[metric].better == "higher" else "lower"
    found = intervals.difference(
        intervals.metric_values(records, arm, metric),
        intervals.metric_values(records, BASELINE, metric),
        better,
    )
    return {"wins": found["won"], "seeds": found["seeds"]}


def _time(records: Records) -> dict[str, float]:
    parts: dict[str, float] = dict.fromkeys(TIMES, 0.0)
    for time in records.times.values():
        for part, seconds in time.items():
            parts[part] = parts.get(part, 0.0) + float(seconds)
    known = sum(parts.values())
    if not records.run_time:
        return {**parts, "total": known}
    wall, cpu = (float(records.run_time[name]) for name in ("wall", "cpu"))
    return {**parts, "other": max(wall - known, 0.0), "total": max(wall, known), "cpu": cpu}


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Teacher and arms, one row each: name, a cell for each of `METRICS`, wins over `ce`."""
    teacher = results["teacher"]
    first = [TEACHER, *(_cell(name, teacher.get(name)) for name in METRICS), ""]
    return ([first] if teacher else []) + [
        [arm, *(_arm_cell(name, statistics) for name in METRICS), _won(results["wins"].get(arm))]
        for arm, statistics in results["arms"].items()
    ]


def _cell(metric: str, mean: float | None, std: float | None = None) -> str:
    """Returns text like "83.80 ± 1.20", in the unit of the heading; no ± where there is no std."""
    if mean is None:
        return MISSING
    text = METRICS[metric].text(mean)
    return text if std is None else f"{text} ± {METRICS[metric].size(std)}"


def _arm_cell(name: str, statistics: Mapping[str, Any]) -> str:
    if name not in statistics:
        return MISSING
    return _cell(name, statistics[name]["mean"], statistics[name]["std"])


def _won(wins: Mapping[str, Mapping[str, int]] | None) -> str:
    if wins is None:
        return ""
    return ", ".join(f"{wins[name]['wins']}/{wins[name]['seeds']}" for name in ("accuracy", "ece"))


def seeds_note(results: Mapping[str, Any]) -> str:
    """What the cells of the table are, and over how many seeds."""
    counts = {arm: len(seeds) for arm, seeds in results["seeds"].items()}
    if not counts:
        return "No arm has been evaluated yet."
    if len(set(counts.values())) == 1:
        number = next(iter(counts.values()))
        if number == 1:
            return "Arms: one seed each, so no standard deviation."
        over = f"over {number} seeds"
    else:
        over = "over seeds (" + ", ".join(f"{arm}: {n}" for arm, n in counts.items()) + ")"
    return f"Arms: mean ± sample standard deviation {over}."


def table(results: Mapping[str, Any], fmt: str = "simple") -> str:
    """Returns the table printed at the end of a run.

    Args:
      results: what `collect` returns.
      fmt: a format of the library tabulate, for example "simple" or "github" (markdown).

    Returns:
      Lines of text: the table, at most 110 columns wide for the usual arms, and a note.
    """
    line = "\n" if fmt == "simple" else " "
    headings = ["", *(m.heading for m in METRICS.values()), f"beats {BASELINE}{line}acc, ECE"]
    body = tabulate.tabulate(
        rows(results),
        headers=headings,
        tablefmt=fmt,
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headings) - 1)),
    )
    won = f"Beats {BASELINE}: seeds with a higher accuracy, and with a lower ECE."
    skipped = results["data"]["skipped"]
    left_out = f"\nBroken images that were left out: {skipped:,}." if skipped else ""
    behind = "".join(
        f"\nNot in the table: {name}, evaluated at step {step}, before the others."
        for name, step in results["behind"].items()
    )
    warned = "".join(f"\nWarning: {text}" for text in results["warnings"])
    return f"{body}\n\n{seeds_note(results)}\n{won}{left_out}{behind}{warned}"
