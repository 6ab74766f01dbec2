"""The networks of a run, from its config, and the files of weights that they start from."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax

from mixkd_jax import config, models
from mixkd_jax.config import ConfigError
from mixkd_jax.models import own
from mixkd_jax.models.imagenet import PixelStatistics
from mixkd_jax.models.network import Network, Variables

GIVEN = "given"  # a teacher's model that isn't by name: `experiment.run(..., teacher=...)`


def check_model(name: str, training: config.Training) -> None:
    """Raises ConfigError for what is wrong with a model whatever the data are."""
    if training.model == GIVEN:
        raise ConfigError(
            f'config.{name}.model: expected the name of a model, got "{GIVEN}", which is what a '
            "run has whose teacher is given from Python: experiment.run(..., teacher=...)"
        )
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
    if training.pixels != "data":
        try:
            models.pixel_statistics(training.model, pipeline=training.pixels)
        except ValueError as error:
            raise ConfigError(f"config.{name}.pixels: {error}") from None
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


def create_module(
    model: str, head: str, dtype: str, *, num_classes: int, **options: Any
) -> nn.Module:
    """Returns a model by its fields of the config; `options` are those of `models.create_model`."""
    if head:
        options["head"] = head
    return models.create_model(model, num_classes=num_classes, dtype=dtype, **options)


def pixels(settings: config.Data, training: config.Training) -> PixelStatistics:
    """Returns how a model sees pixels."""
    if training.pixels == "data":
        return PixelStatistics(settings.mean, settings.std)
    return models.pixel_statistics(training.model, pipeline=training.pixels)


def create_network(
    settings: config.Data, training: config.Training, num_classes: int, **options: Any
) -> Network:
    """Returns a model and its preprocessing; `options` are those of `models.create_model`."""
    module = create_module(
        training.model, training.head, training.dtype, num_classes=num_classes, **options
    )
    size = training.image_size or settings.image_size
    return Network(module, *pixels(settings, training), image_size=size)


def check_fits(
    name: str,
    training: config.Training,
    network: Network,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> None:
    """Raises ConfigError if a model refuses images of this shape; only traces it."""
    key = jax.eval_shape(jax.random.key, 0)
    try:
        if ":" in training.model:
            side = network.image_size
            shape = (side, side, image_shape[-1]) if side else image_shape
            own.check(training.model, network.module, shape, num_classes)
        jax.eval_shape(functools.partial(network.init, image_shape=image_shape), key)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.{name}.model: {training.model}: {error}") from None


def read_weights(
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
            return weights.load_weights(file, module, image_shape, host=True)
        nothing = {"params": {}, "batch_stats": {}}
        return weights.load_backbone(file, module, image_shape, nothing, host=True)
    except (TypeError, weights.WeightsError) as error:
        field = "weights" if training.weights else "backbone_weights"
        raise ConfigError(f"config.{name}.{field}: {error}") from None
