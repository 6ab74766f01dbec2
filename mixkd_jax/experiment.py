"""The job: train a teacher, distil students from it in every arm, evaluate, report."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mixkd_jax import analysis, config, data, workdir
from mixkd_jax.evaluation import evaluate, results
from mixkd_jax.files import absolute, write_json
from mixkd_jax.job import Job, prepare, recipe
from mixkd_jax.models.network import Variables
from mixkd_jax.setup import Model
from mixkd_jax.training import sharding
from mixkd_jax.training.arms import ARMS
from mixkd_jax.training.checkpoint import Checkpoints
from mixkd_jax.training.dispatch import Trainer, abstract_state, compile_trainer
from mixkd_jax.training.feeds import Images
from mixkd_jax.training.loop import Run, train
from mixkd_jax.training.progress import Clock

Evaluator = Callable[[Variables], evaluate.Evaluation]


class Measures(NamedTuple):
    """A model's evaluations on the test images and on the validation images, if any."""

    test: Evaluator
    validation: Evaluator | None


def run(
    values: Mapping[str, Any],
    folder: str | epath.Path,
    *,
    mode: str = "train",
    dataset: data.Dataset | None = None,
    stop: Callable[[int], bool] = lambda step: False,
    command: str = "",
) -> dict[str, Any]:
    """Runs a whole job, or what is left of it, and returns its results.

    Args:
      values: the config, with the fields of configs/default.py.
      folder: of this run; one that holds an unfinished run of the same config is continued.
      mode: "train", or "evaluate" or "analyze" to measure the newest checkpoints that are there.
      dataset: used instead of loading the config's.
      stop: whether to save and stop after a step; `preemption.StopRequest()` listens to SIGTERM.
      command: what the user typed, for the report.

    Returns:
      What `results.json` holds.

    Raises:
      config.ConfigError: for a wrong config or folder, before anything is compiled.
      data.DataError: if the data set can't be loaded.
      training.loop.Diverged, training.preemption.Stopped: see there; run again to continue.
    """
    settings = config.parse(values)
    folder = absolute(folder)
    workdir.check(folder, values)
    if mode != "train" and not (folder / "config.json").exists():
        raise config.ConfigError(
            f"--workdir: expected the folder of a run for --mode={mode}, got {folder}"
        )
    job = prepare(settings, values, folder, dataset, stop)
    if jax.process_index() == 0:
        workdir.claim(folder, values, command, job.inputs.about())
    sharding.barrier("claimed")
    if mode == "train":
        teacher_variables = run_teacher(job)
        for arm in settings.arms:
            run_arm(job, arm, teacher_variables)
    elif mode == "evaluate":
        evaluate_all(job)
    if mode != "evaluate":
        analysis.analyse_all(job, functools.partial(_newest, job), again=mode == "analyze")
    return report(folder)


def run_teacher(job: Job) -> Variables:
    """Trains and evaluates the teacher, or what is left of it, and returns its variables."""
    model = job.teacher
    if not _is_done(job, "teacher", model):
        clock = _clock(job, "teacher")
        trainer = _compile(job, model, "ce", None, clock)
        measures = _evaluators(job, model, clock)
        (start,) = _starts(job, model, {"head/teacher": 0})
        _run_model(job, "teacher", 0, model, trainer, measures, clock, start)
    with _checkpoints(job, "teacher") as checkpoints:
        return checkpoints.restore(abstract_state(recipe(job, model, "ce"), model.images)).variables


def run_arm(job: Job, arm: str, teacher_variables: Variables) -> None:
    """Trains and evaluates an arm's students, one for each seed; all share one compiled step."""
    model = job.student
    left = [seed for seed in job.settings.seeds if not _is_done(job, _name(arm, seed), model)]
    if not left:
        return
    first = _clock(job, _name(arm, left[0]))
    trainer = _compile(job, model, arm, teacher_variables, first)
    measures = _evaluators(job, model, first, _on_validation(job, arm, teacher_variables))
    starts = _starts(job, model, {f"head/student/{seed}": 1 + seed for seed in left})
    for seed, start in zip(left, starts, strict=True):
        name = _name(arm, seed)
        clock = first if seed == left[0] else _clock(job, name)
        _run_model(job, name, 1 + seed, model, trainer, measures, clock, start)


def evaluate_all(job: Job) -> None:
    """Evaluates the newest checkpoint of every model that has one."""
    _evaluate_newest(job, ["teacher"], job.teacher)
    for arm in job.settings.arms:
        _evaluate_newest(job, [_name(arm, seed) for seed in job.settings.seeds], job.student, arm)


def report(folder: epath.Path) -> dict[str, Any]:
    """Writes `results.json` and `report.html` from what is in a run's folder."""
    from mixkd_jax.evaluation import report  # loads matplotlib

    if jax.process_index() == 0:
        results.write(folder)
        report.write(folder)
    sharding.barrier("reported")
    return results.collect(folder)


def _name(arm: str, seed: int) -> str:
    return f"arms/{arm}/{seed}"


def _names(settings: config.Experiment) -> list[str]:
    """Returns the names of all models of a job but the teacher's."""
    return [_name(arm, seed) for arm in settings.arms for seed in settings.seeds]


def _evaluated_step(folder: epath.Path) -> int | None:
    """Returns the step at which the model in a folder was evaluated."""
    file = folder / "evaluation.json"
    return json.loads(file.read_text())["step"] if file.exists() else None


