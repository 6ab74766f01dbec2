"""Optimizers by name, each a chain of optax transformations."""

from __future__ import annotations

import jax
import optax

from mixkd_jax.config import Optimizer, choose


def decayed(params):
    """Which parameters weight decay is for: kernels, not biases or the scales of BatchNorm."""
    # By name too: the biases of attention heads have two axes.
    return jax.tree_util.tree_map_with_path(
        lambda path, param: param.ndim > 1 and path[-1].key != "bias", params
    )


def sgd(config: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Momentum, with weight decay added to the gradient, as in PyTorch and the KD literature."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )


def adam(config: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam, with weight decay added to the gradient (L2)."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.adam(schedule, b1=config.b1, b2=config.b2, eps=config.eps),
    )


def adamw(config: Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""
    return optax.adamw(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": adamw}


def create_optimizer(
    config: Optimizer, schedule: optax.Schedule, *, path: str
) -> optax.GradientTransformation:
    """Returns the optimizer, with the gradient clipped first if the config says so.

    Args:
      config: what it is.
      schedule: the learning rate.
      path: of the config's section, for messages.
    """
    optimizer = choose(f"{path}.name", config.name, OPTIMIZERS)(config, schedule)
    if not config.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
