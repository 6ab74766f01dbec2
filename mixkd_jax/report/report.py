"""Everything that is written about one run: its results, its page, its figures and tables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixkd_jax.errors import ConfigError
from mixkd_jax.files import write_json, write_text
from mixkd_jax.folder import TEACHER, Folder, split_name
from mixkd_jax.report import claims, gallery, page, results, sentences, tables
from mixkd_jax.report.figures import style
from mixkd_jax.report.formats import RESULTS
from mixkd_jax.report.panels import Panel, panels
from mixkd_jax.report.quantities import METRICS
from mixkd_jax.report.records import Records, read
from mixkd_jax.report.shapes import ShapeError, check, load

ARM_MEANINGS = {
    "ce": "cross-entropy alone, on clean inputs: the baseline",
    "mixup": "cross-entropy on mixed inputs and labels",
    "kd": "distillation from the teacher on clean inputs",
    "mixkd": "distillation from the teacher on mixed inputs (arXiv:2606.12171)",
}
DIRECTIONS = {"higher": "Higher is better", "lower": "Lower is better", "zero": "Near 0 is better"}


def write(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes `results.json`, `report.html`, `figures/` and `tables/` into a run's folder.

    They depend on the folder's files alone: made twice, they are the same to the byte.

    Returns:
      What `results.json` holds.

    Raises:
      FileNotFoundError: `path` is not a run's folder.
      ConfigError: its `config.json` can't be read.
    """
    folder, records = Folder.at(path), read(path)
    summary = results.summarize(records)
    write_json(folder.results, summary)
    drawn, made = panels(records, summary), tables.every(summary)
    tables.write(made.values(), folder.tables)
    tables.write_values(records, folder.tables)
    for group in drawn.values():
        for panel in group:
            style.save(panel.figure, folder.figures / panel.name)
    write_text(folder.report, _page(records, summary, drawn, made))
    return summary


def again(path: str | os.PathLike[str]) -> tuple[dict[str, Any], epath.Path]:
    """Writes a run's report again, or its `tables/` if only its `results.json` is left.

    Returns:
      What `results.json` holds, and the path of what was written.

    Raises:
      ConfigError: if `path` holds neither, or what it holds can't be read.
    """
    folder = Folder.at(path)
    if folder.config.is_file():
        return write(path), folder.report
    if not folder.results.is_file():
        below = sorted(file.parent.name for file in folder.root.glob("*/results.json"))
        raise ConfigError(
            f"--workdir: expected the folder of a run, or one with its results.json, got {path}"
            + (f"; these in it are such: {', '.join(below)}" if below else "")
        )
    try:
        summary = load(folder.results)
        check(summary, RESULTS)
    except ShapeError as error:
        raise ConfigError(f"{folder.results}: {error}") from None
    tables.write(tables.every(summary).values(), folder.tables)
    return summary, folder.tables


def _page(
    records: Records,
    summary: Mapping[str, Any],
    drawn: Mapping[str, Sequence[Panel]],
    made: Mapping[str, tables.Table],
) -> str:
    judged = summary["claims"]
    return page.fill(
        "report.html.jinja",
        about=records.about,
        config=json.dumps(records.config, indent=2, ensure_ascii=False),
        missing=records.missing(),
        behind=records.behind,
        warnings=records.warnings,
        facts=sentences.facts(records, summary),
        comparisons=sentences.comparisons(summary),
        verdicts=sentences.verdicts(summary) if summary["arms"] else "",
        metrics=[(m.heading, DIRECTIONS[m.better or "zero"], m.meaning) for m in METRICS.values()],
        claims=[claim for claim in judged if claim["verdict"] != claims.NOT_TESTABLE],
        untested=[claim for claim in judged if claim["verdict"] == claims.NOT_TESTABLE],
        tables=made,
        chosen_by=_chosen_by(records),
        analysis=_about_analysis(records),
        num_bins=max((len(e["bins"]["count"]) for e in records.evaluations.values()), default=0),
        arms=[(arm, _meaning(records, arm)) for arm in summary["arms"]],
        some=_some(records.arms),
        examples=gallery.examples(records),
        time=_time(records, summary),
        **{section: page.inline(section, group) for section, group in drawn.items()},
    )


def _some(arms: Sequence[str]) -> str:
    """Returns which arms figures show, if they can't show all."""
    shown = style.drawn(arms)
    return "" if len(shown) == len(arms) else f"Drawn: {', '.join(shown)} of {len(arms)} arms."


def _meaning(records: Records, arm: str) -> str:
    """Returns what an arm is: a base, or what it changes of one."""
    if arm in ARM_MEANINGS:
        return ARM_MEANINGS[arm]
    recipe = records.recipe(arm)
    if not recipe:
        return "an arm of this run's config"
    options = ", ".join(f"{name} {value}" for name, value in recipe["options"].items())
    mixup = ", no mixup" if not recipe.get("mixup") else ""
    teacher = recipe.get("teacher_temperature")
    rescaled = "" if teacher in (None, 1, 1.0) else f", teacher's logits divided by {teacher}"
    return (
        f"{recipe['base']} with loss {recipe['loss']}: {options or 'no options'}{rescaled}{mixup}"
    )


def _chosen_by(records: Records) -> str:
    """Returns by which metric of the validation images students are kept at their best."""
    for evaluation in records.best.values():
        metric = METRICS.get(str(evaluation.get("chosen_by")))
        return metric.name if metric else ""
    return ""


def _about_analysis(records: Records) -> dict[str, int]:
    """Returns how much was analysed; empty if nothing was."""
    for analysis in records.analyses.values():
        test = analysis["splits"]["test"]
        counts = {name: test[name] for name in ("images", "pairs", "path_pairs")}
        return {**counts, "held_out": analysis["calibration"]["held_out"]}
    return {}


def _time(records: Records, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns seconds by part: a row for the teacher, for each arm, and for the run."""
    columns = list(summary["time"])
    groups: dict[str, dict[str, float]] = {}
    for name, time in records.times.items():
        arm = (split_name(name) or (TEACHER,))[0]
        group = groups.setdefault(arm, {"total": 0.0})
        for part, seconds in time.items():
            group[part] = group.get(part, 0.0) + seconds
            group["total"] += seconds
    lines = {**groups, "run": summary["time"]} if groups else {}
    rows = [
        (name, [f"{line[part]:.1f}" if part in line else "" for part in columns])
        for name, line in lines.items()
    ]
    return {"parts": columns, "rows": rows, "sessions": records.run_time.get("sessions")}
