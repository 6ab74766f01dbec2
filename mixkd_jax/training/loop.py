"""The loop around the step: dispatch, log, validate, save, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixkd_jax import config
from mixkd_jax.models.network import Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import Checkpoints
from mixkd_jax.training.dispatch import Trainer, abstract_state, feeds
from mixkd_jax.training.feeds import Portion
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.preemption import Stopped
from mixkd_jax.training.progress import Clock, Progress
from mixkd_jax.training.state import TrainState


class Diverged(ValueError):
    """A loss or gradient that is not finite."""


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


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a training writes to and listens to; shared by all models of a job.

    Attributes:
      metrics: where log lines go.
      progress: what a person sees meanwhile.
      stop: from a step to whether to stop after it.
    """

    metrics: MetricsLog
    progress: Progress
    stop: Callable[[int], bool]


@dataclasses.dataclass(frozen=True)
class Run:
    """The training of one model.

    Attributes:
      name: in logs, such as "arms/mixkd/0".
      key: everything random is a function of it.
      steps: how long, and how often what is done.
      schedule: the learning rate, to be logged.
      checkpoints: of this model.
      clock: what its time is counted on.
      validate: from variables to metrics of held-out images; None if there are none.
      start: variables to begin with; a part that they lack, such as the head, is random, as all
        is with None.
    """

    name: str
    key: jax.Array
    steps: Steps
    schedule: optax.Schedule
    checkpoints: Checkpoints
    clock: Clock
    validate: Callable[[Variables], dict[str, float]] | None = None
    start: Variables | None = None


def train(run: Run, trainer: Trainer, around: Surroundings) -> TrainState:
    """Trains one model to its last step, from its newest checkpoint or from the start.

    Raises:
      Diverged: if a loss or gradient is not finite; the checkpoints before it stay.
      Stopped: on request, after a checkpoint.
    """
    state = _start(run, trainer)
    step, steps = int(state.step), run.steps
    around.metrics.start(run.name, step)
    around.progress.start(run.name, step, steps.total, trainer.recipe.batch_size)
    feed = feeds(trainer.recipe, trainer.images, run.key)
    line: dict[str, float] = {}
    if not steps.total:
        run.checkpoints.save(state)
    with contextlib.closing(around.metrics):
        while step < steps.total:
            with run.clock.measure("train"):
                step, state, stop = _until_line(step, state, run, trainer, feed, around)
            means = _means(run.name, state, (step - 1) % steps.log + 1)
            if step % steps.log == 0 or step == steps.total:
                line = _line(run, step, means, state)
                around.metrics.write(run.name, step, line)
                state = dataclasses.replace(
                    state, totals=jax.tree.map(jnp.zeros_like, state.totals)
                )
            if stop or step % steps.checkpoint == 0 or step == steps.total:
                with run.clock.measure("checkpoint"):
                    run.checkpoints.save(state)
                run.clock.save()
                around.metrics.write_skipped(sharding.union(trainer.images.skipped))
            if stop and step < steps.total:
                raise Stopped(f"{run.name}: stopped at step {step:,} of {steps.total:,} and saved")
    around.progress.finish(step, line)
    return state


def _start(run: Run, trainer: Trainer) -> TrainState:
    if run.checkpoints.latest() is None:
        state = trainer.init(run.key)
        if run.start is None:
            return state
        return dataclasses.replace(
            state,
            params=_replaced(state.params, run.start["params"]),
            batch_stats=_replaced(state.batch_stats, run.start.get("batch_stats", {})),
        )
    return run.checkpoints.restore(abstract_state(trainer.recipe, trainer.images))


def _replaced(tree: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `tree` with copies of the branches that are `given`, laid out as it is."""

    def copy(old: jax.Array, new: Any) -> jax.Array:
        return jnp.copy(jax.device_put(new, old.sharding))

    return {**tree, **{name: jax.tree.map(copy, tree[name], new) for name, new in given.items()}}


def _line(run: Run, step: int, means: dict[str, float], state: TrainState) -> dict[str, float]:
    """Returns what is logged after `step`."""
    line = {"epoch": step / run.steps.per_epoch, **means}
    line["learning_rate"] = float(np.asarray(run.schedule(step - 1)))
    if run.validate is not None and (step % run.steps.validate == 0 or step == run.steps.total):
        with run.clock.measure("evaluate"):
            measured = run.validate(state.variables)
        line |= {f"validation_{name}": value for name, value in measured.items()}
    return line


def _until_line(
    step: int,
    state: TrainState,
    run: Run,
    trainer: Trainer,
    feed: Callable[[int], Portion],
    around: Surroundings,
) -> tuple[int, TrainState, bool]:
    """Takes steps up to the next log line, or fewer if told to stop.

    Returns (step, state, whether to stop). The host waits for the device once in about a quarter
    of a second: rarely enough not to slow it down, often enough to tell progress and to stop.
    """
    steps = run.steps
    ahead, dispatched, waited = 1, 0, time.monotonic()
    while True:
        line = min((step // steps.log + 1) * steps.log, steps.total)
        portion = feed(step)
        count = min(line - step, portion.steps, trainer.steps_per_dispatch)
        state = trainer.advance(state, portion.feed, run.key, count)
        step, dispatched = step + count, dispatched + 1
        if dispatched >= ahead or step == line:
            jax.block_until_ready(state.step)
            now = time.monotonic()
            ahead = max(1, int(0.25 * dispatched / max(now - waited, 1e-6)))
            dispatched, waited = 0, now
            around.progress.update(step)
        stop = around.stop(step)
        if stop or step == line:
            return step, state, stop


def _means(name: str, state: TrainState, count: int) -> dict[str, float]:
    """Returns each metric's mean over `count` steps; raises Diverged if one is not finite."""
    values = {k: float(np.asarray(total)) / count for k, total in state.totals.items()}
    wrong = [f"{k} {value}" for k, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise Diverged(
            f"{name}: not finite within the last {count:,} steps before step {int(state.step):,}: "
            f"{', '.join(wrong)}; the checkpoints before stay. Lower the learning rate, clip the "
            "gradient (optimizer.clip_norm) or look at the data"
        )
    return values
