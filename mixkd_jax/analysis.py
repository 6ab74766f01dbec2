"""The vicinal analysis and calibration of all models of a job, from their checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from mixkd_jax.data.types import Split
from mixkd_jax.evaluation import analyse, corruptions
from mixkd_jax.files import write_json
from mixkd_jax.job import Job
from mixkd_jax.models.network import Variables
from mixkd_jax.setup import Model
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import Images, OnDevice
from mixkd_jax.training.progress import Clock

# From a model's name, kind and arm to the step and variables of its newest checkpoint, if any.
Newest = Callable[[str, Model, str], tuple[int, Variables] | None]


def analyse_all(job: Job, newest: Newest, *, again: bool = False) -> None:
    """Writes `analysis.json` of the teacher and of every student that has a checkpoint.

    Students are measured beside the teacher; without one nothing is analysed. Images are those
    that students learn from and the test images, as the models see them when they are evaluated.

    Args:
      job: with its folder.
      newest: reads checkpoints.
      again: whether to analyse also what was analysed at the same step; the files then come out
        the same.
    """
    names = [f"arms/{arm}/{seed}" for arm in job.settings.arms for seed in job.settings.seeds]
    left = [name for name in ["teacher", *names] if again or not _is_done(job, name)]
    if not left or not job.settings.analysis.pairs:
        return
    teacher = newest("teacher", job.teacher, "ce")
    if teacher is None:
        return
    questions = _questions(job)
    clock = Clock(job.folder / "teacher" / "time.json")
    with clock.measure("analyse"):
        reference = _interview(job, job.teacher, teacher[1], questions)(teacher[1])
        found = analyse.analyse(questions, reference)
    if "teacher" in left:
        _write(job, "teacher", teacher[0], found, clock)
    interview = None
    for name in (name for name in left if name != "teacher"):
        student = newest(name, job.student, name.split("/")[1])
        if student is None:
            continue
        clock = Clock(job.folder / name / "time.json")
        with clock.measure("analyse"):
            interview = interview or _interview(job, job.student, student[1], questions)
            found = analyse.analyse(questions, interview(student[1]), reference)
        _write(job, name, student[0], found, clock)


def _is_done(job: Job, name: str) -> bool:
    """Whether a model was analysed after its last step."""
    file = job.folder / name / "analysis.json"
    last = (job.teacher if name == "teacher" else job.student).steps.total
    return sharding.agreed(file.exists() and json.loads(file.read_text())["step"] == last)


def _questions(job: Job) -> analyse.Questions:
    settings = job.settings
    return analyse.create_questions(
        {"train": job.student.images, "test": job.inputs.test},
        job.inputs.validation,
        _corrupted(job),
        num_pairs=settings.analysis.pairs,
        path_pairs=settings.analysis.path_pairs,
        num_bins=settings.evaluation.num_bins,
        seed=settings.seed,
    )


def _corrupted(job: Job) -> Images | None:
    """Returns the first test images, corrupted; every device has all of them."""
    test = job.inputs.test
    number = min(job.settings.analysis.corrupted_images, len(test))
    if not number:
        return None
    indices = np.arange(number)
    taken = test.take(np.pad(indices, (0, -number % job.mesh.size)))
    images = np.asarray(multihost_utils.process_allgather(taken, tiled=True))[:number]
    split = Split(images, test.labels(indices))
    return OnDevice.put(corruptions.corrupt_all(split, job.settings.seed), job.mesh)


def _interview(job: Job, model: Model, variables: Variables, questions: analyse.Questions):
    return analyse.create_interview(job.ask(model, variables), questions)


def _write(job: Job, name: str, step: int, found: dict, clock: Clock) -> None:
    """Writes what was found; the time is that of the first analysis, so that a second is alike."""
    if jax.process_index() != 0:
        return
    path = job.folder / name / "analysis.json"
    if not path.exists():
        clock.save()
    write_json(path, {"step": step, **found})
