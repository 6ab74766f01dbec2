"""An experiment: one call that trains a teacher, distils students, measures and reports them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mixkd_jax import config, cpu, data
from mixkd_jax.config import ConfigError, arms
from mixkd_jax.files import absolute
from mixkd_jax.folder import Folder
from mixkd_jax.models import teachers
from mixkd_jax.run import adopt, lock, models, summary, workdir
from mixkd_jax.run.images import check_counts, load_images
from mixkd_jax.run.run import Run
from mixkd_jax.training import sharding
from mixkd_jax.training.progress import Progress

MODES = ("train", "evaluate", "analyze")


def run(
    config: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    mode: str = "train",
    dataset: data.Dataset | None = None,
    teacher: Any = None,
    stop: Callable[[int], bool] = lambda step: False,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Runs an experiment, or what is left of it, and returns its results.

    Args:
      config: with all fields of `mixkd_jax.config.get_defaults()`.
      folder: of this run. One that holds a run of the same config is continued; arms and seeds that
        it lacks are added to it.
      mode: "train", or "evaluate" or "analyze" to measure the newest checkpoints that are there.
      dataset: used instead of loading the config's.
      teacher: used instead of training the config's: a function that jit can trace, from images
        f32[B, H, W, C] in [0, 255] to logits [B, C]; a pair (function, variables) of a function of
        both, or (`Network`, variables); a `models.host_teacher`; or a list of these, whose
        probabilities are averaged. docs/teachers.md has examples.
      stop: whether to save and stop after a step; `preemption.StopRequest()` listens to signals.
      progress: what shows how the run goes on; None makes one that writes to standard error.
      command: what the user typed, for the report.

    Returns:
      What `results.json` holds.

    Raises:
      config.ConfigError: for a wrong config or folder, or one that another process runs in, before
        anything is compiled.
      data.DataError: if the data set can't be loaded.
      models.TeacherError: for a `teacher` that can't be learned from.
      training.member.Diverged, training.preemption.Stopped: see there; run again to continue.
    """
    if mode not in MODES:
        raise ConfigError(f"mode: expected one of {', '.join(MODES)}; got {mode!r}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.held(Folder.at(absolute(folder))))
        if progress is None:
            progress = stack.enter_context(Progress(enabled=jax.process_index() == 0))
        return _run(config, folder, mode, dataset, teacher, stop, progress, command)


def _run(
    values: Mapping[str, Any],
    folder: str | os.PathLike[str],
    mode: str,
    dataset: data.Dataset | None,
    teacher: Any,
    stop: Callable[[int], bool],
    progress: Progress,
    command: str,
) -> dict[str, Any]:
    """Does what `run` does; its arguments are there, `values` being its `config`."""
    here = Folder(absolute(folder))
    config.parse(values)
    given = None if teacher is None else teachers.as_teacher(teacher)
    values = adopt.adopt(values) if given is None else _given(values)
    joined = workdir.joined(here, values)
    settings = config.parse(joined)
    chosen = arms.resolve(settings)
    for role in ("teacher", "student"):
        if role == "student" or given is None:
            models.check_model(role, getattr(settings, role))
    if mode != "train" and not here.config.exists():
        raise ConfigError(
            f"--workdir: expected the folder of a run for --mode={mode}, got {here.root}"
        )
    progress.every = settings.log.progress_seconds
    with progress.during("loading data"):
        mesh = sharding.data_mesh()
        images = load_images(settings.data, settings.seed, mesh, dataset)
    check_counts(images, settings.analysis)
    workdir.check_images(here, images.about())
    adopt.check(settings, images.about())
    if given is not None:
        teachers.check(given, images.test.image_shape, images.num_classes)
    with progress.during("making models"):
        made = Run(settings, chosen, joined, here, images, mesh, progress, stop, given)
        works = made.works()
        told = summary.first_lines(folder, settings, images, works, made.num_groups())
    if jax.process_index() == 0:
        workdir.claim(here, joined, command, images.about())
    sharding.barrier("claimed")
    if cpu.is_tuned() and jax.default_backend() == "cpu":
        told.append(cpu.NOTE)
    for line in told:
        progress.say(line)
    if mode == "train":
        progress.plan(works)
        made.train()
    elif mode == "evaluate":
        made.evaluate()
    if mode != "evaluate":
        made.analyse(again=mode == "analyze")
    with progress.during("writing the report"):
        return _report(here)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON has it, with a teacher that the config doesn't describe."""
    made = workdir.plain(values)
    fresh = workdir.plain(config.get_defaults().to_dict())["teacher"]
    made["teacher"] = {**fresh, "model": models.GIVEN, "duration": "0 epochs"}
    return made


def _report(folder: Folder) -> dict[str, Any]:
    """Writes `results.json` and `report.html` from what is in a run's folder."""
    from mixkd_jax.report import report  # loads matplotlib

    if jax.process_index() == 0:
        report.write(folder.root)
    sharding.barrier("reported")
    return json.loads(folder.results.read_text())
