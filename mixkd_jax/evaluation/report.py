"""`report.html`: one page about one run folder, finished or not, that needs no other file."""

import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe
from matplotlib.figure import Figure

from mixkd_jax.evaluation import figures, results
from mixkd_jax.evaluation.run_folder import RunFolder, read, split_run
from mixkd_jax.files import write_text

ARM_MEANINGS = {
    "ce": "cross-entropy alone, on clean inputs: the baseline",
    "mixup": "cross-entropy on mixed inputs and labels",
    "kd": "distillation from the teacher on clean inputs",
    "mixkd": "distillation from the teacher on mixed inputs (arXiv:2606.12171)",
}
DIRECTIONS = {"higher": "Higher is better", "lower": "Lower is better", "zero": "Near 0 is better"}


def write(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.html` into a run folder, atomically, and returns its path.

    The page depends on the folder's files alone: made twice, it is the same to the byte.

    Raises:
      FileNotFoundError: `workdir` is not a run folder.
      ValueError: one of its files cannot be parsed.
    """
    path = pathlib.Path(workdir) / "report.html"
    write_text(path, render(read(workdir)))
    return path


def render(folder: RunFolder) -> str:
    """The page as text."""
    summary = results.summarize(folder)
    source = importlib.resources.files("mixkd_jax.evaluation").joinpath("report.html.jinja")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source.read_text("utf-8")).render(
        run=folder.config,
        config=json.dumps(folder.config.get("config", {}), indent=2, ensure_ascii=False),
        missing=missing(folder),
        broken_lines=folder.broken_lines,
        metrics=[(m.heading, DIRECTIONS[m.better], m.meaning) for m in results.METRICS.values()],
        rows=_rows(summary),
        seeds_note=results.seeds_note(summary),
        num_bins=max((len(e["bins"]["count"]) for e in folder.evaluations.values()), default=0),
        steps=sorted({e["step"] for run, e in folder.evaluations.items() if run != "teacher"}),
        arms=[(arm, ARM_MEANINGS.get(arm)) for arm in summary["arms"]],
        has_wins=bool(summary["wins"]),
        time=_time(folder, summary),
        **_panels(folder, summary),
    )


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


def _panels(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, list[markupsafe.Markup]]:
    """The figures of each section of the page, as `<svg>` elements; none where there is no data."""
    overview = [("ECE against accuracy", figures.accuracy_and_ece(summary))]
    sections = {
        "overview": overview if summary["arms"] else [],
        "reliability": _reliability(folder),
        "training": _training(folder),
    }
    return {
        section: [
            markupsafe.Markup(figures.svg(figure, f"{section}{number}", description))
            for number, (description, figure) in enumerate(panels)
        ]
        for section, panels in sections.items()
    }


def _reliability(folder: RunFolder) -> list[tuple[str, Figure]]:
    looks = {"teacher": {}, **figures.arm_styles(folder.arms())}
    evaluations: dict[str, list[dict[str, Any]]] = {}
    for run, evaluation in folder.evaluations.items():
        evaluations.setdefault(split_run(run)[0] or "teacher", []).append(evaluation)
    return [
        (f"reliability of {name}", figures.reliability(figures.merge_bins(runs), name, looks[name]))
        for name, runs in evaluations.items()
    ]


def _training(folder: RunFolder) -> list[tuple[str, Figure]]:
    """Loss and accuracy of all arms together, then of the teacher."""
    arms: dict[str, list[list[dict[str, Any]]]] = {}
    for run, log in folder.log.items():
        arms.setdefault(split_run(run)[0] or "teacher", []).append(log)
    teacher = {"teacher": arms.pop("teacher", [])}
    panels = []
    for group, runs in (("arms", arms), ("teacher", teacher)):
        if not any(runs.values()):
            continue
        loss = figures.training_curves(runs, "loss", "training loss / nats", log=True)
        accuracy = figures.training_curves(runs, "accuracy", "training accuracy", log=False)
        panels += [(f"loss of the {group}", loss), (f"accuracy of the {group}", accuracy)]
    return panels
