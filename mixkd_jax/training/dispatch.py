"""The compiled step: one for all seeds of an arm, which differ in their keys alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from mixkd_jax.data import device
from mixkd_jax.models.network import Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import Images, Portion
from mixkd_jax.training.state import TrainState, create_state
from mixkd_jax.training.step import Recipe, train_step


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What one arm's models need to take steps.

    Attributes:
      recipe: what is fixed.
      images: what is learned from.
      init: from a key to the state before the first step.
      advance: (state, feed, key, number of steps) to the state after them; the old may be gone.
      steps_per_dispatch: the most steps that `advance` takes.
    """

    recipe: Recipe
    images: Images
    init: Callable[[jax.Array], TrainState]
    advance: Callable[[TrainState, device.Feed, jax.Array, int], TrainState]
    steps_per_dispatch: int


def compile_trainer(
    recipe: Recipe,
    images: Images,
    teacher_variables: Variables | None,
    *,
    steps_per_dispatch: int = 0,
    trains: bool = True,
) -> Trainer:
    """Compiles a recipe's step for the mesh of its recipe.

    Args:
      recipe: what is fixed.
      images: what is learned from.
      teacher_variables: on every device, or split over them; None without a teacher.
      steps_per_dispatch: how many steps the device takes at once; 0 chooses. On a CPU it is 1:
        there XLA runs convolutions within a loop many times slower than outside.
      trains: if False, nothing is compiled: for a model that takes no step.
    """
    if not trains:
        return Trainer(recipe, images, _init(recipe, images), _never, 1)
    if not steps_per_dispatch:
        steps_per_dispatch = 1 if jax.default_backend() == "cpu" else 50

    def steps(state, feed, teacher_variables, key, count):
        step = functools.partial(
            train_step, recipe, feed=feed, teacher_variables=teacher_variables, key=key
        )
        if steps_per_dispatch == 1:
            return step(state)
        return jax.lax.fori_loop(0, count, lambda _, state: step(state), state)

    key = sharding.replicated_key(recipe.mesh, jax.random.key(0))
    feed = feeds(recipe, images, key)(0).feed
    # A CPU has memory for two states, and updating one in place costs 4 % of a step there.
    donated = () if jax.default_backend() == "cpu" else (0,)
    state = abstract_state(recipe, images)
    compiled = (
        jax.jit(steps, donate_argnums=donated, out_shardings=_places(state))
        .lower(state, feed, teacher_variables, key, 1)
        .compile()
    )

    def advance(state, feed, key, count):
        return compiled(state, feed, teacher_variables, key, count)

    return Trainer(recipe, images, _init(recipe, images), advance, steps_per_dispatch)


def _never(*_) -> TrainState:
    raise AssertionError("a trainer that was not compiled takes no step")


def feeds(recipe: Recipe, images: Images, key: jax.Array) -> Callable[[int], Portion]:
    """Returns what the steps of a recipe are fed with, as a function of the step."""
    return images.feeds(key, recipe.batch_size, pairs=recipe.mixing is not None)


def abstract_state(recipe: Recipe, images: Images) -> TrainState:
    """Returns the shapes, dtypes and sharding of the recipe's state, without computing it."""
    state = jax.eval_shape(functools.partial(_create, recipe, images), jax.random.key(0))
    split = functools.partial(sharding.parameters, recipe.mesh, how=recipe.parameters)
    places = dataclasses.replace(
        jax.tree.map(lambda _: sharding.replicated(recipe.mesh), state),
        params=split(state.params),
        opt_state=split(state.opt_state),
    )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        state,
        places,
    )


def _places(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def _create(recipe: Recipe, images: Images, key: jax.Array) -> TrainState:
    metrics = (*recipe.metrics, *images.metrics)
    return create_state(key, recipe.student, images.image_shape, recipe.optimizer, metrics)


def _init(recipe: Recipe, images: Images) -> Callable[[jax.Array], TrainState]:
    create = functools.partial(_create, recipe, images)
    return jax.jit(create, out_shardings=_places(abstract_state(recipe, images)))
