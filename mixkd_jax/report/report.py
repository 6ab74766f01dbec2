"""`report.html`: one page about one run folder, finished or not, that needs no other file."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
from etils import epath
from matplotlib.figure import Figure

from mixkd_jax.report import analysis_figures, figures, results, tables
from mixkd_jax.report.run_folder import RunFolder, read, split_run
from mixkd_jax.files import write_text

ARM_MEANINGS = {
    "ce": "cross-entropy alone, on clean inputs: the baseline",
    "mixup": "cross-entropy on mixed inputs and labels",
    "kd": "distillation from the teacher on clean inputs",
    "mixkd": "distillation from the teacher on mixed inputs (arXiv:2606.12171)",
}
DIRECTIONS = {"higher": "Higher is better", "lower": "Lower is better", "zero": "Near 0 is better"}


class Panel(NamedTuple):
    """A figure, the name of its files, and what a screen reader says of it."""

    name: str
    description: str
    figure: Figure


def write(workdir: str | os.PathLike[str]) -> epath.Path:
    """Writes `report.html`, `figures/` and `tables/` into a run folder; returns the page's path.

    They depend on the folder's files alone: made twice, they are the same to the byte.

    Raises:
      FileNotFoundError: `workdir` is not a run folder.
      ValueError: one of its files cannot be parsed.
    """
    root, folder = epath.Path(workdir), read(workdir)
    summary = results.summarize(folder)
    panels, made = _panels(folder, summary), _tables(folder, summary)
    tables.write([*made.values(), tables.values(folder)], root / "tables")
    for group in panels.values():
        for name, _, figure in group:
            figures.save(figure, root / "figures" / name)
    path = root / "report.html"
    write_text(path, _page(folder, summary, panels, made))
    return path


def render(folder: RunFolder) -> str:
    """The page alone, as text."""
    summary = results.summarize(folder)
    return _page(folder, summary, _panels(folder, summary), _tables(folder, summary))


def _page(
    folder: RunFolder,
    summary: Mapping[str, Any],
    panels: Mapping[str, Sequence[Panel]],
    made: Mapping[str, tables.Table],
) -> str:
    return page(
        "report.html.jinja",
        run=folder.config,
        config=json.dumps(folder.config.get("config", {}), indent=2, ensure_ascii=False),
        missing=missing(folder),
        broken_lines=folder.broken_lines,
        metrics=[(m.heading, DIRECTIONS[m.better], m.meaning) for m in results.METRICS.values()],
        rows=_rows(summary),
        claims=summary["claims"],
        tables=made,
        analysis=_about_analysis(folder),
        seeds_note=results.seeds_note(summary),
        num_bins=max((len(e["bins"]["count"]) for e in folder.evaluations.values()), default=0),
        steps=sorted({e["step"] for run, e in folder.evaluations.items() if run != "teacher"}),
        arms=[(arm, ARM_MEANINGS.get(arm)) for arm in summary["arms"]],
        has_wins=bool(summary["wins"]),
        time=_time(folder, summary),
        **{section: inline(section, group) for section, group in panels.items()},
    )


def page(template: str, **values: Any) -> str:
    """Fills a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixkd_jax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def inline(section: str, group: Sequence[Panel]) -> list[markupsafe.Markup]:
    """Figures as `<svg>` elements."""
    return [
        markupsafe.Markup(figures.svg(figure, f"{section}{number}", description))
        for number, (_, description, figure) in enumerate(group)
    ]


def missing(folder: RunFolder) -> list[str]:
    """What has not been evaluated yet: "teacher" or "kd: seeds 0, 1"; empty if the run is finished.

    Expected are the arms and seeds that the config names, and whatever the other files show begun.
    """
    config = folder.config.get("config", {})
    runs = [split_run(run) for run in [*folder.evaluations, *folder.log, *folder.times]]
    begun = [(arm, seed) for arm, seed in runs if arm]
    seeds = config.get("seeds", sorted({seed for _, seed in begun}))
    arms = config.get("arms", dict.fromkeys(arm for arm, _ in begun))
    lacking: dict[str, set[int]] = {}
    for arm, seed in [*((arm, seed) for arm in arms for seed in seeds), *begun]:
        if f"arms/{arm}/{seed}" not in folder.evaluations:
            lacking.setdefault(arm, set()).add(seed)
    teacher = [] if "teacher" in folder.evaluations else ["teacher"]
    return teacher + [
        f"{arm}: seeds {', '.join(map(str, sorted(seeds)))}" for arm, seeds in lacking.items()
    ]


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(name, [(cell, wins)]) a row, in the order of `results.METRICS`."""
    wins = summary["wins"]
    rows = []
    for name, *cells, _ in results.rows(summary):
        won = [wins.get(name, {}).get(metric) for metric in results.METRICS]
        shares = [f"{w['wins']}/{w['seeds']}" if w else "" for w in won]
        rows.append((name, list(zip(cells, shares, strict=True))))
    return rows


def _time(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds by part: a row for the teacher, for each arm, and the total."""
    parts = [part for part in summary["time"] if part != "total"]
    groups: dict[str, dict[str, float]] = {}
    for run, time in folder.times.items():
        group = groups.setdefault(split_run(run)[0] or "teacher", dict.fromkeys(parts, 0.0))
        for part, seconds in time.items():
            group[part] += seconds
    lines = {**groups, "total": summary["time"]}
    rows = [(name, [f"{line[part]:.1f}" for part in parts]) for name, line in lines.items()]
    sums = [f"{sum(line[part] for part in parts):.1f}" for line in lines.values()]
    return {"parts": parts, "rows": list(zip(rows, sums, strict=True)) if groups else []}


