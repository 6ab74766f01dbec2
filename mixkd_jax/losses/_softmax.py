"""What the losses are made of: softmax, KL and log-sum-exp that stay right at the edges.

All take logits that are already divided by the temperature, with classes on
the last axis. A logit of -inf removes its class.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def shift_sum(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns exp(x - m), its sum and m, the largest entry; a row of -inf gives 0, 1 and 0."""
    m = jnp.max(x, -1, keepdims=True)
    m = jax.lax.stop_gradient(jnp.where(m == -jnp.inf, 0, m))
    e = jnp.exp(x - m)
    total = jnp.sum(e, -1, keepdims=True)
    return e, jnp.where(total == 0, 1, total), m


@jax.custom_jvp
def kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(softmax(teacher) ‖ softmax(student)) over the last axis."""
    return _kl_terms(student, teacher)[0]


def _kl_terms(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the KL, both softmaxes and log p_s - log p_t (0 where p_t is 0)."""
    e_s, sum_s, m_s = shift_sum(student)
    e_t, sum_t, m_t = shift_sum(teacher)
    p_s, p_t = e_s / sum_s, e_t / sum_t
    shift = (m_s - m_t) + (jnp.log(sum_s) - jnp.log(sum_t))
    d = jnp.where(p_t > 0, (student - teacher) - shift, 0)
    # Σ p_s - p_t - p_t d equals -Σ p_t d, but its terms are all positive and to
    # first order free of the rounding of `shift`.
    series = d * d * (1 / 2 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d * (1 / 720)))))
    terms = jnp.where(jnp.abs(d) < 0.2, p_t * series, p_s - p_t - p_t * d)
    terms = jnp.where(p_t > 0, terms, p_s)
    return jnp.sum(terms, -1), p_s, p_t, d


@kl.defjvp
def _kl_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    value, p_s, p_t, d = _kl_terms(*primals)
    slope_t = -p_t * (d + value[..., None])
    ds, dt = tangents
    return value, jnp.sum((p_s - p_t) * ds + slope_t * dt, -1)


def standardize(x: jax.Array, *, epsilon: float, ddof: int) -> jax.Array:
    """Divides each row by its standard deviation plus `epsilon`.

    The largest entry is taken away first, which no softmax sees; so a constant
    row is exactly 0 and its deviation too. Entries of -inf are left out.
    """
    kept = x > -jnp.inf
    top = jnp.max(x, -1, keepdims=True)
    x = x - jax.lax.stop_gradient(jnp.where(top == -jnp.inf, 0, top))
    count = jnp.sum(kept, -1, keepdims=True)
    centred = jnp.where(kept, x, 0)
    centred = centred - jnp.sum(centred, -1, keepdims=True) / jnp.maximum(count, 1)
    square = jnp.sum(jnp.where(kept, centred, 0) ** 2, -1, keepdims=True)
    variance = square / jnp.maximum(count - ddof, 1)
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return x / (deviation + epsilon)
