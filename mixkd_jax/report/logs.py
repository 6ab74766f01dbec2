"""The log of a run, `metrics.jsonl`: what its models measured while they trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath

from mixkd_jax.folder import TEACHER, split_name
from mixkd_jax.report.shapes import COUNT, TEXT, ShapeError, check, parse

_FIRST_STAGES = "head/"  # models of which a head alone is trained, before the model itself


def read(path: epath.Path, warnings: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Returns the lines of each model, by rising step; first stages are left out.

    Args:
      path: of the file, which may be missing.
      warnings: gets a sentence about lines that are none, as a killed run may leave, and about
        updates that were skipped.
    """
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    broken = 0
    text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
    for line in filter(str.strip, text.split("\n")):
        try:
            record = parse(line)
            check(record, {"run": TEXT, "step": COUNT})
        except ShapeError:
            broken += 1
            continue
        name = record["run"]
        if name == TEACHER or split_name(name):
            numbers = {k: v for k, v in record.items() if v is None or type(v) in (int, float)}
            lines.setdefault(name, {})[record["step"]] = numbers
        elif not name.startswith(_FIRST_STAGES):
            broken += 1
    if broken:
        plural = "" if broken == 1 else "s"
        warnings.append(f"{path.name}: {broken} unreadable line{plural} left out.")
    found = {name: [by[step] for step in sorted(by)] for name, by in lines.items()}
    warnings += _left_out(found)
    return found


def _left_out(log: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Returns a sentence for each model some of whose updates were skipped."""
    counts = {
        name: sum(int(line.get("skipped_updates") or 0) for line in lines)
        for name, lines in log.items()
    }
    return [
        f"{name}: {number:,} updates were left out, for they were not finite."
        for name, number in counts.items()
        if number
    ]
