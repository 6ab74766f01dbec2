"""The compiled step: one for all seeds of an arm, which differ in their keys alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from mixkd_jax.data import device
from mixkd_jax.models.network import Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.state import TrainState, create_state
from mixkd_jax.training.step import Recipe, train_step


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What one arm's models need to take steps.

    Attributes:
      recipe: what is fixed.
      examples: the training split, on every device.
      teacher_variables: None if nothing is distilled.
      init: from a key to the state before the first step.
      advance: (state, order, key, number of steps) to the state after them; the old state is gone.
      steps_per_dispatch: the most steps that `advance` takes.
    """

    recipe: Recipe
    examples: device.Examples
    init: Callable[[jax.Array], TrainState]
    advance: Callable[[TrainState, jax.Array, jax.Array, int], TrainState]
    steps_per_dispatch: int


def compile_trainer(
    recipe: Recipe,
    examples: device.Examples,
    teacher_variables: Variables | None,
    *,
    steps_per_dispatch: int = 0,
) -> Trainer:
    """Compiles a recipe's step for the mesh of its recipe.

    Args:
      recipe: what is fixed.
      examples: on every device of the mesh.
      teacher_variables: likewise; None without a teacher.
      steps_per_dispatch: how many steps the device takes at once; 0 chooses. On a CPU it is 1:
        there XLA runs convolutions within a loop many times slower than outside.
    """
    if not steps_per_dispatch:
        steps_per_dispatch = 1 if jax.default_backend() == "cpu" else 50
    on_all = sharding.replicated(recipe.mesh)

    def steps(state, examples, order, teacher_variables, key, count):
        step = functools.partial(
            train_step,
            recipe,
            examples=examples,
            order=order,
            teacher_variables=teacher_variables,
            key=key,
        )
        if steps_per_dispatch == 1:
            return step(state)
        return jax.lax.fori_loop(0, count, lambda _, state: step(state), state)

    key = jax.device_put(jax.random.key(0), on_all)
    order = epoch_orders(key, examples, recipe)(0)
    compiled = (
        jax.jit(steps, donate_argnums=0, out_shardings=on_all)
        .lower(abstract_state(recipe, examples), examples, order, teacher_variables, key, 1)
        .compile()
    )

    def advance(state, order, key, count):
        return compiled(state, examples, order, teacher_variables, key, count)

    return Trainer(recipe, examples, _init(recipe, examples), advance, steps_per_dispatch)


def _init(recipe: Recipe, examples: device.Examples) -> Callable[[jax.Array], TrainState]:
    def init(key: jax.Array) -> TrainState:
        image_shape = examples.images.shape[1:]
        return create_state(key, recipe.student, image_shape, recipe.optimizer, recipe.metrics)

    return jax.jit(init, out_shardings=sharding.replicated(recipe.mesh))


def abstract_state(recipe: Recipe, examples: device.Examples) -> TrainState:
    """Returns the shapes, dtypes and sharding of the recipe's state, without computing it."""
    on_all = sharding.replicated(recipe.mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_all),
        jax.eval_shape(_init(recipe, examples), jax.random.key(0)),
    )


def epoch_orders(
    key: jax.Array, examples: device.Examples, recipe: Recipe
) -> Callable[[int], jax.Array]:
    """Returns the function from an epoch to its order i32[N], which remembers the last one."""
    num_examples = examples.labels.shape[0]
    shuffle = jax.jit(
        lambda key, epoch: device.epoch_order(key, epoch, num_examples),
        out_shardings=sharding.replicated(recipe.mesh),
    )
    return functools.lru_cache(maxsize=1)(lambda epoch: shuffle(key, epoch))
