"""The fit of one model: all that its training is made of, and where its files lie."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from mixkd_jax import config
from mixkd_jax.data.device import Batching
from mixkd_jax.folder import ModelFolder
from mixkd_jax.models.network import Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import Checkpoints
from mixkd_jax.training.clock import Clock
from mixkd_jax.training.feeds import Images
from mixkd_jax.training.randomness import stream
from mixkd_jax.training.state import TrainState, create_state
from mixkd_jax.training.step import Recipe, measure_names


@dataclasses.dataclass(frozen=True)
class Steps:
    """A training's durations in steps; everything happens at multiples of `log`."""

    total: int
    per_epoch: int
    log: int
    validate: int
    checkpoint: int

    @classmethod
    def resolve(
        cls,
        training: config.Training,
        log: config.Log,
        checkpoint: config.Checkpoint,
        num_examples: int,
    ) -> Steps:
        """Counts the steps of durations for `num_examples` in an epoch."""

        def steps(duration: config.Duration) -> int:
            count = duration.steps(num_examples=num_examples, batch_size=training.batch_size)
            return max(count, 1)

        total = steps(training.duration) if training.duration.amount else 0
        line = min(steps(log.every), max(total, 1))
        return cls(
            total=total,
            per_epoch=num_examples // training.batch_size,
            log=line,
            validate=math.ceil(steps(log.validate_every) / line) * line,
            checkpoint=math.ceil(steps(checkpoint.every) / line) * line,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """The fit of one model.

    Attributes:
      name: of the model and, below the run's, of its folder, such as "arms/mixkd/0".
      seed: of the model, 0 for the teacher and 1 more than its own for a student.
      key: of that seed; everything random is a function of it and the step.
      recipe: what is fixed in an update.
      numbers: the floating options of the objective, by name, and "teacher_temperature".
      parts: names of the parts that the objective returns.
      batching: how its batches are made.
      images: what it learns from.
      mixup: how they are mixed; None doesn't mix.
      steps: how long, and how often what is done.
      schedule: the learning rate, to be logged.
      folder: of its files and checkpoints.
      keep: how many checkpoints stay.
      config: of the run, written beside each checkpoint.
      start: variables to begin with; a part that they lack, such as the head, is random, as all
        is with None.
      frozen: the variables of a model that isn't trained and has no checkpoints.
      best: by which of its validation's metrics the best state is kept too; "" keeps none.
      validate: from variables to metrics of held-out images; None if there are none.
    """

    name: str
    seed: int
    key: jax.Array
    recipe: Recipe
    numbers: Mapping[str, float]
    parts: tuple[str, ...]
    batching: Batching
    images: Images
    mixup: config.Mixup | None
    steps: Steps
    schedule: optax.Schedule
    folder: ModelFolder
    keep: int
    config: dict[str, Any]
    start: Variables | None = None
    frozen: Any = None
    best: str = ""
    validate: Callable[[Variables], dict[str, float]] | None = None

    @functools.cached_property
    def mixing(self) -> dict[str, jax.Array] | None:
        """The numbers of `mixup`, on every device."""
        if self.mixup is None:
            return None
        numbers = {"alpha": self.mixup.alpha, "partial": self.mixup.partial}
        numbers = {name: np.float32(value) for name, value in numbers.items()}
        return jax.device_put(numbers, sharding.replicated(self.recipe.mesh))

    def checkpoints(self) -> Checkpoints:
        """Opens the folder of the fit's checkpoints."""
        return Checkpoints(self.folder.path, keep=self.keep, config=self.config)

    def best_checkpoints(self) -> Checkpoints:
        """Opens the folder of the one checkpoint that did best on the validation images."""
        return Checkpoints(self.folder.best.path, keep=1, config=self.config)

    def clock(self) -> Clock:
        """Returns a clock that goes on from the time that the model took so far."""
        return Clock(self.folder.time)

    @property
    def abstract_state(self) -> TrainState:
        """The shapes, dtypes and sharding of the state, without computing it."""
        return _abstract_state(self.recipe, self.metrics, self.images.image_shape)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what the state sums up."""
        return (*measure_names(self.parts, self.recipe), *self.images.metrics)

    def is_whole(self) -> bool:
        """Whether there is a checkpoint of the last step."""
        if self.frozen is not None:
            return True
        return (self.folder.path / str(self.steps.total)).exists()

    def newest(self) -> tuple[int, Variables] | None:
        """Returns the step and the variables of the newest checkpoint; None if there is none."""
        if self.frozen is not None:
            return 0, self.frozen
        with self.checkpoints() as checkpoints:
            if checkpoints.latest() is None:
                return None
            return checkpoints.restore_variables(self.abstract_state.variables)

    def newest_best(self) -> tuple[int, Variables] | None:
        """Returns the same of the state that did best on the validation images, if one is kept."""
        if not self.best or not self.folder.best.path.exists():
            return None
        with self.best_checkpoints() as checkpoints:
            return checkpoints.restore_variables(self.abstract_state.variables)

    def create_variables(self, key: jax.Array) -> Variables:
        """Returns the model's variables at random, as a function of the key."""
        return _create_variables(key, self.recipe, self.images.image_shape)

    def create_state(self, variables: Variables) -> TrainState:
        """Returns the state before the first step, with these variables."""
        return create_state(variables, self.recipe.optimizer, self.metrics)


def _create_variables(key: jax.Array, recipe: Recipe, image_shape: tuple[int, ...]) -> Variables:
    return recipe.network.init(stream(key, "init"), image_shape)


@functools.lru_cache(maxsize=64)  # traced once for all seeds, and for arms that differ in numbers
def _abstract_state(
    recipe: Recipe, metrics: tuple[str, ...], image_shape: tuple[int, ...]
) -> TrainState:
    def create(key: jax.Array) -> TrainState:
        return create_state(_create_variables(key, recipe, image_shape), recipe.optimizer, metrics)

    state = jax.eval_shape(create, jax.random.key(0))
    mesh = recipe.mesh
    split = functools.partial(sharding.parameters, mesh, how=recipe.parameters)
    places = dataclasses.replace(
        jax.tree.map(lambda _: sharding.replicated(mesh), state),
        params=split(state.params),
        opt_state=split(state.opt_state),
    )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        places,
    )
