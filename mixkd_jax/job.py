"""What a job is made of: data, models and recipes, all known before anything is compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax
from etils import epath
from jax.sharding import Mesh

from mixkd_jax import config, data, models
from mixkd_jax.config import ConfigError
from mixkd_jax.data.device import Augmentation, Examples
from mixkd_jax.data.parts import split_parts
from mixkd_jax.models.network import Network
from mixkd_jax.training import objectives, sharding
from mixkd_jax.training.arms import ARMS
from mixkd_jax.training.loop import Steps, Surroundings
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.optimizers import create_optimizer
from mixkd_jax.training.progress import Progress
from mixkd_jax.training.schedules import create_schedule
from mixkd_jax.training.step import Recipe


@dataclasses.dataclass(frozen=True)
class Model:
    """The teacher or the student of a job, and how it is trained.

    Attributes:
      batch_size: examples in a step.
      network: the module and its preprocessing.
      examples: what it learns from, on every device.
      steps: the durations of its training.
      schedule: its learning rate.
      optimizer: from gradients to updates.
    """

    batch_size: int
    network: Network
    examples: Examples
    steps: Steps
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class Job:
    """A config, its folder, and all that was built from them.

    Attributes:
      settings: the checked config.
      values: the config as it was given.
      folder: of the run.
      mesh: all devices.
      num_classes: C.
      teacher: the model that is asked.
      student: the model that is trained in every arm and for every seed.
      validation: held-out training images; None if there are none.
      test: the images that results are measured on.
      around: where training writes, and whether it is to stop.
    """

    settings: config.Experiment
    values: Mapping[str, Any]
    folder: epath.Path
    mesh: Mesh
    num_classes: int
    teacher: Model
    student: Model
    validation: Examples | None
    test: Examples
    around: Surroundings


def prepare(
    settings: config.Experiment,
    values: Mapping[str, Any],
    folder: epath.Path,
    dataset: data.Dataset | None = None,
    stop: Callable[[int], bool] = lambda step: False,
) -> Job:
    """Loads the data and builds all parts of a job; compiles and writes nothing.

    Raises:
      ConfigError: for a config that names what there isn't, or doesn't fit the data or devices.
      data.DataError: if the data set can't be loaded.
    """
    for arm in settings.arms:
        config.choose("config.arms", arm, ARMS)
    objectives.create_objective(settings.loss)
    for name, training in (("teacher", settings.teacher), ("student", settings.student)):
        _module(name, training, num_classes=2)
    if dataset is None:
        dataset = data.load(
            settings.data.name, data_dir=settings.data.data_dir, download=settings.data.download
        )
    parts = split_parts(dataset, settings.data, settings.seed)
    mesh = sharding.data_mesh()
    put = functools.partial(_to_devices, sharding=sharding.replicated(mesh))
    build = functools.partial(_model, settings, dataset, mesh)
    master = jax.process_index() == 0
    return Job(
        settings=settings,
        values=values,
        folder=folder,
        mesh=mesh,
        num_classes=dataset.num_classes,
        teacher=build("teacher", settings.teacher, put(parts.teacher)),
        student=build("student", settings.student, put(parts.student)),
        validation=None if parts.validation is None else put(parts.validation),
        test=put(parts.test),
        around=Surroundings(
            MetricsLog(folder, enabled=master),
            Progress(every=settings.log.progress_seconds, enabled=master),
            stop,
        ),
    )


def recipe(job: Job, model: Model, arm: str) -> Recipe:
    """Returns how `model` is trained in an arm; the teacher itself is trained as in "ce"."""
    kind = ARMS[arm]
    return Recipe(
        student=model.network,
        teacher=job.teacher.network if kind.distils else None,
        objective=objectives.create_objective(job.settings.loss)
        if kind.distils
        else objectives.cross_entropy,
        optimizer=model.optimizer,
        mixing=job.settings.mixup if kind.mixes else None,
        augmentation=Augmentation(job.settings.data.crop_padding, job.settings.data.flip),
        batch_size=model.batch_size,
        num_classes=job.num_classes,
        mesh=job.mesh,
    )


def _to_devices(split: data.Split, sharding: jax.sharding.Sharding) -> Examples:
    return Examples(*jax.device_put((split.images, split.labels), sharding))


def _module(name: str, training: config.Training, num_classes: int) -> nn.Module:
    try:
        return models.create_model(training.model, num_classes=num_classes, dtype=training.dtype)
    except ValueError as error:
        raise ConfigError(f"config.{name}.model: {error}") from None


def _model(
    settings: config.Experiment,
    dataset: data.Dataset,
    mesh: Mesh,
    name: str,
    training: config.Training,
    examples: Examples,
) -> Model:
    total, path = examples.labels.shape[0], f"config.{name}.batch_size"
    if training.batch_size > total:
        raise ConfigError(
            f"{path}: expected at most the {total} images that the {name} learns from, "
            f"got {training.batch_size}"
        )
    sharding.check_divisible(path, training.batch_size, mesh)
    channels = dataset.image_shape[-1]
    for field in ("mean", "std"):
        numbers = getattr(settings.data, field)
        if len(numbers) not in (1, channels):
            raise ConfigError(
                f"config.data.{field}: expected 1 number or {channels}, one per channel of "
                f"{dataset.name}, got {len(numbers)}"
            )
    steps = Steps.resolve(training, settings.log, settings.checkpoint, total)
    try:
        schedule = create_schedule(
            training.schedule,
            num_examples=total,
            batch_size=training.batch_size,
            total=steps.total,
        )
        optimizer = create_optimizer(training.optimizer, schedule)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.*", f"config.{name}")) from None
    network = Network(
        _module(name, training, dataset.num_classes), settings.data.mean, settings.data.std
    )
    return Model(training.batch_size, network, examples, steps, schedule, optimizer)
