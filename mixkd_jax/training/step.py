"""One training step: mix, query the teacher, update the students.

    x̃, ỹ = mix(x_i, x_j)         a function of the key and the step
    t = teacher(x̃)               frozen, in evaluation mode; once for all students
    s = student(x̃)               in training mode
    loss = objective(s, t, ỹ)    -> gradient -> optimizer -> next state

`draw_batch`, `query_teacher` and `update_student` are compiled apart, so that a student is updated
by the same program whoever shares its batch: then no other student changes its numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mixkd_jax import losses, mixup, vicinal
from mixkd_jax.data.device import Batch, Batching, Feed
from mixkd_jax.models.network import Classifier, Network
from mixkd_jax.training import sharding
from mixkd_jax.training.randomness import stream
from mixkd_jax.training.state import TrainState

SKIPPED = "skipped_updates"  # the metric that counts them
TAKEN = "updates"  # the sum that counts the others

Numbers = dict[str, jax.Array]  # f32[] each: options that may change without compiling anew


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All of a student's update that is fixed when it is compiled.

    Attributes:
      network: that is trained.
      objective: the loss of student logits, teacher logits and labels, with its options.
      distils: whether there are teacher logits; if not the objective gets None for them.
      words: the objective's options that are no floating numbers, as sorted items.
      optimizer: from gradients to updates.
      mesh: the devices that share a batch.
      parameters: how `network`'s parameters, and what the optimizer keeps of each, lie between
        steps: "replicated" or "sharded" (`sharding.parameters`).
      skips: whether updates that aren't finite are left out and counted.
    """

    network: Network
    objective: Callable[..., Any]
    distils: bool
    words: tuple[tuple[str, Any], ...]
    optimizer: optax.GradientTransformation
    mesh: Mesh
    parameters: str = "replicated"
    skips: bool = False


def draw_batch(
    how: Batching,
    mesh: Mesh,
    feed: Feed,
    key: jax.Array,
    step: jax.Array,
    mixing: dict[str, Any] | None,
) -> Batch:
    """Returns the step's batch, split over the devices.

    Args:
      how: batches are made.
      mesh: the devices.
      feed: what the batch is made of.
      key: of the seed; everything random in the batch is a function of it and the step.
      step: i32[].
      mixing: the arguments of `mixup.sample_mixup`; None doesn't mix.
    """
    plan = None
    if mixing is not None:
        plan = mixup.sample_mixup(stream(key, "mixup", step), how.batch_size, **mixing)
    batch = feed.batch(how, stream(key, "views", step), step, plan)
    images, labels = sharding.over_data(mesh, (batch.images, batch.labels))
    return Batch(images, labels, batch.counts)


def query_teacher(teacher: Classifier, mesh: Mesh, variables: Any, images: jax.Array) -> jax.Array:
    """Returns the teacher's logits f32[B, C] on what students will see, without a gradient."""
    whole = sharding.gathered(mesh, variables)
    return jax.lax.stop_gradient(teacher.logits(whole, images))


def update_student(
    recipe: Recipe,
    state: TrainState,
    batch: Batch,
    teacher_logits: jax.Array | None,
    key: jax.Array,
    numbers: Numbers,
) -> TrainState:
    """Returns the state after a step.

    Args:
      recipe: what is fixed.
      state: before the step.
      batch: that is learned from.
      teacher_logits: f32[B, C], the teacher's on the same images; None without one.
      key: of the seed, for dropout.
      numbers: options of the objective, and "teacher_temperature", by which the teacher's logits
        are divided before anything else.
    """
    options = {**numbers, **dict(recipe.words)}
    temperature = options.pop("teacher_temperature", None)
    if teacher_logits is not None:
        teacher_logits = teacher_logits / temperature

    def mean_loss(params):
        variables = {**state.variables, "params": sharding.gathered(recipe.mesh, params)}
        dropout_key = stream(key, "dropout", state.step)
        logits, batch_stats = recipe.network.train_logits(variables, batch.images, dropout_key)
        loss, parts = recipe.objective(logits, teacher_logits, batch.labels, **options)
        return jnp.mean(loss), (logits, batch_stats, jax.tree.map(jnp.mean, parts))

    (loss, aux), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    logits, batch_stats, parts = aux
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    measured = {"loss": loss, "grad_norm": optax.tree.norm(grads), **parts, **batch.counts}
    measured |= _measures(logits, teacher_logits, batch.labels)
    measured |= {TAKEN: jnp.float32(1), SKIPPED: jnp.float32(0)}
    updated = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        totals={name: total + measured[name] for name, total in state.totals.items()},
    )
    return _if_finite(updated, state) if recipe.skips else updated


def _if_finite(updated: TrainState, before: TrainState) -> TrainState:
    """Returns an update, or the state before it with one more skipped, if it isn't finite."""
    finite = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updated)]))
    totals = {**before.totals, SKIPPED: before.totals[SKIPPED] + 1}
    skipped = dataclasses.replace(before, step=updated.step, totals=totals)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, skipped)


def _measures(
    logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array
) -> dict[str, jax.Array]:
    """What is logged of a batch beside the loss; "kl" is the KL at temperature 1."""
    measured = {
        "accuracy": _agreement(logits, labels),
        "entropy": jnp.mean(vicinal.entropy(jax.nn.softmax(logits))),
    }
    if teacher_logits is not None:
        measured["kl"] = jnp.mean(losses.distillation_kl(logits, teacher_logits, temperature=1.0))
        measured["agreement"] = _agreement(logits, teacher_logits)
    return measured


def measure_names(parts: tuple[str, ...], recipe: Recipe) -> tuple[str, ...]:
    """Returns the names of what a step sums up, for an objective with these parts."""
    names = ["loss", *parts, "accuracy", "entropy", "grad_norm"]
    names += ["kl", "agreement"] if recipe.distils else []
    return (*names, TAKEN, SKIPPED) if recipe.skips else (*names, TAKEN)


def _agreement(a: jax.Array, b: jax.Array) -> jax.Array:
    """Share of rows whose largest entries are in the same place."""
    return jnp.mean(jnp.argmax(a, -1) == jnp.argmax(b, -1), dtype=jnp.float32)
