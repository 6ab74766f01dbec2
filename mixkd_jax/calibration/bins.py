"""Reliability bins that merge by adding, and the errors read off them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import _checks

__all__ = [
    "CalibrationBins",
    "calibration_bins",
    "expected_calibration_error",
    "overconfidence",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CalibrationBins:
    """Sums over the examples in each confidence bin; add two to merge them.

    Attributes:
      count: i32[num_bins], number of examples.
      confidence: f32[num_bins], sum of the largest probability.
      correct: i32[num_bins], number of examples classified right.
    """

    count: jax.Array
    confidence: jax.Array
    correct: jax.Array

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        """Returns the bins of both sets of examples together."""
        if not isinstance(other, CalibrationBins):
            return NotImplemented
        return jax.tree.map(jnp.add, self, other)


def bin_index(probs: jax.Array, num_bins: int) -> jax.Array:
    """Returns the index of the equal-width bin on [0, 1] that holds each probability."""
    edges = (np.arange(1, num_bins) / num_bins).astype(probs.dtype)
    return jnp.sum(probs[..., None] >= edges, -1)


def calibration_bins(
    probs: Any, labels: Any, *, num_bins: int = 15, where: Any = None
) -> CalibrationBins:
    """Sorts examples into equal-width bins of confidence and sums over each."""
    _checks.probabilities(probs, "probs", where=where)
    probs = jnp.asarray(probs)
    labels = _checks.class_labels(labels, probs.shape[:-1], probs.shape[-1])
    top = jnp.max(probs, -1)
    hit = bin_index(top, num_bins)[..., None] == jnp.arange(num_bins)
    if where is not None:
        hit &= jnp.asarray(where, bool)[..., None]
    examples = tuple(range(hit.ndim - 1))
    top = _checks.floating(top, "probs")
    right = jnp.argmax(probs, -1) == labels
    return CalibrationBins(
        count=jnp.sum(hit, examples, jnp.int32),
        confidence=jnp.sum(jnp.where(hit, top[..., None], 0), examples),
        correct=jnp.sum(hit & right[..., None], examples, jnp.int32),
    )


def expected_calibration_error(bins: CalibrationBins) -> jax.Array:
    """Σ_b n_b/n |accuracy_b - confidence_b|, from 0 to 1."""
    return jnp.sum(jnp.abs(bins.correct - bins.confidence)) / jnp.sum(bins.count)


def overconfidence(bins: CalibrationBins) -> jax.Array:
    """Mean confidence minus accuracy, signed, from -1 to 1."""
    return (jnp.sum(bins.confidence) - jnp.sum(bins.correct)) / jnp.sum(bins.count)
