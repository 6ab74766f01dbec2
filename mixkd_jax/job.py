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
from mixkd_jax.models.network import Network, Variables
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
      start: variables to begin with, from files; None begins at random.
      head: the same model with a frozen backbone, trained first; None if there is no such stage.
    """

    batch_size: int
    network: Network
    examples: Examples
    steps: Steps
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    start: Variables | None = None
    head: Model | None = None


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
        _check(name, training)
    if dataset is None:
        dataset = _load(settings.data)
    _check_images(settings.data, dataset)
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
        augmentation=_augmentation(job.settings.data),
        batch_size=model.batch_size,
        num_classes=job.num_classes,
        mesh=job.mesh,
    )


def _to_devices(split: data.Split, sharding: jax.sharding.Sharding) -> Examples:
    return Examples(*jax.device_put((split.images, split.labels), sharding))


def _load(settings: config.Data) -> data.Dataset:
    side = settings.image_size if settings.name == "folder" else 0
    return data.load(
        settings.name, data_dir=settings.data_dir, download=settings.download, image_size=side
    )


def _augmentation(settings: config.Data) -> Augmentation:
    return Augmentation(settings.crop_padding, settings.flip, settings.resize, settings.image_size)


def _check(name: str, training: config.Training) -> None:
    """Raises ConfigError for what is wrong with a model whatever the data are."""
    _module(name, training, num_classes=2)
    if training.head_duration.amount:
        _module(name, training, num_classes=2, train_backbone=False)
    if training.pixels != "data" and training.model not in models.imagenet.NAMES:
        raise ConfigError(
            f'config.{name}.pixels: expected "data" for {training.model}, got "{training.pixels}"; '
            f"others are for {', '.join(models.imagenet.NAMES)}"
        )
    if not training.duration.amount and not training.weights:
        raise ConfigError(
            f"config.{name}.duration: expected a positive duration, or a file of its weights in "
            f"config.{name}.weights, got neither"
        )
    if training.weights and training.backbone_weights:
        raise ConfigError(
            f"config.{name}.backbone_weights: expected nothing beside config.{name}.weights, got "
            f"{training.backbone_weights!r}"
        )


def _check_images(settings: config.Data, dataset: data.Dataset) -> None:
    """Raises ConfigError for what doesn't fit the images."""
    channels = dataset.image_shape[-1]
    for field in ("mean", "std"):
        numbers = getattr(settings, field)
        if len(numbers) not in (1, channels):
            raise ConfigError(
                f"config.data.{field}: expected 1 number or {channels}, one per channel of "
                f"{dataset.name}, got {len(numbers)}"
            )
    if settings.resize and not 0 < settings.image_size <= settings.resize:
        raise ConfigError(
            f"config.data.resize: expected at least config.data.image_size, the size of a crop, "
            f"and that above 0; got {settings.resize} and {settings.image_size}"
        )
    if settings.resize and settings.crop_padding:
        raise ConfigError(
            "config.data.crop_padding: expected 0 with config.data.resize, which crops already, "
            f"got {settings.crop_padding}"
        )


def _module(name: str, training: config.Training, *, num_classes: int, **options: Any) -> nn.Module:
    try:
        return models.create_model(
            training.model, num_classes=num_classes, dtype=training.dtype, **options
        )
    except ValueError as error:
        field = "head_duration" if options else "model"
        raise ConfigError(f"config.{name}.{field}: {error}") from None


def _model(
    settings: config.Experiment,
    dataset: data.Dataset,
    mesh: Mesh,
    name: str,
    training: config.Training,
    examples: Examples,
) -> Model:
    """Builds a model and its training, with a model of the first stage if there is one."""
    total, path = examples.labels.shape[0], f"config.{name}.batch_size"
    if training.batch_size > total:
        raise ConfigError(
            f"{path}: expected at most the {total} images that the {name} learns from, "
            f"got {training.batch_size}"
        )
    sharding.check_divisible(path, training.batch_size, mesh)
    network = _network(settings.data, name, training, dataset.num_classes)
    side = network.image_size
    image_shape = (side, side, dataset.image_shape[-1]) if side else dataset.image_shape
    model = Model(
        batch_size=training.batch_size,
        network=network,
        examples=examples,
        **_durations(settings, name, training, total),
        start=_start(training, network, image_shape),
    )
    if not training.head_duration.amount:
        return model
    stage = _head_stage(training)
    frozen = _module(name, training, num_classes=dataset.num_classes, train_backbone=False)
    return dataclasses.replace(
        model,
        head=dataclasses.replace(
            model,
            network=dataclasses.replace(network, module=frozen),
            **_durations(settings, name, stage, total),
        ),
    )


def _network(
    settings: config.Data, name: str, training: config.Training, num_classes: int
) -> Network:
    mean, std = settings.mean, settings.std
    if training.pixels != "data":
        mean, std = models.pixel_statistics(training.model, pipeline=training.pixels)
    module = _module(name, training, num_classes=num_classes)
    return Network(module, mean, std, settings.image_size)


def _durations(
    settings: config.Experiment, name: str, training: config.Training, num_examples: int
) -> dict[str, Any]:
    """Returns steps, schedule and optimizer, as `Model` takes them."""
    steps = Steps.resolve(training, settings.log, settings.checkpoint, num_examples)
    try:
        schedule = create_schedule(
            training.schedule,
            num_examples=num_examples,
            batch_size=training.batch_size,
            total=steps.total,
        )
        optimizer = create_optimizer(training.optimizer, schedule)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.*", f"config.{name}")) from None
    return {"steps": steps, "schedule": schedule, "optimizer": optimizer}


def _head_stage(training: config.Training) -> config.Training:
    """Returns the first stage's training: Adam at a constant rate, nothing decayed or clipped."""
    return dataclasses.replace(
        training,
        duration=training.head_duration,
        optimizer=dataclasses.replace(
            training.optimizer, name="adam", weight_decay=0.0, clip_norm=0.0
        ),
        schedule=dataclasses.replace(
            training.schedule,
            name="constant",
            learning_rate=training.head_learning_rate,
            warmup=config.Duration(0, "steps"),
        ),
    )


def _start(
    training: config.Training, network: Network, image_shape: tuple[int, int, int]
) -> Variables | None:
    """Reads the files that a training starts from; raises WeightsError if one doesn't fit."""
    if not training.weights and not training.backbone_weights:
        return None
    from mixkd_jax import weights  # loads h5py

    if training.weights:
        return weights.load_keras(training.weights, network.module, image_shape)
    fresh = jax.jit(functools.partial(network.init, image_shape=image_shape))(jax.random.key(0))
    return weights.load_backbone(training.backbone_weights, network.module, image_shape, fresh)
