"""Distillation from a stronger teacher (DIST): agreement up to scale and shift."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mixkd_jax import _checks

__all__ = ["relational_loss"]


def relational_loss(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    inter_weight: Any = 1.0,
    intra_weight: Any = 1.0,
) -> jax.Array:
    """DIST: inter_weight · inter + intra_weight · intra, one number for the batch.

    With p = softmax(·/T) and ρ Pearson's correlation,

        inter = mean over examples of 1 - ρ(p_s[b, :], p_t[b, :]),
        intra = mean over classes  of 1 - ρ(p_s[:, c], p_t[:, c]).

    ρ doesn't see scale, so there is no factor T². A row or column without any
    spread (a constant one, or a batch of one example) has no correlation: it
    counts as ρ = 0, without gradient.

    Args:
      student_logits: f[B, C]; more leading axes are further examples.
      teacher_logits: f[B, C].
      temperature: A number above 0; may be traced, as the weights.
      inter_weight: Weight of the relation among classes (the paper's β), at least 0.
      intra_weight: Weight of the relation among examples (the paper's γ), at least 0.

    Returns:
      f32[] (float64 for float64 logits), from 0 to 2 (inter_weight + intra_weight).
      Unlike the other losses it is one number, for intra relates examples.

    Raises:
      ValueError: If the shapes differ, there is no batch axis, or a number is out
        of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> teacher = jnp.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
      >>> float(losses.relational_loss(teacher + 5.0, teacher).round(6))
      0.0

    Reference:
      Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022,
      arXiv:2205.10536, eq. 8 to 10.
    """
    student, teacher = _checks.logit_pair(student_logits, teacher_logits)
    if student.ndim < 2:
        raise ValueError(
            f"student_logits: expected [batch, classes], got shape {student.shape}; the loss "
            "relates the examples of a batch."
        )
    _checks.number(temperature, "temperature", above=0)
    _checks.number(inter_weight, "inter_weight", least=0)
    _checks.number(intra_weight, "intra_weight", least=0)
    shape = (-1, student.shape[-1])
    p_s = jax.nn.softmax(student.reshape(shape) / temperature)
    p_t = jax.nn.softmax(teacher.reshape(shape) / temperature)
    inter = jnp.mean(_decorrelation(p_s, p_t, 1))
    intra = jnp.mean(_decorrelation(p_s, p_t, 0))
    return inter_weight * inter + intra_weight * intra


def _decorrelation(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """1 - ρ(x, y) as ½ |x̂ - ŷ|² of the unit vectors: no cancellation near ρ = 1."""
    x, x_spread = _unit(x, axis)
    y, y_spread = _unit(y, axis)
    return jnp.where(x_spread & y_spread, jnp.sum((x - y) ** 2, axis) / 2, 1)


def _unit(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns x centred and scaled to length 1, and whether it has any spread."""
    # Scaled by its size first, or the squares of tiny probabilities underflow.
    size = jax.lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    x = x / jnp.where(size > 0, size, 1)
    x = x - jnp.mean(x, axis, keepdims=True)
    square = jnp.sum(x * x, axis, keepdims=True)
    spread = square > 0
    return x * jax.lax.rsqrt(jnp.where(spread, square, 1)), jnp.squeeze(spread, axis)