def _tables(folder: RunFolder, summary: dict[str, Any]) -> dict[str, tables.Table]:
    made = [tables.metrics(summary)]
    if summary["differences"]:
        made.append(tables.differences(summary))
    if folder.analyses:
        made.append(tables.analysed(folder, "vicinal", tables.VICINAL))
        made.append(tables.analysed(folder, "calibration", tables.CALIBRATION))
    return {table.name: table for table in made}


def _about_analysis(folder: RunFolder) -> dict[str, int]:
    """How much was analysed; empty if nothing was."""
    for analysis in folder.analyses.values():
        test = analysis["splits"]["test"]
        counts = {name: test[name] for name in ("images", "pairs", "path_pairs")}
        held_out = analysis["calibration"]["held_out"]
        return {**counts, "held_out": held_out, "models": len(folder.analyses)}
    return {}


def _panels(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """The figures of each section of the page; none where there is no data."""
    overview = Panel("accuracy_ece", "ECE against accuracy", figures.accuracy_and_ece(summary))
    analyses = _by_model(folder.analyses)
    return {
        "overview": [overview] if summary["arms"] else [],
        "vicinal": _vicinal(analyses),
        "outside": [
            Panel(
                "outside_pair",
                "probability outside the mixed pair",
                analysis_figures.outside_pair(analyses),
            )
        ]
        if analyses
        else [],
        "reliability": _reliability(folder, analyses),
        "risk": [
            Panel(
                "risk_coverage",
                "error against coverage",
                analysis_figures.risk_coverage(analyses),
            )
        ]
        if analyses
        else [],
        "corruption": _corruption(analyses),
        "training": _training(folder),
    }


def _by_model(files: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The teacher's file and those of each arm's seeds."""
    models: dict[str, list[Any]] = {}
    for run, content in files.items():
        models.setdefault(split_run(run)[0] or "teacher", []).append(content)
    return models


def _vicinal(analyses: Mapping[str, list[Any]]) -> list[Panel]:
    labels = {
        "nonlinearity": "L_NL / nats",
        "entropy": "entropy of p(x̃) / nats",
        "kl_teacher": "KL(teacher ‖ student) / nats",
    }
    return [
        Panel(name, f"{name} against λ", analysis_figures.lambda_curves(analyses, name, label))
        for name, label in labels.items()
        if analyses
    ]


def _corruption(analyses: Mapping[str, list[Any]]) -> list[Panel]:
    corrupted = {
        name: seeds for name, seeds in analyses.items() if all(s["corruption"] for s in seeds)
    }
    if not corrupted:
        return []
    figure = analysis_figures.corruption(corrupted)
    return [Panel("corruption", "accuracy and overconfidence under corruption", figure)]


def _reliability(folder: RunFolder, analyses: Mapping[str, list[Any]]) -> list[Panel]:
    looks = {"teacher": {}, **figures.arm_styles(folder.arms())}
    panels = []
    for name, runs in _by_model(folder.evaluations).items():
        found = analysis_figures.reliability_intervals(analyses[name]) if name in analyses else None
        limits = None if found is None else (found.low, found.high)
        figure = figures.reliability(figures.merge_bins(runs), name, looks[name], limits)
        panels.append(Panel(f"reliability_{name}", f"reliability of {name}", figure))
    return panels


def _training(folder: RunFolder) -> list[Panel]:
    """Loss and accuracy of all arms together, then of the teacher."""
    arms = _by_model(folder.log)
    teacher = {"teacher": arms.pop("teacher", [])}
    panels = []
    for group, runs in (("arms", arms), ("teacher", teacher)):
        if not any(runs.values()):
            continue
        loss = figures.training_curves(runs, "loss", "training loss / nats", log=True)
        accuracy = figures.training_curves(runs, "accuracy", "training accuracy", log=False)
        panels.append(Panel(f"loss_{group}", f"loss of the {group}", loss))
        panels.append(Panel(f"accuracy_{group}", f"accuracy of the {group}", accuracy))
    return panels
