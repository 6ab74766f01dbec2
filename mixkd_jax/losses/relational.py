"""Distillation from a stronger teacher (DIST): agreement up to scale and shift."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from mixkd_jax import _checks

__all__ = ["relational_loss"]

# XLA's sum down the columns takes several times longer on a CPU beyond this many of them.
_COLUMNS = 16384


def relational_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    inter_weight: ArrayLike = 1.0,
    intra_weight: ArrayLike = 1.0,
) -> jax.Array:
    """DIST: inter_weight · inter + intra_weight · intra, one number for the batch.

    With p = softmax(·/T) and ρ Pearson's correlation,

        inter = mean over examples of 1 - ρ(p_s[b, :], p_t[b, :]),
        intra = mean over classes  of 1 - ρ(p_s[:, c], p_t[:, c]).

    ρ doesn't see scale, so there is no factor T². A row or column without any
    spread (a constant one, or a batch of one example) has no correlation: it
    counts as ρ = 0, without gradient. So does a class whose probabilities are all
    below the smallest normal number, 1.2e-38 in float32.

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
      Huang et al., Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536, eq. 8-10.
    """
    student, teacher = _checks.logit_pair(student_logits, teacher_logits)
    if student.ndim < 2:
        raise ValueError(
            f"student_logits: expected [batch, classes], got shape {student.shape}; the loss "
            "relates the examples of a batch."
        )
    temperature = _checks.scalar(temperature, "temperature", student, above=0)
    inter_weight = _checks.scalar(inter_weight, "inter_weight", student, least=0)
    intra_weight = _checks.scalar(intra_weight, "intra_weight", student, least=0)
    shape = (-1, student.shape[-1])
    p_s = jax.nn.softmax(student.reshape(shape) / temperature)
    p_t = jax.nn.softmax(teacher.reshape(shape) / temperature)
    inter = jnp.mean(_decorrelation(p_s, p_t, 1))
    intra = jnp.mean(_decorrelation(p_s, p_t, 0))
    return inter_weight * inter + intra_weight * intra


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _decorrelation(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """1 - ρ(x, y), as ½ |x̂ - ŷ|² of the unit vectors: no cancellation near ρ = 1."""
    return jnp.squeeze(_terms(x, y, axis)[0], axis)


def _terms(x: jax.Array, y: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """Returns 1 - ρ, both unit vectors, and the inverse lengths (0 for no spread)."""
    x, scale_x = _unit(x, axis)
    y, scale_y = _unit(y, axis)
    both = (scale_x != 0) & (scale_y != 0)
    value = jnp.where(both, _sum((x - y) ** 2, axis) / 2, 1)
    return value, x, y, jnp.where(both, scale_x, 0), jnp.where(both, scale_y, 0)


def _unit(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns positive x centred and scaled to length 1, and that scale."""
    # First to the size of 1, or differences and squares of tiny probabilities
    # underflow; by a power of 2, which rounds nothing.
    mean = _sum(x, axis) / x.shape[axis]
    size = jnp.ldexp(jnp.ones_like(mean), -jnp.frexp(jax.lax.stop_gradient(mean))[1])
    x = x * size - mean * size
    square = _sum(x * x, axis)
    # Less spread than rounding leaves in a softmax is none.
    flat = square <= x.shape[axis] * (4 * jnp.finfo(x.dtype).eps) ** 2
    scale = jnp.where(flat, 0, jax.lax.rsqrt(jnp.where(flat, 1, square)))
    return x * scale, size * scale


def _sum(x: jax.Array, axis: int) -> jax.Array:
    """Returns the sum of a matrix along an axis, which stays."""

    def at_once(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis, keepdims=True)

    def in_pieces(x: jax.Array) -> jax.Array:
        starts = range(0, x.shape[1], _COLUMNS)
        return jnp.concatenate([at_once(x[:, k : k + _COLUMNS]) for k in starts], 1)

    if axis == 1 or x.shape[1] <= _COLUMNS:
        return at_once(x)
    # Elsewhere in one piece: classes may be split over devices, and a slice would move them.
    return jax.lax.platform_dependent(x, cpu=in_pieces, default=at_once)


def _decorrelation_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    value, x, y, scale_x, scale_y = _terms(primals[0], primals[1], axis)
    slope = jnp.zeros_like(value)
    # -(ŷ - ρ x̂) / |x|, with ρ = 1 - value.
    for own, other, scale, tangent in ((x, y, scale_x, tangents[0]), (y, x, scale_y, tangents[1])):
        if not isinstance(tangent, SymbolicZero):
            change = ((own - other) - value * own) * scale
            slope += jnp.sum(change * tangent, axis, keepdims=True)
    # By name, so that the value's next derivative comes from here too.
    return _decorrelation(primals[0], primals[1], axis), jnp.squeeze(slope, axis)


_decorrelation.defjvp(_decorrelation_jvp, symbolic_zeros=True)
