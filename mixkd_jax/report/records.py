"""A run's folder, read into one dataclass: what its files hold, checked but not interpreted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from mixkd_jax.errors import ConfigError
from mixkd_jax.folder import BASES, BEST, TEACHER, Folder, split_name, student_name
from mixkd_jax.report import formats, logs
from mixkd_jax.report.shapes import TEXT, ShapeError, check, load


@dataclasses.dataclass(frozen=True)
class Records:
    """All that a run has written.

    Models are called by the names of `mixkd_jax.folder`, the teacher first, then the students by
    arm in the config's order and by seed. A file that is torn or malformed counts as missing.

    Attributes:
      about: `config.json`; "config", "data", "versions", "devices", "git_commit" and "command"
        may be absent.
      evaluations: content of `evaluation.json` by model; of students only those of the newest
        step that any student was evaluated at.
      analyses: likewise of `analysis.json`, if it is of the step of the model's evaluation.
      times: likewise of `time.json`: seconds by part.
      run_time: the run's own `time.json`: its wall and CPU seconds; empty if they aren't known.
      log: lines of `metrics.jsonl` by model, by rising step, the last one of each step; without
        those of first stages.
      behind: students left out because they were evaluated at an earlier step than others, with
        their steps.
      best: likewise of the students as they were where they did best on the validation images, if
        the run keeps these.
      skipped: names of the broken images that were left out of streams.
      warnings: one sentence about each file, or part of one, that counts as missing.
    """

    about: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    analyses: dict[str, dict[str, Any]]
    times: dict[str, dict[str, float]]
    run_time: dict[str, float]
    log: dict[str, list[dict[str, Any]]]
    behind: dict[str, int]
    skipped: list[str]
    warnings: list[str]
    best: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The run's config; empty if it isn't known."""
        return self.about.get("config", {})

    @property
    def arms(self) -> list[str]:
        """Arms with an evaluated seed, in the config's order."""
        return list(dict.fromkeys(arm for arm, _ in self._students()))

    def seeds(self, arm: str) -> list[int]:
        """Evaluated seeds of `arm`, rising."""
        return [seed for own, seed in self._students() if own == arm]

    def of_arm(self, files: Mapping[str, Any], arm: str) -> dict[int, Any]:
        """Returns by seed what `files` (such as `analyses`) has of an arm's evaluated students."""
        names = {seed: student_name(arm, seed) for seed in self.seeds(arm)}
        return {seed: files[name] for seed, name in names.items() if name in files}

    def recipe(self, arm: str) -> dict[str, Any]:
        """How the students of `arm` were trained, as `evaluation.json` says; empty if unknown."""
        for evaluation in self.of_arm(self.evaluations, arm).values():
            return evaluation.get("recipe") or {}
        return {}

    def missing(self) -> list[str]:
        """What lacks training or its evaluation: "teacher", "kd: seeds 0, 1"; empty if all is done.

        Expected are the arms and seeds that the config names, and whatever else was begun.
        """
        known = map(split_name, [*self.evaluations, *self.log, *self.times, *self.behind])
        begun = [student for student in known if student]
        arms, seeds = _named(self.config)
        arms = [arm for arm, _ in begun] if arms is None else arms
        seeds = sorted({seed for _, seed in begun}) if seeds is None else seeds
        lacking: dict[str, set[int]] = {}
        for arm, seed in [*((arm, seed) for arm in arms for seed in seeds), *begun]:
            if not self._is_done(student_name(arm, seed)):
                lacking.setdefault(arm, set()).add(seed)
        teacher = [] if self._is_done(TEACHER) else [TEACHER]
        return teacher + [
            f"{arm}: seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
            for arm, seeds in lacking.items()
        ]

    def _is_done(self, name: str) -> bool:
        evaluation = self.evaluations.get(name)
        return evaluation is not None and evaluation["step"] >= (evaluation.get("total_steps") or 0)

    def _students(self) -> list[tuple[str, int]]:
        return [student for student in map(split_name, self.evaluations) if student]


def base(arm: str) -> str:
    """Returns what an arm such as "mixkd:temperature=4" is an option of: "mixkd"."""
    return arm.partition(":")[0]


