"""The numbers of one run folder: statistics over seeds, the printed table, `results.json`."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tabulate
from etils import epath

from mixkd_jax.report import claims, comparison
from mixkd_jax.report.metrics import METRICS
from mixkd_jax.report.run_folder import RunFolder, read
from mixkd_jax.files import write_json

BASELINE = "ce"
TIME_PARTS = ("compile", "train", "evaluate", "checkpoint", "analyse")
MISSING = "-"


def collect(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The results of a run folder, as `results.json` holds them.

    Returns:
      A dict of plain, finite JSON values; `None` where a value is missing or not finite.
      "teacher": {metric: value}, empty before the teacher is evaluated.
      "arms": {arm: {metric: {"mean", "std", "values"}}}, values by rising seed. std is the
        sample standard deviation (ddof=1), `None` for one seed. Mean and std are `None` if any
        value is: dropping a failed seed would flatter its arm.
      "seeds": {arm: [seed]}.
      "wins": {arm: {metric: {"wins", "seeds"}}}: seeds in which the arm is strictly better than
        the baseline `ce` of the same seed, out of those where both values are known.
      "time": seconds by part ("compile", "train", "evaluate", ...) and their "total".
      "differences": {"mixkd - ce": {metric: {"mean", "low", "high", "seeds", "won"}}}, paired by
        seed, with a 95 % interval; see `comparison.differences`.
      "data": name of the images, how many for what, and how many were broken and "skipped": of
        images in memory those left out of any part, of streams those met while training.
      "claims": the paper's claims, as `claims.Claim` has them.

    Raises:
      FileNotFoundError: `workdir` is not a run folder.
      ValueError: a file cannot be parsed, or a seed lacks a metric that others of its arm have.
    """
    return summarize(read(workdir))


def summarize(folder: RunFolder) -> dict[str, Any]:
    """`collect` on files that were read already."""
    teacher = folder.evaluations.get("teacher", {"metrics": {}})["metrics"]
    values = {arm: _values(folder, arm) for arm in folder.arms()}
    seeds = {arm: folder.seeds(arm) for arm in values}
    return {
        "teacher": {name: _finite(value) for name, value in teacher.items()},
        "arms": {
            arm: {name: _statistics(row) for name, row in metrics.items()}
            for arm, metrics in values.items()
        },
        "seeds": seeds,
        "wins": _wins(values, seeds),
        "time": _time(folder.times),
        "data": _data(folder),
        "differences": comparison.differences(folder),
        "claims": [dataclasses.asdict(claim) for claim in claims.judge(folder)],
    }


def _data(folder: RunFolder) -> dict[str, Any]:
    data = folder.config.get("data", {})
    return {**data, "skipped": data.get("skipped", 0) + len(folder.skipped)}


def _values(folder: RunFolder, arm: str) -> dict[str, list[float | None]]:
    """{metric: one value a seed}."""
    rows = {seed: folder.evaluations[f"arms/{arm}/{seed}"]["metrics"] for seed in folder.seeds(arm)}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    for seed, row in rows.items():
        lacking = [name for name in names if name not in row]
        if lacking:
            raise ValueError(
                f"arms/{arm}/{seed}/evaluation.json: expected the metrics of the arm's other seeds,"
                f" {', '.join(lacking)} not found. Remove the file and evaluate again."
            )
    return {name: [_finite(row[name]) for row in rows.values()] for name in names}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _statistics(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    complete = len(known) == len(values)
    return {
        "mean": float(np.mean(known)) if complete else None,
        "std": float(np.std(known, ddof=1)) if complete and len(known) > 1 else None,
        "values": values,
    }


def _wins(
    values: Mapping[str, Mapping[str, list[float | None]]], seeds: Mapping[str, list[int]]
) -> dict[str, dict[str, dict[str, int]]]:
    """Seeds in which each arm beats the baseline, by metric; a tie is no win."""
    table = {
        arm: {name: dict(zip(seeds[arm], row, strict=True)) for name, row in metrics.items()}
        for arm, metrics in values.items()
    }
    baseline = table.pop(BASELINE, None)
    if baseline is None:
        return {}
    return {
        arm: {
            name: _won_of(name, metrics[name], baseline[name])
            for name in METRICS
            if name in metrics and name in baseline
        }
        for arm, metrics in table.items()
    }


def _won_of(
    metric: str, ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> dict[str, int]:
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return {
        "wins": sum(_badness(metric, a) < _badness(metric, b) for a, b in known),
        "seeds": len(known),
    }


def _badness(metric: str, value: float) -> float:
    """A number that is lower for a better value of `metric`."""
    return {"higher": -value, "lower": value, "zero": abs(value)}[METRICS[metric].better]


def _time(times: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    parts: dict[str, float] = dict.fromkeys(TIME_PARTS, 0.0)
    for time in times.values():
        for part, seconds in time.items():
            parts[part] = parts.get(part, 0.0) + float(seconds)
    return {**parts, "total": sum(parts.values())}


def cell(metric: str, mean: float | None, std: float | None = None) -> str:
    """Text like "83.80 ± 1.20", in the unit of the metric's heading; no ± where there is no std."""
    if mean is None:
        return MISSING
    spec = METRICS[metric]
    sign = "+" if spec.better == "zero" else ""
    text = f"{mean * spec.scale:{sign}.{spec.decimals}f}"
    return text if std is None else f"{text} ± {std * spec.scale:.{spec.decimals}f}"


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Teacher and arms, one row each: name, a cell for each of `METRICS`, wins over `ce`."""
    teacher = results["teacher"]
    first = ["teacher", *(cell(name, teacher.get(name)) for name in METRICS), ""]
    return ([first] if teacher else []) + [
        [arm, *(_arm_cell(name, statistics) for name in METRICS), _won(results["wins"].get(arm))]
        for arm, statistics in results["arms"].items()
    ]


def _arm_cell(name: str, statistics: Mapping[str, Any]) -> str:
    if name not in statistics:
        return MISSING
    return cell(name, statistics[name]["mean"], statistics[name]["std"])


def _won(wins: Mapping[str, Mapping[str, int]] | None) -> str:
    if wins is None:
        return ""
    shown = (wins.get(name) for name in ("accuracy", "ece"))
    return ", ".join(f"{won['wins']}/{won['seeds']}" if won else MISSING for won in shown)


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
    """The table printed at the end of a run.

    Args:
      results: what `collect` returns.
      fmt: a format of the library tabulate, for example "simple" or "github" (markdown).

    Returns:
      Lines of text: the table, at most 110 columns wide for the usual arms, and a note.
    """
    line = "\n" if fmt == "simple" else " "
    headings = [
        "",
        *(metric.heading for metric in METRICS.values()),
        f"beats {BASELINE}{line}acc, ECE",
    ]
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
    return f"{body}\n\n{seeds_note(results)}\n{won}{left_out}"


def write(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Collects the results, writes `results.json` (atomically) and returns them."""
    results = collect(workdir)
    write_json(epath.Path(workdir) / "results.json", results)
    return results
