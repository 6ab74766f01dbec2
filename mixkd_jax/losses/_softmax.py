"""KL between softmaxes, and scaling of logits, that stay right at the edges.

Logits come already divided by the temperature, with classes on the last axis.
A logit of -inf removes its class; a row of nothing else has no classes.

Derivatives are written out where that is exact and saves passes over memory.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def shift_exp(x: jax.Array, largest: float | None = None) -> tuple[jax.Array, ...]:
    """Returns exp(x - m), its sum (1 for no classes), and m, the largest entry (or 0).

    Args:
      x: [..., C].
      largest: m, where it is known; that saves a pass.
    """
    if largest is None:
        m = jnp.max(x, -1, keepdims=True)
        m = jax.lax.stop_gradient(jnp.where(m == -jnp.inf, 0, m))
    else:
        m = jnp.full((), largest, x.dtype)
    e = jnp.exp(x - m)
    total = jnp.sum(e, -1, keepdims=True)
    return e, jnp.where(total == 0, 1, total), m


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def kl(student: jax.Array, teacher: jax.Array, largest: float | None = None) -> jax.Array:
    """Returns KL(softmax(teacher) ‖ softmax(student)) over the last axis.

    Args:
      student: [..., C].
      teacher: [..., C].
      largest: The largest entry of every row of both, where it is known.
    """
    return _kl_terms(student, teacher, largest)[0]


@functools.partial(jax.jit, static_argnums=2, inline=True)  # or -inf - -inf is seen by debug_nans
def _kl_terms(student: jax.Array, teacher: jax.Array, largest: float | None) -> Any:
    """Returns the KL, both softmaxes, and log p_s - log p_t (0 where p_t is 0)."""
    e_s, sum_s, m_s = shift_exp(student, largest)
    e_t, sum_t, m_t = shift_exp(teacher, largest)
    p_s, p_t = e_s * (1 / sum_s), e_t * (1 / sum_t)
    # In this order: what the two rows share drops out before anything is rounded.
    shift = jnp.log(sum_s) - jnp.log(sum_t)
    d = jnp.where(p_t == 0, 0, ((student - teacher) - (m_s - m_t)) - shift)
    # Σ (p_s - p_t - p_t d) equals -Σ p_t d, but every term is at least 0 and
    # the rounding of `shift` drops out to first order. Where d is small the
    # terms themselves cancel, so p_t (exp(d) - 1 - d) is taken from its series.
    terms = jnp.where(jnp.abs(d) < 1, p_t * _exp_minus_line(d), p_s - p_t - p_t * d)
    return jnp.sum(jnp.where(p_t == 0, p_s, terms), -1), p_s, p_t, d


def _exp_minus_line(d: jax.Array) -> jax.Array:
    """Returns exp(d) - 1 - d for |d| < 1 to rounding, by its Taylor series."""
    last = 11 if jnp.finfo(d.dtype).eps > 1e-10 else 19
    series = jnp.full((), 1 / math.factorial(last), d.dtype)
    for power in range(last - 1, 1, -1):
        series = series * d + 1 / math.factorial(power)
    return d * d * series


def _kl_jvp(largest: float | None, primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    value, p_s, p_t, d = _kl_terms(primals[0], primals[1], largest)
    student, teacher = tangents
    slope = jnp.zeros_like(value)
    if not isinstance(student, SymbolicZero):
        slope += jnp.sum((p_s - p_t) * student, -1)
    if not isinstance(teacher, SymbolicZero):
        slope -= jnp.sum(p_t * (d + value[..., None]) * teacher, -1)
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
