"""Several runs side by side, in one page: `--mode=compare --runs=A,B`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from etils import epath

from mixkd_jax.errors import ConfigError
from mixkd_jax.files import absolute, write_text
from mixkd_jax.report import claims, page, results, sweeps, tables, teachers
from mixkd_jax.report.figures import style, tradeoff
from mixkd_jax.report.panels import Panel
from mixkd_jax.report.records import Records, read

Runs = Mapping[str, Records]


def write(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> epath.Path:
    """Writes `compare.html`, `figures/` and `tables/` into `out`; returns the page's path.

    Raises:
      ConfigError: for fewer than two runs, or a folder that is none.
    """
    records = read_runs(runs)
    made = [_results(records), _fields(records), _verdicts(records)]
    panels, out = _panels(records), absolute(out)
    tables.write(made, out / "tables")
    for panel in panels:
        style.save(panel.figure, out / "figures" / panel.name)
    text = page.fill(
        "compare.html.jinja",
        commands={name: run.about.get("command", "not recorded") for name, run in records.items()},
        missing={name: run.missing() for name, run in records.items()},
        behind={name: run.behind for name, run in records.items()},
        warnings=[f"{name}: {text}" for name, run in records.items() for text in run.warnings],
        tables={table.name: table for table in made},
        claims=judge(records),
        panels=page.inline("compare", panels),
    )
    path = out / "compare.html"
    write_text(path, text)
    return path


def read_runs(runs: Sequence[str | os.PathLike[str]]) -> dict[str, Records]:
    """Reads runs' folders; they are called by as much of their paths as tells them apart."""
    paths = [absolute(run) for run in runs]
    if len(set(paths)) < 2 or len(set(paths)) < len(paths):
        raise ConfigError(f"--runs: expected two run folders or more, each once, got {list(runs)}")
    depth = 1
    while len({_end(path, depth) for path in paths}) < len(paths):
        depth += 1
    try:
        return {_end(path, depth): read(path) for path in paths}
    except FileNotFoundError as error:
        raise ConfigError(f"--runs: {error}") from None


def judge(runs: Runs) -> list[claims.Claim]:
    """Returns the claims C5 and C6 as several runs together show them.

    C5: runs that differ in the teacher's temperature alone, else runs with different teachers.
    C6: runs that differ in the temperature alone.
    """
    rescaled = claims.calibration_transfer(sweeps.across(runs, sweeps.TEACHER_TEMPERATURE))
    if rescaled.holds is not None:
        fifth = claims.decide("C5", rescaled)
    else:
        fifth = claims.decide("C5", teachers.transfer(runs), teachers.RULE)
    trade = claims.temperature_trade(sweeps.across(runs, sweeps.TEMPERATURE))
    return [fifth, claims.decide("C6", trade)]


def _end(path: epath.Path, depth: int) -> str:
    """Returns the last parts of a path, as text that can be shown."""
    text = "/".join(PurePath(path).parts[-depth:])
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _results(runs: Runs) -> tables.Table:
    rows = []
    for name, records in runs.items():
        found = tables.metrics(results.summarize(records))
        rows += [[f"{name}: {row[0]}", *row[1:]] for row in found.rows]
        headings = found.headings
    return tables.Table("results", "Metrics on the test images", headings, rows)


def _fields(runs: Runs) -> tables.Table:
    found = sweeps.differing(runs)
    rows = [[name, *(json.dumps(value) for value in row)] for name, row in found.items()]
    return tables.Table("fields", "Config fields that differ", ["field", *runs], rows)


def _verdicts(runs: Runs) -> tables.Table:
    judged = [claims.judge(records) for records in runs.values()]
    rows = [[row[0].name, *(claim.verdict for claim in row)] for row in zip(*judged, strict=True)]
    return tables.Table("claims", "The paper's claims, in each run", ["claim", *runs], rows)


def _panels(runs: Runs) -> list[Panel]:
    arms = list(dict.fromkeys(arm for records in runs.values() for arm in records.arms))
    points = {arm: teachers.points(runs, arm) for arm in arms}
    points = {arm: found for arm, found in points.items() if found}
    panels = []
    sweep = sweeps.across(runs, sweeps.TEMPERATURE)
    if sweep.students:
        panels += [
            Panel("trade", "ECE against accuracy along the temperature", tradeoff.trade(sweep)),
            Panel(
                "temperature", "accuracy and ECE by temperature", tradeoff.over_temperature(sweep)
            ),
        ]
    elif points:
        figure = tradeoff.arms_of_runs(points)
        panels.append(Panel("accuracy_ece", "ECE against accuracy of every arm and run", figure))
    distilled = {
        arm: [point for point in points[arm] if point.teacher_overconfidence is not None]
        for arm in sweeps.DISTILLED
        if arm in points
    }
    gaps = {point.teacher_overconfidence for found in distilled.values() for point in found}
    if len(gaps) > 1:
        figure = tradeoff.overconfidence_of_teachers(distilled)
        panels.append(Panel("teachers", "overconfidence of student and teacher", figure))
    return panels
