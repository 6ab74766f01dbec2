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
    p_s, near_s = _probabilities(student.reshape(shape), temperature)
    p_t, near_t = _probabilities(teacher.reshape(shape), temperature)
    inter = jnp.mean(_decorrelation(p_s, near_s, p_t, near_t, 1))
    intra = jnp.mean(_decorrelation(*_columns(p_s, near_s), *_columns(p_t, near_t), 0))
    return inter_weight * inter + intra_weight * intra


def _probabilities(logits: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns C p of p = softmax(logits / T), and bool[B, 1]: from which rows 1 is subtracted.

    These are rows of logits near each other, where rounding would leave little of what the
    probabilities differ by: with e = exp(z - max z) - 1, C p - 1 = (e - ē) / (1 + ē).
    """
    least, most = _range(jax.lax.stop_gradient(logits))
    near = least - most >= -temperature
    gap = (logits - most) / temperature
    return _exponentials(gap, near), near


def _range(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the least and the largest of each row, in one pass."""

    def both(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
        return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])

    infinity = jnp.array(jnp.inf, x.dtype)
    least, most = jax.lax.reduce((x, x), (infinity, -infinity), both, (1,))
    return least[:, None], most[:, None]


@jax.custom_jvp
def _exponentials(gap: jax.Array, near: jax.Array) -> jax.Array:
    """Returns the C p of `_probabilities`."""
    e = jnp.where(near, jnp.expm1(gap), jnp.exp(gap))
    mean = jnp.mean(e, 1, keepdims=True)
    return (e - jnp.where(near, mean, 0)) / (mean + near.astype(mean.dtype))


@_exponentials.defjvp
def _exponentials_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x = _exponentials(*primals)
    p = x + primals[1].astype(x.dtype)
    change = jnp.where(p == 0, 0, tangents[0])  # a masked class has infinite ones
    return x, p * (change - jnp.mean(p * change, 1, keepdims=True))


def _columns(p: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the same for all rows alike, since each column has something of every row."""
    every = jnp.all(near)
    return p + (near & ~every).astype(p.dtype), every


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _decorrelation(
    x: jax.Array, near_x: jax.Array, y: jax.Array, near_y: jax.Array, axis: int
) -> jax.Array:
    """1 - ρ(x, y), as ½ |x̂ - ŷ|² of the unit vectors: no cancellation near ρ = 1."""
    return jnp.squeeze(_terms(x, near_x, y, near_y, axis)[0], axis)


def _terms(
    x: jax.Array, near_x: jax.Array, y: jax.Array, near_y: jax.Array, axis: int
) -> tuple[jax.Array, ...]:
    """Returns 1 - ρ, both unit vectors, and the inverse lengths (0 for no spread)."""
    x, scale_x = _unit(x, near_x, axis)
    y, scale_y = _unit(y, near_y, axis)
    both = (scale_x != 0) & (scale_y != 0)
    value = jnp.where(both, _sum((x - y) ** 2, axis) / 2, 1)
    return value, x, y, jnp.where(both, scale_x, 0), jnp.where(both, scale_y, 0)


def _unit(x: jax.Array, near: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns x of `_probabilities` centred and scaled to length 1, and that scale."""
    # Positive x first to the size of 1, or differences and squares of tiny probabilities
    # underflow; by a power of 2, which rounds nothing.
    mean = _sum(x, axis) / x.shape[axis]
    exponent = jnp.where(near, 0, jnp.frexp(jax.lax.stop_gradient(mean))[1])
    size = jnp.ldexp(jnp.ones_like(mean), -exponent)
    mean *= size
    x = x * size - mean
    square = _sum(x * x, axis)
    # Less spread than rounding leaves of x is none.
    flat = square <= x.shape[axis] * (8 * jnp.finfo(x.dtype).eps * mean) ** 2
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
    value, x, y, scale_x, scale_y = _terms(*primals, axis=axis)
    slope = jnp.zeros_like(value)
    # -(ŷ - ρ x̂) / |x|, with ρ = 1 - value.
    for own, other, scale, tangent in ((x, y, scale_x, tangents[0]), (y, x, scale_y, tangents[2])):
        if not isinstance(tangent, SymbolicZero):
            change = ((own - other) - value * own) * scale
            slope += jnp.sum(change * tangent, axis, keepdims=True)
    # By name, so that the value's next derivative comes from here too.
    again = _decorrelation(*primals, axis)  # pyright: ignore[reportCallIssue]
    return again, jnp.squeeze(slope, axis)


_decorrelation.defjvp(_decorrelation_jvp, symbolic_zeros=True)
