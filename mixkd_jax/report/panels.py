"""The figures of a run's page, by section; a section without data has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from mixkd_jax.folder import TEACHER, split_name
from mixkd_jax.report import sweeps
from mixkd_jax.report.figures import learning, mixtures, reliability, style, tradeoff
from mixkd_jax.report.records import Records, by_model


class Panel(NamedTuple):
    """A figure, the name of its files, and what a screen reader says of it."""

    name: str
    description: str
    figure: Figure


_Files = Mapping[str, list[Any]]


def panels(records: Records, summary: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """Returns the figures of each section."""
    shown = {TEACHER, *style.drawn(records.arms)}
    analyses, evaluations = (
        {model: files for model, files in by_model(records, kind).items() if model in shown}
        for kind in (records.analyses, records.evaluations)
    )
    found = tradeoff.accuracy_and_ece(summary)
    return {
        "overview": [Panel("accuracy_ece", "ECE against accuracy", found)]
        if summary["arms"]
        else [],
        "calibrated": _first_diagrams(evaluations, analyses),
        "temperature": _temperature(records),
        "transfer": _transfer(records),
        "vicinal": _vicinal(analyses),
        "outside": _outside(analyses),
        "reliability": _reliability(evaluations, analyses),
        "risk": _risk(analyses),
        "corruption": _corruption(analyses),
        "learning": _learning(records),
    }


def _diagrams(evaluations: _Files, analyses: _Files) -> dict[str, reliability.Diagram]:
    return {
        model: reliability.diagram(files, analyses.get(model, []))
        for model, files in evaluations.items()
    }


def _first_diagrams(evaluations: _Files, analyses: _Files) -> list[Panel]:
    """The baseline and the method side by side; where one is missing, the first and last arm."""
    students = [model for model in evaluations if model != TEACHER]
    chosen = (
        ["ce", "mixkd"] if {"ce", "mixkd"} <= set(students) else students[:1] + students[1:][-1:]
    )
    found = _diagrams({model: evaluations[model] for model in chosen}, analyses)
    if not found:
        return []
    figure = reliability.diagrams(found, style.looks(students))
    return [Panel("reliability", f"reliability of {' and '.join(chosen)}", figure)]


def _reliability(evaluations: _Files, analyses: _Files) -> list[Panel]:
    found = _diagrams(evaluations, analyses)
    looks = style.looks(list(found))
    panels: dict[str, Panel] = {}
    for model, shown in found.items():
        name = f"reliability_{_file(model)}"
        name = f"{name}_{len(panels)}" if name in panels else name
        figure = reliability.diagrams({model: shown}, looks)
        panels[name] = Panel(name, f"reliability of {model}", figure)
    return list(panels.values())


def _temperature(records: Records) -> list[Panel]:
    sweep = sweeps.within(records, sweeps.TEMPERATURE)
    if max(map(len, sweep.students.values()), default=0) < 2:
        return []
    return [
        Panel("trade", "ECE against accuracy along the temperature", tradeoff.trade(sweep)),
        Panel("temperature", "accuracy and ECE over T", tradeoff.over_temperature(sweep)),
    ]


def _transfer(records: Records) -> list[Panel]:
    sweep = sweeps.within(records, sweeps.TEACHER_TEMPERATURE)
    if max(map(len, sweep.students.values()), default=0) < 2:
        return []
    figure = tradeoff.transfer(sweep)
    return [Panel("transfer", "overconfidence of students and of their teachers", figure)]


def _vicinal(analyses: _Files) -> list[Panel]:
    return [
        Panel(name, f"{label} against λ", mixtures.lambda_curves(analyses, name))
        for name, label in mixtures.LABELS.items()
        if any(
            name in seed["splits"]["test"]["mixed"]["all"]["bins"]
            for s in analyses.values()
            for seed in s
        )
    ]


def _outside(analyses: _Files) -> list[Panel]:
    figure = mixtures.outside_pair(analyses) if analyses else None
    return [Panel("outside_pair", "probability outside the mixed pair", figure)] if figure else []


def _risk(analyses: _Files) -> list[Panel]:
    if not analyses:
        return []
    return [Panel("risk_coverage", "error against coverage", reliability.risk_coverage(analyses))]


def _corruption(analyses: _Files) -> list[Panel]:
    found = {m: seeds for m, seeds in analyses.items() if all(s.get("corruption") for s in seeds)}
    if not found:
        return []
    figure = reliability.corruption(found)
    return [Panel("corruption", "accuracy and overconfidence under corruption", figure)]


def _learning(records: Records) -> list[Panel]:
    """Losses and accuracies of all arms together, finished or not, then of the teacher."""
    arms: dict[str, list[Any]] = {}
    for name, lines in records.log.items():
        arm, _ = split_name(name) or (TEACHER, 0)
        arms.setdefault(arm, []).append(lines)
    teacher = {TEACHER: arms.pop(TEACHER, [])}
    groups = {"arms": {arm: arms[arm] for arm in style.drawn(list(arms))}, TEACHER: teacher}
    quantities = {
        "loss": ("training loss / nats", True),
        "accuracy": ("training accuracy / %", False),
        "validation_accuracy": ("validation accuracy / %", False),
        "validation_nll": ("validation NLL / nats", True),
    }
    return [
        Panel(
            f"{name}_{group}",
            f"{label.partition(' /')[0]} of the {group}",
            learning.learning_curves(logs, name, label, log=is_log),
        )
        for group, logs in groups.items()
        for name, (label, is_log) in quantities.items()
        if learning.has(logs, name)
    ]


def _file(model: str) -> str:
    """Returns a model's name for a file: letters that any file system takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "=.-") else "_" for c in model)[:100]
