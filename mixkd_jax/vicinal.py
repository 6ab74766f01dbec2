"""How a classifier behaves between two inputs (arXiv:2606.12171).

Everything takes probabilities with classes on the last axis, gives one value
per example, and measures in nats.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mixkd_jax import _checks, mixup

__all__ = ["entropy", "kl_divergence", "nonlinearity", "pair_mass"]


def entropy(probs: Any) -> jax.Array:
    """H(p) = -Σ_k p_k log p_k, with 0 log 0 = 0."""
    _checks.probabilities(probs, "probs")
    p = _checks.floating(probs, "probs")
    _checks.class_axis(p, -1, "probs")
    safe = jnp.where(p > 0, p, 1)
    return -jnp.sum(safe * jnp.log(safe), -1)


def kl_divergence(p: Any, q: Any) -> jax.Array:
    """KL(p ‖ q) = Σ_k p_k log(p_k / q_k), in nats."""
    _checks.probabilities(p, "p")
    _checks.probabilities(q, "q")
    p, q = _checks.floating(p, "p"), _checks.floating(q, "q")
    _checks.same_shape(p, q, ("p", "q"))
    q = jnp.maximum(q, jnp.finfo(q.dtype).tiny)
    safe = jnp.where(p > 0, p, 1)
    return jnp.sum(jnp.where(p > 0, p * (jnp.log(safe) - jnp.log(q)), 0), -1)


def nonlinearity(probs_i: Any, probs_j: Any, probs_mix: Any, lam: Any) -> jax.Array:
    """L_NL = KL(λ p_i + (1-λ) p_j ‖ p(x̃)), in nats."""
    return kl_divergence(mixup.interpolate(lam, probs_i, probs_j), probs_mix)


def pair_mass(probs_mix: Any, labels_i: Any, labels_j: Any) -> jax.Array:
    """p(x̃) on the two classes that were mixed; one class mixed with itself counts once."""
    _checks.probabilities(probs_mix, "probs_mix")
    p = _checks.floating(probs_mix, "probs_mix")
    classes = jnp.arange(p.shape[-1])
    labels_i = _checks.class_labels(labels_i, p.shape[:-1], p.shape[-1])
    labels_j = _checks.class_labels(labels_j, p.shape[:-1], p.shape[-1])
    hot = (labels_i[..., None] == classes) | (labels_j[..., None] == classes)
    return jnp.sum(jnp.where(hot, p, 0), -1)
