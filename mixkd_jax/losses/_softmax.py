"""KL between softmaxes, and scaling of logits, that stay right at the edges.

Logits have classes on the last axis. A logit of -inf removes its class; a row of
nothing else has no classes.

Derivatives are written out where that is exact and saves passes over memory. A
rule takes the value from the function itself, by name, so that the derivative of
that value (of the next order, through `jax.value_and_grad`) comes from it too.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def shift_exp(
    x: jax.Array, scale: jax.Array | float = 1.0, largest: float | None = None
) -> tuple[jax.Array, ...]:
    """Returns exp(scale · (x - m)), its sum (1 for no classes), and m, the largest entry (or 0).

    Args:
      x: [..., C].
      scale: A number above 0. It multiplies the difference: in scale · x, large
        entries would lose it.
      largest: m, where it is known; that saves a pass.
    """
    if largest is None:
        m = jnp.max(x, -1, keepdims=True)
        m = jax.lax.stop_gradient(jnp.where(m == -jnp.inf, 0, m))
    else:
        m = jnp.full((), largest, x.dtype)
    e = jnp.exp(scale * (x - m))
    total = jnp.sum(e, -1, keepdims=True)
    return e, jnp.where(total == 0, 1, total), m


def minus(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns a - b and what its rounding lost: their sum is the difference exactly.

    Reference:
      Knuth, The Art of Computer Programming, vol. 2, section 4.2.2, theorem B.
    """
    difference = a - b
    other = difference - a
    lost = (a - (difference - other)) - (b + other)
    return difference, jax.lax.stop_gradient(lost)


class Terms(NamedTuple):
    """What the value and the derivatives of `kl` are made of.

    Attributes:
      value: [...], the KL.
      p_s: [..., C], softmax of the student.
      p_t: [..., C], softmax of the teacher.
      change: [..., C], p_s - p_t.
      d: [..., C], log p_s - log p_t; 0 where p_t is 0.
      row: [..., 1], the largest student logit minus the largest of the teacher, in two parts.
      sums: [..., 1], log of Σ exp(scale · (student - largest)), less the teacher's.
    """

    value: jax.Array
    p_s: jax.Array
    p_t: jax.Array
    change: jax.Array
    d: jax.Array
    row: tuple[jax.Array, jax.Array]
    sums: jax.Array


@functools.partial(jax.jit, static_argnums=3, inline=True)  # or -inf - -inf is seen by debug_nans
def terms(
    student: jax.Array, teacher: jax.Array, scale: jax.Array, largest: float | None = None
) -> Terms:
    """Returns the terms of `kl`, exact for nearly equal rows and for rows far apart."""
    e_s, sum_s, m_s = shift_exp(student, scale, largest)
    e_t, sum_t, m_t = shift_exp(teacher, scale, largest)
    row, gap = (m_s - m_t, jnp.zeros_like(m_s)), student - teacher
    sums = jnp.log(sum_s) - jnp.log(sum_t)
    if largest is None:
        # What the two rows share drops out before anything is rounded; what the difference rounds
        # away comes back when numbers added to a whole row, which may be large, have dropped out.
        row, (gap, lost) = minus(m_s, m_t), minus(student, teacher)
        gap = (gap - row[0]) + (jnp.where(student == -jnp.inf, 0, lost) - row[1])
    gap = scale * jnp.where(e_t == 0, 0, gap)
    if largest is None:  # else both rows were rounded when they were scaled
        more = jnp.sum(_difference(e_s, e_t, gap), -1, keepdims=True) / sum_t
        near = jnp.abs(more) < 0.5
        sums = jnp.where(near, jnp.log1p(jnp.where(near, more, 0)), sums)
    p_s, p_t = e_s * (1 / sum_s), e_t * (1 / sum_t)
    kept = p_t != 0
    d = jnp.where(kept, gap - sums, 0)
    # Σ (p_s - p_t - p_t d) equals -Σ p_t d, but every term is at least 0. Where d is small the
    # terms cancel, and are taken from the series of p_t (exp(d) - 1 - d).
    small = jnp.abs(d) < 1
    curve = p_t * exp_minus_line(d)
    parts = jnp.where(kept, jnp.where(small, curve, p_s - p_t - p_t * d), p_s)
    change = jnp.where(kept & small, p_t * d + curve, p_s - p_t)
    return Terms(jnp.sum(parts, -1), p_s, p_t, change, d, row, sums)


