"""Learning rates as functions of the step, put together from optax schedules."""

from __future__ import annotations

from collections.abc import Callable

import optax

from mixkd_jax.config import ConfigError, Duration, Schedule, choose

Steps = Callable[[Duration], int]  # a duration's number of steps


def constant(config: Schedule, steps: Steps, total: int) -> optax.Schedule:
    """The peak throughout."""
    del steps, total
    return optax.constant_schedule(config.learning_rate)


def cosine(config: Schedule, steps: Steps, total: int) -> optax.Schedule:
    """Half a cosine from the peak to `end` (Loshchilov and Hutter, arXiv:1608.03983, eq. 5)."""
    length = total - steps(config.warmup)
    return optax.cosine_decay_schedule(
        config.learning_rate, max(length, 1), alpha=config.end / config.learning_rate
    )


def multistep(config: Schedule, steps: Steps, total: int) -> optax.Schedule:
    """The peak, multiplied by `factor` at each milestone (counted from step 0)."""
    del total
    warmup = steps(config.warmup)
    factors: dict[int, float] = {}
    for milestone in config.milestones:  # some may meet in a short training
        step = steps(milestone) - warmup
        factors[step] = factors.get(step, 1.0) * config.factor
    return optax.piecewise_constant_schedule(config.learning_rate, factors)


def table(config: Schedule, steps: Steps, total: int) -> optax.Schedule:
    """Pieces one after the other, each from the last one's end; then constant."""
    del total
    rate, start = config.learning_rate, 0
    pieces, ends = [], []
    for piece in config.pieces:
        length = steps(piece.end) - start
        if length < 1:
            raise ValueError(
                "pieces: expected every piece to end after the one before it, got one that ends at "
                f"step {start + length} after step {start}"
            )
        if piece.shape == "linear":
            pieces.append(optax.linear_schedule(rate, piece.learning_rate, length))
        else:
            alpha = piece.learning_rate / rate
            pieces.append(optax.cosine_decay_schedule(rate, length, alpha=alpha))
        rate, start = piece.learning_rate, start + length
        ends.append(start)
    return optax.join_schedules([*pieces, optax.constant_schedule(rate)], ends)


SCHEDULES = {"constant": constant, "cosine": cosine, "multistep": multistep, "table": table}


def create_schedule(
    config: Schedule, *, path: str, num_examples: int, batch_size: int, total: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      config: what it looks like.
      path: of the config's section, for messages.
      num_examples: in an epoch.
      batch_size: of a step.
      total: steps of the whole training.

    Raises:
      ConfigError: for an unknown name, or pieces that end in a wrong order.
    """

    def steps(duration: Duration) -> int:
        return duration.steps(num_examples=num_examples, batch_size=batch_size)

    create = choose(f"{path}.name", config.name, SCHEDULES)
    try:
        schedule = create(config, steps, total)
    except ValueError as error:
        raise ConfigError(f"{path}.{error}") from None
    warmup = 0 if config.name == "table" else steps(config.warmup)
    if warmup:
        rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
        schedule = optax.join_schedules([rise, schedule], [warmup])
    if not config.once_per_epoch:
        return schedule
    per_epoch = num_examples // batch_size
    return lambda step: schedule(step // per_epoch * per_epoch)  # pyright: ignore[reportOperatorIssue]
