"""Several runs side by side, in one page: `--mode=compare --runs=A,B`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from mixkd_jax.config import ConfigError
from mixkd_jax.report import claims, claims_across, comparison, figures, report, results, tables
from mixkd_jax.report.report import Panel
from mixkd_jax.report.run_folder import RunFolder, read
from mixkd_jax.files import absolute, write_text

# Labels of neighbouring points go to different sides.
_BESIDE = (
    {"xytext": (5, 5)},
    {"xytext": (5, -5), "va": "top"},
    {"xytext": (-5, 5), "ha": "right"},
    {"xytext": (-5, -5), "va": "top", "ha": "right"},
)


def write(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> epath.Path:
    """Writes `compare.html`, `figures/` and `tables/` into `out`; returns the page's path.

    Raises:
      ConfigError: for fewer than two runs, or a folder that is none.
    """
    folders = read_runs(runs)
    made = [_results(folders), _fields(folders), _verdicts(folders)]
    panels = _panels(folders)
    out = absolute(out)
    tables.write(made, out / "tables")
    for panel in panels:
        figures.save(panel.figure, out / "figures" / panel.name)
    text = report.page(
        "compare.html.jinja",
        commands={name: folder.config["command"] for name, folder in folders.items()},
        missing={name: report.missing(folder) for name, folder in folders.items()},
        tables={table.name: table for table in made},
        claims=claims_across.judge(folders),
        panels=report.inline("compare", panels),
    )
    path = out / "compare.html"
    write_text(path, text)
    return path


def read_runs(runs: Sequence[str | os.PathLike[str]]) -> dict[str, RunFolder]:
    """Reads run folders; they are called by as much of their paths as tells them apart."""
    paths = [absolute(run) for run in runs]
    if len(set(paths)) < 2 or len(set(paths)) < len(paths):
        raise ConfigError(f"--runs: expected two run folders or more, each once, got {list(runs)}")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    try:
        return {"/".join(path.parts[-depth:]): read(path) for path in paths}
    except FileNotFoundError as error:
        raise ConfigError(f"--runs: {error}") from None


def _results(folders: Mapping[str, RunFolder]) -> tables.Table:
    rows = []
    for run, folder in folders.items():
        found = tables.metrics(results.summarize(folder))
        rows += [[f"{run}: {row[0]}", *row[1:-1]] for row in found.rows]
    headings = ["model", *(m.heading for m in results.METRICS.values())]
    return tables.Table("results", headings, rows)


def _fields(folders: Mapping[str, RunFolder]) -> tables.Table:
    found = claims_across.differing(folders)
    rows = [[name, *(json.dumps(value) for value in row)] for name, row in found.items()]
    return tables.Table("fields", ["field", *folders], rows)


def _verdicts(folders: Mapping[str, RunFolder]) -> tables.Table:
    judged = [claims.judge(folder)[:4] for folder in folders.values()]
    rows = [
        [row[0].name, *(claim.verdict for claim in row)]
        for row in zip(*judged, strict=True)
        if any(claim.verdict != claims.NOT_TESTABLE for claim in row)
    ]
    return tables.Table("claims", ["claim", *folders], rows)


def _panels(folders: Mapping[str, RunFolder]) -> list[Panel]:
    by_temperature = claims_across.temperatures(folders)
    arms = list(dict.fromkeys(arm for folder in folders.values() for arm in folder.arms()))
    panels = [
        Panel(
            "accuracy_ece",
            "ECE against accuracy of every arm and run",
            accuracy_and_ece(folders, arms, by_temperature),
        )
    ]
    if by_temperature:
        figure = sweep(folders, [a for a in arms if a in ("kd", "mixkd")], by_temperature)
        panels.append(Panel("temperature", "accuracy and ECE over the temperature", figure))
    known = [p.teacher_overconfidence for p in claims_across.points(folders, "mixkd")]
    if len({value for value in known if value is not None}) > 1:
        figure = overconfidence_of_teachers(folders, [a for a in arms if a in ("kd", "mixkd")])
        name = "teacher_overconfidence"
        panels.append(Panel(name, "overconfidence of student and teacher", figure))
    return panels


def accuracy_and_ece(
    folders: Mapping[str, RunFolder], arms: Sequence[str], temperatures: Mapping[str, str]
) -> Figure:
    """Mean accuracy and ECE (logarithmic); an arm's runs are joined if they are a sweep.

    Args:
      folders: run -> files.
      arms: to be drawn.
      temperatures: of each run of a sweep, which then label the points; else the runs do.
    """
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(5.2, 4.0), layout="constrained")
        axes = figure.add_subplot(xlabel="accuracy / %", ylabel="ECE / %")
        for arm, look in figures.arm_styles(arms).items():
            found = claims_across.points(folders, arm)
            x, y = (100 * np.array([getattr(p, k) for p in found]) for k in ("accuracy", "ece"))
            joined = [temperatures.get(p.run, "std") != "std" for p in found]
            axes.plot(x[joined], y[joined], color=look["color"], linestyle=look["linestyle"])
            axes.plot(x, y, markersize=6, label=arm, **{**look, "linestyle": "none"})
            if arm in ("kd", "mixkd"):
                for k, point in enumerate(found):
                    text = f"T={temperatures[point.run]}" if temperatures else point.run
                    beside = {"textcoords": "offset points", "fontsize": 7, **_BESIDE[k % 4]}
                    axes.annotate(text, (x[k], y[k]), **beside)
        figures.log_axis(axes)
        axes.margins(x=0.12, y=0.12)
        figures.legend(figure, axes)
    return figure


def sweep(
    folders: Mapping[str, RunFolder], arms: Sequence[str], temperatures: Mapping[str, str]
) -> Figure:
    """Accuracy and ECE over the temperature, with 95 % intervals over seeds."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.6, 4.6), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True)
        for axes, metric in ((top, "accuracy"), (below, "ece")):
            for k, (arm, look) in enumerate(figures.arm_styles(arms).items()):
                found = [
                    comparison.interval(
                        comparison.metric_values(folders[run], arm, metric).values()
                    )
                    for run in temperatures
                ]
                mean, low, high = (
                    100 * np.array([f[key] for f in found], float)
                    for key in ("mean", "low", "high")
                )
                x = np.arange(len(found)) + 0.12 * (k - 0.5)
                axes.vlines(x, low, high, color=look["color"])
                axes.plot(x, mean, label=arm, markersize=6, **{**look, "linestyle": "none"})
        top.set(ylabel="accuracy / %")
        below.set(ylabel="ECE / %", xlabel="temperature")
        figures.log_axis(below)
        below.set_xticks(np.arange(len(temperatures)), list(temperatures.values()))
        figures.legend(figure, top)
    return figure


def overconfidence_of_teachers(folders: Mapping[str, RunFolder], arms: Sequence[str]) -> Figure:
    """Confidence minus accuracy of the students against that of their teachers."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.add_subplot(
            xlabel="teacher: confidence - accuracy / %", ylabel="student: confidence - accuracy / %"
        )
        ends = []
        for arm, look in figures.arm_styles(arms).items():
            known = claims_across.points(folders, arm)
            known = [p for p in known if p.teacher_overconfidence is not None]
            x = [100 * (p.teacher_overconfidence or 0) for p in known]
            y = [100 * p.overconfidence for p in known]
            axes.plot(x, y, label=arm, **{**look, "linestyle": "none"})
            ends += x
        low, high = min(ends), max(ends)
        axes.plot([low, high], [low, high], color=figures.INK, linestyle=(0, (2, 2)), linewidth=1)
        figures.legend(figure, axes)
    return figure
