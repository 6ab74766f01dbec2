"""The two models of a run, from its config: networks, durations, optimizers, first variables."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh

from mixkd_jax import config, models
from mixkd_jax.config import ConfigError
from mixkd_jax.models.network import Network, Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import Images
from mixkd_jax.training.loop import Steps
from mixkd_jax.training.optimizers import create_optimizer
from mixkd_jax.training.schedules import create_schedule


@dataclasses.dataclass(frozen=True)
class Model:
    """The teacher or the student of a job, and how it is trained.

    Attributes:
      batch_size: examples in a step.
      network: the module and its preprocessing.
      images: what it learns from.
      steps: the durations of its training.
      schedule: its learning rate.
      optimizer: from gradients to updates.
      start: variables to begin with, from files; what they lack is random, None is all.
      head: the same model with a frozen backbone, trained first; None if there is no such stage.
      parameters: how they lie on the devices; see `training.step.Recipe`.
    """

    batch_size: int
    network: Network
    images: Images
    steps: Steps
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    start: Variables | None = None
    head: Model | None = None
    parameters: str = "replicated"


def check_model(name: str, training: config.Training) -> None:
    """Raises ConfigError for what is wrong with a model whatever the data are."""
    try:
        models.create_model(training.model, num_classes=2)
    except ValueError as error:
        raise ConfigError(f"config.{name}.model: {error}") from None
    stage = training.head_duration
    for field, got, only in (
        ("pixels", training.pixels, "data"),
        ("head", training.head, ""),
        ("head_duration", f"{stage.amount:g} {stage.unit}", f"0 {stage.unit}"),
    ):
        if got != only and training.model not in models.imagenet.NAMES:
            raise ConfigError(
                f'config.{name}.{field}: expected "{only}" for {training.model}, got "{got}"; '
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


def _module(training: config.Training, *, num_classes: int, **options: Any) -> nn.Module:
    if training.head:
        options["head"] = training.head
    return models.create_model(
        training.model, num_classes=num_classes, dtype=training.dtype, **options
    )


def create_model(
    settings: config.Experiment,
    name: str,
    training: config.Training,
    images: Images,
    *,
    num_classes: int,
    mesh: Mesh,
) -> Model:
    """Builds a model and its training, with a model of the first stage if there is one.

    Raises:
      ConfigError: for settings that don't fit the images or the devices, or a file of weights
        that doesn't fit the model.
    """
    path = f"config.{name}.batch_size"
    if training.batch_size > len(images):
        raise ConfigError(
            f"{path}: expected at most the {len(images)} images that the {name} learns from, "
            f"got {training.batch_size}"
        )
    sharding.check_divisible(path, training.batch_size, mesh)
    network = _network(settings.data, training, num_classes)
    _check_fits(name, training, network, images.image_shape)
    model = Model(
        batch_size=training.batch_size,
        network=network,
        images=images,
        **_durations(settings, name, training, len(images)),
        start=_start(name, training, network, images.image_shape),
        parameters=settings.teacher_parameters if name == "teacher" else "replicated",
    )
    if not training.head_duration.amount:
        return model
    frozen = _module(training, num_classes=num_classes, train_backbone=False)
    head = dataclasses.replace(
        model,
        network=dataclasses.replace(network, module=frozen),
        **_durations(settings, name, _head_stage(training), len(images)),
    )
    return dataclasses.replace(model, head=head)


def _network(settings: config.Data, training: config.Training, num_classes: int) -> Network:
    mean, std = settings.mean, settings.std
    if training.pixels != "data":
        mean, std = models.pixel_statistics(training.model, pipeline=training.pixels)
    module = _module(training, num_classes=num_classes)
    return Network(module, mean, std, settings.image_size)


def _check_fits(
    name: str, training: config.Training, network: Network, image_shape: tuple[int, int, int]
) -> None:
    """Raises ConfigError if a model refuses images of this shape; only traces it."""
    key = jax.eval_shape(jax.random.key, 0)
    try:
        jax.eval_shape(functools.partial(network.init, image_shape=image_shape), key)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.{name}.model: {training.model}: {error}") from None


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
    name: str, training: config.Training, network: Network, image_shape: tuple[int, int, int]
) -> Variables | None:
    """Reads the files that a training starts from; raises ConfigError if one doesn't fit."""
    if not training.weights and not training.backbone_weights:
        return None
    from mixkd_jax import weights  # loads h5py

    if network.image_size:
        image_shape = (network.image_size, network.image_size, image_shape[-1])
    module, file = network.module, training.weights or training.backbone_weights
    try:
        if training.weights:
            return weights.load_keras(file, module, image_shape, host=True)
        nothing = {"params": {}, "batch_stats": {}}
        return weights.load_backbone(file, module, image_shape, nothing, host=True)
    except (TypeError, weights.WeightsError) as error:
        field = "weights" if training.weights else "backbone_weights"
        raise ConfigError(f"config.{name}.{field}: {error}") from None
