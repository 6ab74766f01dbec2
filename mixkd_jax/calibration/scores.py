"""Proper scores, one value per example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mixkd_jax import _checks
from mixkd_jax.losses import cross_entropy

__all__ = ["brier_score", "negative_log_likelihood"]


def brier_score(probs: Any, labels: Any) -> jax.Array:
    """Σ_k (p_k - [y = k])², from 0 to 2."""
    _checks.probabilities(probs, "probs")
    p = _checks.floating(probs, "probs")
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1])
    hot = labels[..., None] == jnp.arange(p.shape[-1])
    return jnp.sum((p - hot) ** 2, -1)


def negative_log_likelihood(logits: Any, labels: Any) -> jax.Array:
    """-log softmax(z)_y, in nats."""
    return cross_entropy(logits, labels)