def by_model(records: Records, files: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Returns what `files` has of the teacher, and of the evaluated seeds of each arm."""
    models = {TEACHER: [files[TEACHER]] if TEACHER in files else []}
    models |= {arm: list(records.of_arm(files, arm).values()) for arm in records.arms}
    return {name: contents for name, contents in models.items() if contents}


def read(path: str | os.PathLike[str]) -> Records:
    """Reads a run's folder.

    Raises:
      FileNotFoundError: there is no `config.json`, so that it is not a run's folder.
      ConfigError: `config.json` isn't an object in JSON.
    """
    folder = Folder.at(path)
    if not folder.config.is_file():
        raise FileNotFoundError(
            f"workdir: expected a run's folder, with a config.json, got {folder.root}"
        )
    warnings: list[str] = []
    about = _read_about(folder.config, warnings)
    arms = _named(about.get("config", {}))[0] or list(BASES)
    names = sorted(_names(folder, warnings), key=lambda name: _place(name, arms))
    evaluations = _read_each(folder, names, "evaluation", formats.EVALUATION, warnings)
    analyses = _read_each(folder, names, "analysis", formats.ANALYSIS, warnings)
    log = logs.read(folder.metrics, warnings)
    last = max((e["step"] for name, e in evaluations.items() if name != TEACHER), default=0)
    behind = {n: e["step"] for n, e in evaluations.items() if n != TEACHER and e["step"] < last}
    kept = {name: e for name, e in evaluations.items() if name not in behind}
    return Records(
        about=about,
        evaluations=kept,
        analyses=_of_one_step(analyses, evaluations, warnings),
        times=_read_each(folder, names, "time", formats.TIME, warnings),
        run_time=_read_file(folder.time, formats.RUN_TIME, {}, warnings),
        log={name: log[name] for name in sorted(log, key=lambda name: _place(name, arms))},
        behind=behind,
        skipped=_read_file(folder.skipped, [TEXT], [], warnings),
        warnings=warnings,
        best=_read_best(folder, kept, warnings),
    )


def _read_best(folder: Folder, names: Iterable[str], warnings: list[str]) -> dict[str, Any]:
    places = {f"{name}/{BEST}": name for name in names}
    found = _read_each(folder, places, "evaluation", formats.EVALUATION, warnings)
    return {places[place]: content for place, content in found.items()}


def _read_about(path: epath.Path, warnings: list[str]) -> dict[str, Any]:
    """Returns `config.json` without the entries that aren't what they should be."""
    try:
        content = load(path)
        check(content, {})
    except ShapeError as error:
        raise ConfigError(
            f"{path}: {error}. It says what the run is: put back a copy, or start anew elsewhere."
        ) from None
    found = {}
    for name, shape in formats.CONFIG.items():
        try:
            if content.get(name) is not None:
                check(content[name], shape, name)
                found[name] = content[name]
        except ShapeError as error:
            warnings.append(f"config.json: {error}; left out.")
    return found


def _named(config: Mapping[str, Any]) -> tuple[list[str] | None, list[int] | None]:
    """Returns the arms and the seeds that a config names; None where it names none."""
    arms, seeds = config.get("arms"), config.get("seeds")
    if not isinstance(arms, list) or not all(isinstance(arm, str) for arm in arms):
        arms = None
    if not isinstance(seeds, list) or not all(type(s) is int and s >= 0 for s in seeds):
        seeds = None
    return arms, seeds


def _place(name: str, arms: list[str]) -> tuple[int, str, int]:
    """Orders models: the teacher, `arms` in their order, other arms by name; then by seed."""
    arm, seed = split_name(name) or ("", 0)
    order = ["", *arms]
    return order.index(arm) if arm in order else len(order), arm, seed


def _names(folder: Folder, warnings: list[str]) -> list[str]:
    """Returns the names of the models whose folders are there and can be written of."""
    known = []
    for name in folder.model_names():
        if not name.isprintable():
            warnings.append(f"{ascii(name)}: the name can't be shown; left out.")
            continue
        known.append(name)
        warnings += [
            f"{name}/{path.name}: a damaged checkpoint, moved aside{_reason(path)}."
            for path in sorted(folder.model(name).path.glob("damaged-[0-9]*"))
            if path.is_dir()
        ]
    return known


def _reason(aside: epath.Path) -> str:
    """Returns what the text file beside a damaged checkpoint says of it."""
    path = aside.with_name(f"{aside.name}.txt")
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        words = file.read(500).decode(errors="replace")
    return f": {words}" if words.isprintable() else ""


def _read_each(
    folder: Folder, names: Iterable[str], kind: str, shape: Any, warnings: list[str]
) -> dict[str, Any]:
    """Returns the readable files of a kind ("evaluation"), whose lists are as long as each other's.

    The first file of a kind decides how long each list must be.
    """
    found: dict[str, Any] = {}
    first: dict[str, dict[str, int]] = {}
    for name in names:
        path: epath.Path = getattr(folder.model(name), kind)
        if not path.exists():
            continue
        try:
            content = load(path)
            check(content, shape)
            sizes = formats.lengths(content)
            _check_lengths(sizes, first)
        except ShapeError as error:
            warnings.append(f"{name}/{path.name}: {error}; it counts as missing.")
            continue
        first = {**sizes, **first}
        found[name] = content
    return found


def _check_lengths(sizes: Mapping[str, dict[str, int]], first: Mapping[str, Any]) -> None:
    for place, lists in sizes.items():
        expected = next(iter(first.get(place, lists).values()))
        if any(size != expected or not size for size in lists.values()):
            raise ShapeError(
                f"{place}: expected lists of {expected or 'one or more'} numbers, as beside it and"
                f" in other models, got {', '.join(map(str, lists.values()))}"
            )


def _of_one_step(
    analyses: dict[str, Any], evaluations: Mapping[str, Any], warnings: list[str]
) -> dict[str, Any]:
    """Returns the analyses without those of another step than their model's evaluation."""
    kept = {}
    for name, analysis in analyses.items():
        step = evaluations.get(name, analysis)["step"]
        if analysis["step"] == step:
            kept[name] = analysis
        else:
            warnings.append(
                f"{name}/analysis.json: of step {analysis['step']}, while the evaluation is of step"
                f" {step}; it counts as missing."
            )
    return kept


def _read_file(path: epath.Path, shape: Any, missing: Any, warnings: list[str]) -> Any:
    """Returns what a file of the run itself holds; `missing` without one that can be read."""
    try:
        content = load(path) if path.exists() else missing
        if content is not missing:
            check(content, shape)
    except ShapeError as error:
        warnings.append(f"{path.name}: {error}; it counts as missing.")
        return missing
    return content