def _is_done(job: Job, name: str, model: Model) -> bool:
    """Whether a model was evaluated after its last step."""
    return sharding.agreed(_evaluated_step(job.folder / name) == model.steps.total)


def _key(job: Job, number: int) -> jax.Array:
    """Returns a key on every device: 0 is the teacher's, 1 + seed a student's."""
    key = jax.random.fold_in(jax.random.key(job.settings.seed), number)
    return sharding.replicated_key(job.mesh, key)


def _clock(job: Job, name: str) -> Clock:
    return Clock(job.folder / name / "time.json")


def _checkpoints(job: Job, name: str) -> Checkpoints:
    return Checkpoints(
        job.folder / name, keep=job.settings.checkpoint.keep, config=workdir.plain(job.values)
    )


def _compile(
    job: Job, model: Model, arm: str, teacher_variables: Variables | None, clock: Clock
) -> Trainer:
    """Compiles the training step of an arm."""
    how = recipe(job, model, arm)
    with clock.measure("compile"):
        return compile_trainer(
            how,
            model.images,
            teacher_variables if how.teacher else None,
            steps_per_dispatch=job.settings.log.steps_per_dispatch,
            trains=model.steps.total > 0,
        )


def _on_validation(job: Job, arm: str, variables: Variables) -> np.ndarray | None:
    """Returns the teacher's logits on the validation images if there are any and an arm distils."""
    images = job.inputs.validation
    if images is None or not ARMS[arm].distils:
        return None
    every = np.arange(len(images), dtype=np.int32)
    ask = job.ask(job.teacher, variables)
    return ask(variables, images, every, every, np.ones(len(images), np.float32)).logits


def _evaluators(
    job: Job, model: Model, clock: Clock, teacher_logits: np.ndarray | None = None
) -> Measures:
    """Compiles the evaluation of a model on the test and on the validation images."""
    variables = abstract_state(recipe(job, model, "ce"), model.images).variables
    settings = job.settings.evaluation
    with clock.measure("compile"):
        ask = job.ask(model, variables)

    def evaluator(images: Images, teacher_logits: np.ndarray | None = None) -> Evaluator:
        return evaluate.create_evaluator(
            ask,
            images,
            teacher_logits=teacher_logits,
            batch_size=settings.batch_size,
            num_bins=settings.num_bins,
            key=_key(job, 2**32 - 1),
        )

    validation = job.inputs.validation
    return Measures(
        evaluator(job.inputs.test),
        None if validation is None else evaluator(validation, teacher_logits),
    )


def _starts(job: Job, model: Model, stages: Mapping[str, int]) -> Iterator[Variables | None]:
    """Yields what each training begins with: files, or what its first stage made of the head.

    Args:
      job: of the model.
      model: to be trained.
      stages: names of the first stages and the numbers of their keys.
    """
    trainer = None
    for name, number in stages.items():
        if model.head is None:
            yield model.start
            continue
        clock = _clock(job, name)
        with _checkpoints(job, name) as checkpoints:
            if not sharding.agreed(checkpoints.latest() == model.head.steps.total):
                trainer = trainer or _compile(job, model.head, "ce", None, clock)
                run = _run(job, name, number, model.head, checkpoints, clock, model.start)
                train(run, trainer, job.around)
            like = abstract_state(recipe(job, model.head, "ce"), model.images)
            yield checkpoints.restore(like).variables


def _run(
    job: Job,
    name: str,
    number: int,
    model: Model,
    checkpoints: Checkpoints,
    clock: Clock,
    start: Variables | None,
) -> Run:
    key = _key(job, number)
    return Run(name, key, model.steps, model.schedule, checkpoints, clock, start=start)


def _run_model(
    job: Job,
    name: str,
    number: int,
    model: Model,
    trainer: Trainer,
    measures: Measures,
    clock: Clock,
    start: Variables | None,
) -> None:
    """Trains one model to its end and evaluates it."""
    validation = measures.validation
    with _checkpoints(job, name) as checkpoints:
        run = _run(job, name, number, model, checkpoints, clock, start)
        if validation is not None:
            run = dataclasses.replace(run, validate=lambda variables: validation(variables).metrics)
        state = train(run, trainer, job.around)
    _write_evaluation(job, name, model.steps.total, state.variables, measures.test, clock)


def _evaluate_newest(job: Job, names: list[str], model: Model, arm: str = "ce") -> None:
    """Evaluates the newest checkpoint of each of `names`, which are trained alike."""
    evaluator = None
    for name in names:
        newest = _newest(job, name, model, arm)
        if newest is None:
            continue
        clock = _clock(job, name)
        evaluator = evaluator or _evaluators(job, model, clock).test
        _write_evaluation(job, name, *newest, evaluator, clock)


def _newest(job: Job, name: str, model: Model, arm: str) -> tuple[int, Variables] | None:
    """Returns the step and the variables of a model's newest checkpoint, if it has one."""
    with _checkpoints(job, name) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            job.around.progress.say(f"{name}: has no checkpoint yet")
            return None
        state = checkpoints.restore(abstract_state(recipe(job, model, arm), model.images))
    return step, state.variables


def _write_evaluation(
    job: Job, name: str, step: int, variables: Variables, evaluator: Evaluator, clock: Clock
) -> None:
    with clock.measure("evaluate"):
        evaluation = evaluator(variables)
    if jax.process_index() == 0:
        write_json(
            job.folder / name / "evaluation.json",
            {"step": step, **dataclasses.asdict(evaluation)},
        )
    clock.save()