def _difference(s: jax.Array, t: jax.Array, d: jax.Array) -> jax.Array:
    """Returns s - t without cancellation, where s = t exp(d) unless t is 0."""
    small = (jnp.abs(d) < 0.25) & (t != 0)
    return jnp.where(small, t * (d + exp_minus_line(d, 0.25)), s - t)


def exp_minus_line(d: jax.Array, bound: float = 1.0) -> jax.Array:
    """Returns exp(d) - 1 - d for |d| < bound <= 1 to rounding, by its Taylor series."""
    eps, last = float(jnp.finfo(d.dtype).eps), 3
    while 2 * bound ** (last - 1) / math.factorial(last + 1) > eps / 2:
        last += 1
    series = jnp.full((), 1 / math.factorial(last), d.dtype)
    for power in range(last - 1, 1, -1):
        series = series * d + 1 / math.factorial(power)
    return d * d * series


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def kl(
    student: jax.Array, teacher: jax.Array, scale: jax.Array, largest: float | None = None
) -> jax.Array:
    """Returns KL(softmax(scale · teacher) ‖ softmax(scale · student)) over the last axis.

    Args:
      student: [..., C].
      teacher: [..., C].
      scale: [], the inverse temperature.
      largest: The largest entry of every row of both, where it is known.
    """
    return terms(student, teacher, scale, largest).value


def _kl_jvp(largest: float | None, primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    student, teacher, scale = primals
    found, value = terms(*primals, largest), kl(*primals, largest)
    in_teacher = -found.p_t * (found.d + value[..., None])
    slope = jnp.zeros_like(value)
    if not isinstance(tangents[0], SymbolicZero):
        slope += jnp.sum(scale * found.change * tangents[0], -1)
    if not isinstance(tangents[1], SymbolicZero):
        slope += jnp.sum(scale * in_teacher * tangents[1], -1)
    if not isinstance(tangents[2], SymbolicZero):
        student = jnp.where(found.p_s == 0, 0, _shifted(student))
        teacher = jnp.where(found.p_t == 0, 0, _shifted(teacher))
        slope += jnp.sum(found.change * student + in_teacher * teacher, -1) * tangents[2]
    return value, slope


kl.defjvp(_kl_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def standardize(x: jax.Array, epsilon: float, ddof: int) -> jax.Array:
    """Divides each row by its standard deviation plus `epsilon`.

    A row is moved so that its largest entry is 0, which no softmax sees: so a
    constant row is exactly 0, and its deviation too. Likewise the derivative is
    right up to one number a row. Entries of -inf stay out of the deviation.
    """
    return _shifted(x) * _standardize_terms(x, epsilon, ddof)[0]


def _shifted(x: jax.Array) -> jax.Array:
    top = jnp.max(x, -1, keepdims=True)
    return x - jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))


def _standardize_terms(x: jax.Array, epsilon: float, ddof: int) -> tuple[jax.Array, ...]:
    """Returns the scale, the centred row, and d deviation / d that row without it."""
    kept = x != -jnp.inf
    x = jnp.where(kept, _shifted(x), 0)
    count = jnp.sum(kept, -1, keepdims=True, dtype=x.dtype)
    mean = jnp.sum(x, -1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(kept, x - mean, 0)
    degrees = jnp.maximum(count - ddof, 1)
    variance = jnp.sum(centred * centred, -1, keepdims=True) / degrees
    # The deviation of a constant row is a minimum of 0 with a kink: slope 0.
    spread = variance != 0
    deviation = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1)), 0)
    scale = 1 / (deviation + epsilon)
    return scale, centred, 1 / (degrees * jnp.where(spread, deviation, 1))


@standardize.defjvp
def _standardize_jvp(epsilon: float, ddof: int, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    scale, centred, slope = _standardize_terms(x, epsilon, ddof)
    change = slope * jnp.sum(centred * dx, -1, keepdims=True)
    # By name, so that the next derivative too comes from here: -inf · 0 is NaN.
    value = standardize(x, epsilon, ddof)
    return value, dx * scale - centred * (scale**2 * change)
