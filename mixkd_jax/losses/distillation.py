"""Distillation in the sense of Hinton et al., and the cross entropy beside it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mixkd_jax import _checks
from mixkd_jax.losses import _softmax

__all__ = ["cross_entropy", "distillation_kl", "distillation_loss"]


def distillation_kl(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    axis: int = -1,
    where: Any = None,
) -> jax.Array:
    """T² KL( softmax(t/T) ‖ softmax(s/T) )."""
    student = _checks.floating(student_logits, "student_logits")
    teacher = _checks.floating(teacher_logits, "teacher_logits")
    _checks.same_shape(student, teacher, ("student_logits", "teacher_logits"))
    axis = _checks.class_axis(student, axis, "student_logits")
    if where is not None:
        student = jnp.where(where, student, -jnp.inf)
        teacher = jnp.where(where, teacher, -jnp.inf)
    student, teacher = jnp.moveaxis(student, axis, -1), jnp.moveaxis(teacher, axis, -1)
    if isinstance(temperature, str):
        if temperature != "std":
            raise ValueError(
                f'temperature: expected a number above 0 or "std", got {temperature!r}.'
            )
        student = _softmax.standardize(student, epsilon=1e-8, ddof=0)
        teacher = _softmax.standardize(teacher, epsilon=1e-8, ddof=0)
        return _softmax.kl(student, teacher)
    _checks.number(temperature, "temperature", above=0)
    return temperature**2 * _softmax.kl(student / temperature, teacher / temperature)


def cross_entropy(logits: Any, labels: Any, *, axis: int = -1) -> jax.Array:
    """-Σ_k y_k log softmax(z)_k, for class indices or soft labels."""
    z = _checks.floating(logits, "logits")
    axis = _checks.class_axis(z, axis, "logits")
    z = jnp.moveaxis(z, axis, -1)
    if jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer):
        labels = _checks.class_labels(labels, z.shape[:-1], z.shape[-1])
        hot = labels[..., None] == jnp.arange(z.shape[-1])
        own = jnp.sum(jnp.where(hot, z, 0), -1)
        e, total, m = _softmax.shift_sum(jnp.where(hot, -jnp.inf, z))
        rest = jnp.where(jnp.any(e > 0, -1), (jnp.log(total) + m)[..., 0], -jnp.inf)
        loss = jax.nn.softplus(rest - own)
        return jnp.where((labels >= 0) & (labels < z.shape[-1]), loss, jnp.nan)
    _checks.probabilities(labels, "labels", axis=axis)
    y = jnp.moveaxis(_checks.floating(labels, "labels"), axis, -1)
    _checks.same_shape(z, y, ("logits", "labels"))
    e, total, m = _softmax.shift_sum(z)
    log_p = z - m - jnp.log(total)
    return -jnp.sum(y * jnp.where((y == 0) & (z == -jnp.inf), 0, log_p), -1)


def distillation_loss(
    student_logits: Any,
    teacher_logits: Any,
    labels: Any = None,
    *,
    temperature: Any = 2.0,
    kd_weight: Any = 1.0,
    ce_weight: Any = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """kd_weight · distillation_kl + ce_weight · cross_entropy, and the two parts."""
    kd = distillation_kl(student_logits, teacher_logits, temperature=temperature)
    ce = jnp.zeros_like(kd) if labels is None else cross_entropy(student_logits, labels)
    return _weighted(kd_weight, kd) + _weighted(ce_weight, ce), {"kd": kd, "ce": ce}


def _weighted(weight: Any, value: jax.Array) -> jax.Array:
    # A weight of 0 switches a term off, though the term be infinite.
    return jnp.where(jnp.asarray(weight) == 0, 0, weight * value)
