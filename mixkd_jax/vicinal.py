"""How a classifier behaves between two inputs (arXiv:2606.12171).

Everything takes probabilities with classes on the last axis, gives one value
per example, and measures in nats. Rows that are not probabilities are refused
where they can be seen, that is outside `jit`, `vmap` and `grad`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks, mixup

__all__ = ["entropy", "kl_divergence", "nonlinearity", "pair_mass"]


def entropy(probs: ArrayLike) -> jax.Array:
    """Shannon entropy H(p) = -Σ_k p_k log p_k, in nats.

    0 log 0 is 0. The derivative at p_k = 0, which is infinite, is taken as 0.

    Args:
      probs: f[..., C], rows of probabilities.

    Returns:
      f32[...] (float64 for float64 input), from 0 to log C.

    Raises:
      ValueError: If a row is not probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import vicinal
      >>> print(vicinal.entropy(jnp.array([[0.5, 0.5], [0.0, 1.0]])).round(4))
      [0.6931 0.    ]

    Reference:
      Shannon, A Mathematical Theory of Communication, 1948, section 6.
    """
    p = _probabilities(probs, "probs")
    safe = jnp.where(p < jnp.finfo(p.dtype).tiny, 1, p)
    value = jnp.sum(safe * -jnp.log(safe), -1)
    # Not below 0 where rounding made p larger than 1; the derivative stays.
    return value - jax.lax.stop_gradient(jnp.minimum(value, 0))


def kl_divergence(p: ArrayLike, q: ArrayLike) -> jax.Array:
    """Kullback-Leibler divergence KL(p ‖ q) = Σ_k p_k log(p_k / q_k), in nats.

    Always finite: a q_k below the smallest normal number of the dtype (1.2e-38
    for float32), zero included, counts as that number, with derivative 0. So a
    class that q rules out costs at most 87.3 p_k where the true value is
    infinite. Terms with p_k = 0 are 0, with derivative 0. Prefer
    `losses.distillation_kl` where logits are at hand: it has no such limit.

    Args:
      p: f[..., C], rows of probabilities.
      q: f[..., C], rows of probabilities.

    Returns:
      f32[...] (float64 for float64 input), at least 0 up to the rounding of p and q.

    Raises:
      ValueError: If the shapes differ or a row is not probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import vicinal
      >>> p, q = jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.5]])
      >>> print(vicinal.kl_divergence(p, q).round(4), vicinal.kl_divergence(q, q))
      [0.6931] [0.]

    Reference:
      Kullback and Leibler, On Information and Sufficiency, 1951.
    """
    p, q = _probabilities(p, "p"), _probabilities(q, "q")
    _checks.same_shape(p, q, ("p", "q"))
    return _kl(p, q)


@jax.custom_jvp
def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    return _kl_terms(p, q)[0]


def _kl_terms(p: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the KL and its derivatives in p and q."""
    tiny = jnp.finfo(p.dtype).tiny
    floor = jnp.maximum(q, tiny)
    none = p < tiny
    # log(p / q), of which the second form keeps the digits of p - q.
    gap = (p - floor) / floor
    ratio = jnp.maximum(jnp.where(none, 1, p) / floor, tiny)
    log_ratio = jnp.where(jnp.abs(gap) < 0.5, jnp.log1p(gap), jnp.log(ratio))
    in_p = jnp.where(none, 0, log_ratio + 1)
    in_q = jnp.where(q < tiny, 0, -p / floor)
    return jnp.sum(jnp.where(none, 0, p * log_ratio), -1), in_p, in_q


@_kl.defjvp
def _kl_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    _, in_p, in_q = _kl_terms(*primals)
    # By name, so that the value's next derivative comes from here too.
    return _kl(*primals), jnp.sum(in_p * tangents[0] + in_q * tangents[1], -1)


def nonlinearity(
    probs_i: ArrayLike, probs_j: ArrayLike, probs_mix: ArrayLike, lam: ArrayLike
) -> jax.Array:
    """L_NL = KL( λ p(x_i) + (1-λ) p(x_j) ‖ p(x̃) ), in nats: 0 for a linear model.

    The linearity gain of a student over its teacher is the teacher's value minus
    the student's, on the same mixed inputs.

    Args:
      probs_i: f[B, C], probabilities of the model on x_i.
      probs_j: f[B, C], the same on x_j.
      probs_mix: f[B, C], the same on x̃ = λ x_i + (1-λ) x_j.
      lam: f[B], the weights λ from 0 to 1.

    Returns:
      f32[B] (float64 for float64 input).

    Raises:
      ValueError: If the shapes do not fit, or a row is not probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import vicinal
      >>> a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> lam = jnp.array([0.75])
      >>> print(vicinal.nonlinearity(a, b, jnp.array([[0.75, 0.25]]), lam))
      [0.]

    Reference:
      Medina et al., arXiv:2606.12171 (L_NL of the vicinal analysis).
    """
    p_i, p_j = _probabilities(probs_i, "probs_i"), _probabilities(probs_j, "probs_j")
    p_mix = _probabilities(probs_mix, "probs_mix")
    _checks.same_shape(p_i, p_j, ("probs_i", "probs_j"))
    _checks.same_shape(p_i, p_mix, ("probs_i", "probs_mix"))
    return _kl(mixup.interpolate(lam, p_i, p_j), p_mix)


def pair_mass(probs_mix: ArrayLike, labels_i: ArrayLike, labels_j: ArrayLike) -> jax.Array:
    """Probability that p(x̃) puts on the two classes that were mixed: p[i] + p[j].

    An example mixed with one of its own class counts that class once.

    Args:
      probs_mix: f[..., C], probabilities of the model on mixed inputs.
      labels_i: i[...], class indices of x_i.
      labels_j: i[...], class indices of x_j.

    Returns:
      f32[...] (float64 for float64 input), from 0 to 1. Under `jit`, an index
      outside [0, C) counts for nothing.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import vicinal
      >>> p = jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
      >>> vicinal.pair_mass(p, jnp.array([0, 0]), jnp.array([1, 0])).tolist()
      [0.75, 0.5]

    Reference:
      Medina et al., arXiv:2606.12171 (confusion of a teacher on mixed inputs).
    """
    p = _probabilities(probs_mix, "probs_mix")
    labels_i = _checks.class_labels(labels_i, p.shape[:-1], p.shape[-1], "labels_i")
    labels_j = _checks.class_labels(labels_j, p.shape[:-1], p.shape[-1], "labels_j")
    mixed = _checks.one_hot(labels_i, p.shape[-1]) | _checks.one_hot(labels_j, p.shape[-1])
    return jnp.sum(jnp.where(mixed, p, 0), -1)


def _probabilities(x: ArrayLike, name: str) -> jax.Array:
    array = _checks.floating(x, name)
    _checks.class_axis(array, -1, name)
    _checks.probabilities(x, name)
    return array
