"""What a run shows, in sentences: the first thing on its page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixkd_jax.folder import TEACHER
from mixkd_jax.report import claims
from mixkd_jax.report.records import Records

_COMPARED = ("mixkd - ce", "mixkd - kd", "mixkd - mixup", "kd - ce")


def facts(records: Records, summary: Mapping[str, Any]) -> list[str]:
    """Returns what was trained, on what, and how often, as far as the folder says."""
    found = [_data(records.about.get("data", {})), _models(records.config)]
    counts = {arm: len(seeds) for arm, seeds in summary["seeds"].items()}
    if counts:
        arms = f"{len(counts)} arm{'s' if len(counts) > 1 else ''}"
        seeds = sorted({seed for seeds in summary["seeds"].values() for seed in seeds})
        number = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({_range(seeds)})"
        steps = next(e["step"] for n, e in records.evaluations.items() if n != TEACHER)
        found.append(f"{arms}, {number}, students after step {steps:,}")
    return [text for text in found if text]


def comparisons(summary: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each comparison of the bases; without any, one for each arm."""
    found = summary["differences"]
    names = [name for name in _COMPARED if name in found] or list(found)[: len(_COMPARED)]
    sentences = [_sentence(name, found[name]) for name in names]
    sentences = [text for text in sentences if text]
    if sentences:
        return sentences
    return [
        f"{arm}: accuracy {claims.percent(metrics['accuracy']['mean'])}, ECE"
        f" {claims.percent(metrics['ece']['mean'])}."
        for arm, metrics in summary["arms"].items()
        if all(metrics.get(name, {}).get("mean") is not None for name in ("accuracy", "ece"))
    ]


def verdicts(summary: Mapping[str, Any]) -> str:
    """Returns in a line which of the paper's claims hold here."""
    by_verdict: dict[str, list[str]] = {}
    for claim in summary["claims"]:
        by_verdict.setdefault(claim["verdict"], []).append(claim["name"])
    order = (claims.SUPPORTED, claims.NOT_SUPPORTED, claims.NOT_TESTABLE)
    parts = [
        f"{verdict}: {', '.join(by_verdict[verdict])}" for verdict in order if verdict in by_verdict
    ]
    return f"{'; '.join(parts)}."


def _data(data: Mapping[str, Any]) -> str:
    name = data.get("name")
    if not isinstance(name, str):
        return ""
    shape = data.get("image_shape")
    size = "x".join(map(str, shape[:2])) + " pixels" if isinstance(shape, list) else ""
    classes = data.get("num_classes")
    parts = [f"{classes} classes" if type(classes) is int else "", size]
    parts += [
        f"{data[key]:,} {what}"
        for key, what in {
            "teacher": "images for the teacher",
            "student": "for the students",
            "validation": "held out",
            "test": "for testing",
        }.items()
        if type(data.get(key)) is int and data[key]
    ]
    return f"{name}: {', '.join(filter(None, parts))}" if any(parts) else name


def _models(config: Mapping[str, Any]) -> str:
    sections = [config.get(name) for name in ("teacher", "student")]
    models = [section.get("model") for section in sections if isinstance(section, Mapping)]
    if len(models) < 2 or not all(isinstance(model, str) for model in models):
        return ""
    return f"teacher {models[0]} → student {models[1]}"


def _range(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    """Returns what was found of two arms; nothing if they share no seed."""
    ours, theirs = name.split(" - ")
    accuracy, ece = found["accuracy"], found["ece"]
    if accuracy["mean"] is None or ece["mean"] is None:
        return ""
    if accuracy["low"] is None or ece["low"] is None:
        gaps = f"accuracy {100 * accuracy['mean']:+.1f} points, ECE {100 * ece['mean']:+.1f} points"
        return f"{ours} - {theirs}: {gaps} in the one seed that both have, which shows no interval."
    if accuracy["low"] > 0:
        first = f"{ours} is ahead of {theirs} by {_points(accuracy)} in {_seeds(accuracy)}"
    elif accuracy["high"] < 0:
        lost = {**accuracy, "won": accuracy["seeds"] - accuracy["won"]}
        first = f"{ours} is behind {theirs} by {_points(accuracy)} in {_seeds(lost)}"
    else:
        first = f"{ours} against {theirs}: no difference in accuracy shown, {_signed(accuracy)}"
    if ece["low"] <= 0 <= ece["high"]:
        return (
            f"{first}; none in ECE, {_signed(ece)}."
            if "no difference" in first
            else (f"{first}; no difference in ECE shown, {_signed(ece)}.")
        )
    direction = "lower" if ece["high"] < 0 else "higher"
    own = "its" if "no difference" not in first else f"{ours}'s"
    return f"{first}; {own} ECE is {_points(ece, direction)}."


def _seeds(found: Mapping[str, Any]) -> str:
    return f"{found['won']} of {found['seeds']} seeds"


def _points(found: Mapping[str, Any], direction: str = "") -> str:
    """Returns the size of a difference and the interval of its size."""
    low, high = sorted(100 * abs(found[end]) for end in ("low", "high"))
    digits = 1 if low >= 0.05 else 2  # for the interval doesn't reach 0
    points = f"{100 * abs(found['mean']):.1f} points"
    return f"{' '.join(filter(None, (points, direction)))} [{low:.{digits}f}, {high:.{digits}f}]"


def _signed(found: Mapping[str, Any]) -> str:
    mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"
