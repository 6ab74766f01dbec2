"""One training step: mix, ask the teacher, update the student.

    x̃, ỹ = mix(x_i, x_j)         a function of the key and the step
    t = teacher(x̃)               frozen, in evaluation mode
    s = student(x̃)               in training mode
    loss = objective(s, t, ỹ)    -> gradient -> optimizer -> next state

The three parts are functions of their own, so that several students can share a batch and a
teacher's answer in one step.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mixkd_jax import losses, mixup, vicinal
from mixkd_jax.config import Mixup
from mixkd_jax.data import device
from mixkd_jax.models.network import Network, Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.objectives import Objective
from mixkd_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that is fixed while one model is trained.

    Attributes:
      student: the network that is trained.
      teacher: the frozen network that is asked; None if nothing is distilled.
      objective: the loss of student logits, teacher logits and labels.
      optimizer: from gradients to updates.
      mixing: how examples are mixed; None doesn't.
      augmentation: of single images, before mixing.
      batch_size: B, over all devices.
      num_classes: C.
      mesh: the devices that share a batch.
      parameters: how `student`'s parameters, and what the optimizer keeps of each, lie between
        steps: "replicated" or "sharded" (`sharding.parameters`).
    """

    student: Network
    teacher: Network | None
    objective: Objective
    optimizer: optax.GradientTransformation
    mixing: Mixup | None
    augmentation: device.Augmentation
    batch_size: int
    num_classes: int
    mesh: Mesh
    parameters: str = "replicated"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what a step measures; of distillation also "kl", the KL at temperature 1."""
        names = ("loss", "ce", "accuracy", "entropy", "grad_norm")
        return names if self.teacher is None else (*names, "kd", "kl", "agreement")


def train_step(
    recipe: Recipe,
    state: TrainState,
    feed: device.Feed,
    teacher_variables: Variables | None,
    key: jax.Array,
) -> TrainState:
    """Returns the state after one more step; jit it with `recipe` bound.

    Args:
      recipe: what is fixed.
      state: before the step.
      feed: what the step's batch is made of.
      teacher_variables: of `recipe.teacher`; None without one.
      key: of the run; everything random in the step is a function of it and `state.step`.
    """
    batch_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    batch = draw_batch(recipe, batch_key, state.step, feed)
    answer = query_teacher(recipe, teacher_variables, batch.images)
    after = update_student(recipe, state, batch, answer, dropout_key)
    if not isinstance(feed, device.Loaded):
        return after
    skipped = after.totals["skipped"] + jnp.sum(feed.skipped)
    return dataclasses.replace(after, totals={**after.totals, "skipped": skipped})


def draw_batch(recipe: Recipe, key: jax.Array, step: jax.Array, feed: device.Feed) -> device.Batch:
    """Returns the step's batch, mixed if the recipe mixes, sharded over the devices."""
    views_key, mixup_key = jax.random.split(key)
    size, plan = recipe.batch_size, None
    if recipe.mixing is not None:
        plan = mixup.sample_mixup(mixup_key, size, **dataclasses.asdict(recipe.mixing))
    if isinstance(feed, device.Loaded):
        lam = None if plan is None else plan.lam
        batch = device.mix_loaded(feed, lam, num_classes=recipe.num_classes)
    else:
        batch = device.load_batch(
            feed.examples,
            device.batch_indices(feed.order, step, size),
            device.sample_views(views_key, size, recipe.augmentation),
            plan,
            augmentation=recipe.augmentation,
            num_classes=recipe.num_classes,
        )
    # Made once: XLA would else mix anew for each of the batch's readers, 5 % of a step on a CPU.
    return jax.lax.optimization_barrier(sharding.over_data(recipe.mesh, batch))


def query_teacher(
    recipe: Recipe, variables: Variables | None, images: jax.Array
) -> jax.Array | None:
    """Returns the teacher's logits f32[B, C] on what the student will see, without a gradient."""
    if recipe.teacher is None or variables is None:
        return None
    whole = sharding.gathered(recipe.mesh, variables)
    return jax.lax.stop_gradient(recipe.teacher.logits(whole, images))


def update_student(
    recipe: Recipe,
    state: TrainState,
    batch: device.Batch,
    answer: jax.Array | None,
    key: jax.Array,
) -> TrainState:
    """Returns the state after a step on `batch`, given the teacher's `answer` on it."""

    def mean_loss(params):
        variables = {**state.variables, "params": sharding.gathered(recipe.mesh, params)}
        logits, batch_stats = recipe.student.train_logits(variables, batch.images, key)
        loss, parts = recipe.objective(logits, answer, batch.labels)
        return jnp.mean(loss), (logits, batch_stats, jax.tree.map(jnp.mean, parts))

    (loss, aux), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    logits, batch_stats, parts = aux
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    measured = {"loss": loss, "grad_norm": optax.tree.norm(grads), **parts}
    measured["accuracy"] = _agreement(logits, batch.labels)
    measured["entropy"] = jnp.mean(vicinal.entropy(jax.nn.softmax(logits)))
    if answer is not None:
        measured["kl"] = jnp.mean(losses.distillation_kl(logits, answer))
        measured["agreement"] = _agreement(logits, answer)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        totals=state.totals
        | {name: state.totals[name] + measured[name] for name in recipe.metrics},
    )


def _agreement(a: jax.Array, b: jax.Array) -> jax.Array:
    """Share of rows whose largest entries are in the same place."""
    return jnp.mean(jnp.argmax(a, -1) == jnp.argmax(b, -1), dtype=jnp.float32)
