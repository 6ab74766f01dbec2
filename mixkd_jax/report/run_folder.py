"""The files of one run folder, read and ordered.

`config.json`, `metrics.jsonl`, `skipped.json`, and `evaluation.json`, `analysis.json` and
`time.json` of the teacher and of each `arms/<arm>/<seed>/`. A model counts as evaluated once it
has an `evaluation.json`.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

_FIRST_STAGES = "head/"  # runs that train a head alone, before the model itself is trained
STANDARD_ARMS = ("ce", "mixup", "kd", "mixkd")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """What the files hold, not yet interpreted.

    Attributes:
      config: content of `config.json`.
      evaluations: run ("teacher" or "arms/<arm>/<seed>") -> content of its `evaluation.json`.
      analyses: likewise of its `analysis.json`.
      times: run -> seconds by part.
      log: run -> records of `metrics.jsonl`, by rising step, the last one written for each step;
        without those of first stages.
      skipped: names of the broken images that were left out of streams.
      broken_lines: lines of `metrics.jsonl` left out because they are not JSON objects of a run
        and a step; a killed run can leave one behind.
    """

    config: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    analyses: dict[str, dict[str, Any]]
    times: dict[str, dict[str, float]]
    log: dict[str, list[dict[str, Any]]]
    skipped: list[str]
    broken_lines: int

    def seeds(self, arm: str) -> list[int]:
        """Evaluated seeds of `arm`, rising."""
        return [seed for a, seed in map(split_run, self.evaluations) if a == arm]

    def arms(self) -> list[str]:
        """Arms with an evaluated seed, in the config's order."""
        return list(dict.fromkeys(arm for arm, _ in map(split_run, self.evaluations) if arm))


def split_run(run: str) -> tuple[str, int]:
    """("mixkd", 0) of "arms/mixkd/0", and ("", 0) of "teacher"."""
    if run == "teacher":
        return "", 0
    _, arm, seed = run.split("/")
    return arm, int(seed)


def read(workdir: str | os.PathLike[str]) -> RunFolder:
    """Reads the files of a run folder.

    Raises:
      FileNotFoundError: there is no `config.json`, so `workdir` is not a run folder.
      ValueError: a JSON file cannot be parsed; the message names it.
    """
    root = epath.Path(workdir)
    if not (root / "config.json").is_file():
        raise FileNotFoundError(f"workdir: expected a run folder with a config.json, got {root}")
    folders = [root / "teacher", *root.glob("arms/*/*")]
    runs = {folder.relative_to(root).as_posix(): folder for folder in folders}
    runs = {run: folder for run, folder in runs.items() if run == "teacher" or _is_seed(folder)}
    config = _read_json(root / "config.json")
    order = _run_order(config.get("config", {}).get("arms", STANDARD_ARMS))
    ordered = sorted(runs, key=order)
    log, broken_lines = _read_log(root / "metrics.jsonl")
    skipped = root / "skipped.json"
    return RunFolder(
        config=config,
        evaluations=_read_each(ordered, runs, "evaluation.json"),
        analyses=_read_each(ordered, runs, "analysis.json"),
        times=_read_each(ordered, runs, "time.json"),
        log={run: log[run] for run in sorted(log, key=order)},
        skipped=_read_json(skipped) if skipped.is_file() else [],
        broken_lines=broken_lines,
    )


def _is_seed(folder: epath.Path) -> bool:
    return folder.name.isascii() and folder.name.isdigit()


def _run_order(arms: Sequence[str]) -> Callable[[str], tuple[int, str, int]]:
    """Key to sort runs by: the teacher, `arms` in their order, other arms by name; then seeds."""

    def key(run: str) -> tuple[int, str, int]:
        arm, seed = split_run(run)
        known = ["", *arms]
        return known.index(arm) if arm in known else len(known), arm, seed

    return key


def _read_each(
    runs: Iterable[str], folders: Mapping[str, epath.Path], name: str
) -> dict[str, dict[str, Any]]:
    paths = {run: folders[run] / name for run in runs}
    return {run: _read_json(path) for run, path in paths.items() if path.is_file()}


def _read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected JSON, got: {error}. Remove the file and run again to rewrite it."
        ) from error


def _read_log(path: epath.Path) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Records by run, and the number of lines that hold none."""
    records: dict[str, dict[int, dict[str, Any]]] = {}
    broken = 0
    text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
    for line in filter(str.strip, text.split("\n")):
        try:
            record = json.loads(line)
            run, step = record["run"], int(record["step"])
            if run.startswith(_FIRST_STAGES):
                continue
            split_run(run)
        except (ValueError, KeyError, TypeError, AttributeError):
            broken += 1
            continue
        records.setdefault(run, {})[step] = record
    return {run: [by[step] for step in sorted(by)] for run, by in records.items()}, broken
