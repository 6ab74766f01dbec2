"""What the losses are made of: KL, log-sum-exp and scaling that stay right at the edges.

Logits come already divided by the temperature, with classes on the last axis.
A logit of -inf removes its class; a row of nothing else counts as no classes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def _shift_sum(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns exp(x - m), its sum (1 for no classes), and m, the largest entry (or 0)."""
    m = jnp.max(x, -1, keepdims=True)
    m = jax.lax.stop_gradient(jnp.where(m == -jnp.inf, 0, m))
    e = jnp.exp(x - m)
    total = jnp.sum(e, -1, keepdims=True)
    return e, jnp.where(total == 0, 1, total), m


def logsumexp(x: jax.Array) -> jax.Array:
    """Returns log Σ exp(x) over the last axis: -inf, with gradient 0, for no classes."""
    _, total, m = _shift_sum(x)
    some = jnp.max(x, -1) > -jnp.inf
    return jnp.where(some, (jnp.log(total) + m)[..., 0], -jnp.inf)


def log_softmax(x: jax.Array) -> jax.Array:
    """Returns log softmax(x) over the last axis."""
    _, total, m = _shift_sum(x)
    return x - m - jnp.log(total)


@jax.custom_jvp
def kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(softmax(teacher) ‖ softmax(student)) over the last axis.

    The derivative is written out, softmax(s) - softmax(t) for the student: so
    it is right where the value is infinite, and costs no second softmax.
    """
    return _kl_terms(student, teacher)[0]


def _kl_terms(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the KL, both softmaxes, and log p_s - log p_t where p_t > 0, else 0."""
    e_s, sum_s, m_s = _shift_sum(student)
    e_t, sum_t, m_t = _shift_sum(teacher)
    p_s, p_t = e_s / sum_s, e_t / sum_t
    shift = (m_s - m_t) + (jnp.log(sum_s) - jnp.log(sum_t))
    d = jnp.where(p_t > 0, (student - teacher) - shift, 0)
    # Σ (p_s - p_t - p_t d) equals -Σ p_t d, but every term is at least 0 and
    # the rounding of `shift` drops out to first order. For small d the terms
    # themselves cancel, so p_t (exp(d) - 1 - d) is taken from its series.
    series = d * d * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d / 720))))
    terms = jnp.where(jnp.abs(d) < 0.2, p_t * series, p_s - p_t - p_t * d)
    return jnp.sum(jnp.where(p_t > 0, terms, p_s), -1), p_s, p_t, d


def _kl_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    value, p_s, p_t, d = _kl_terms(*primals)
    student, teacher = tangents
    slope = jnp.zeros_like(value)
    if not isinstance(student, SymbolicZero):
        slope += jnp.sum((p_s - p_t) * student, -1)
    if not isinstance(teacher, SymbolicZero):
        slope -= jnp.sum(p_t * (d + value[..., None]) * teacher, -1)
    return value, slope


kl.defjvp(_kl_jvp, symbolic_zeros=True)


def standardize(x: jax.Array, *, epsilon: float, ddof: int) -> jax.Array:
    """Divides each row by its standard deviation plus `epsilon`.

    The largest entry is taken away first, which no softmax sees; so a constant
    row is exactly 0, and so is its deviation. Entries of -inf stay out of it.
    """
    kept = x > -jnp.inf
    top = jnp.max(x, -1, keepdims=True)
    x = x - jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    count = jnp.sum(kept, -1, keepdims=True)
    mean = jnp.sum(jnp.where(kept, x, 0), -1, keepdims=True) / jnp.maximum(count, 1)
    square = jnp.sum(jnp.where(kept, x - mean, 0) ** 2, -1, keepdims=True)
    variance = square / jnp.maximum(count - ddof, 1)
    # The square root has no slope at 0; a constant row takes 0 there.
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return x / (deviation + epsilon)


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns bool[..., num_classes], True at each label."""
    return labels[..., None] == jnp.arange(num_classes)


def own_and_rest(x: jax.Array, own: jax.Array) -> jax.Array:
    """Returns [..., 2]: logits of "this class" and "any other class".

    Args:
      x: [..., C], logits.
      own: bool[..., C], True at one class of each row.
    """
    picked = jnp.sum(jnp.where(own, x, 0), -1)
    return jnp.stack([picked, logsumexp(jnp.where(own, -jnp.inf, x))], -1)


def nan_unless_label(loss: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Makes a label outside [0, num_classes) visible where it could not be refused."""
    return jnp.where((labels >= 0) & (labels < num_classes), loss, jnp.nan)
