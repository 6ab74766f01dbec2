"""Calibration errors that need all examples at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import _checks
from mixkd_jax.calibration.bins import bin_index, probabilities

__all__ = ["adaptive_calibration_error", "classwise_calibration_error"]


def adaptive_calibration_error(probs: Any, labels: Any, *, num_bins: int = 15) -> jax.Array:
    """ECE with bins of equal count: Σ_b (n_b / n) |accuracy_b - confidence_b|.

    Examples are sorted by confidence (ties stay in their order) and cut into
    `num_bins` runs whose sizes differ by at most one, the larger first, as
    `numpy.array_split` does. The value depends on the whole set: unlike
    `calibration_bins`, it does not merge.

    Args:
      probs: f[..., C], rows of probabilities.
      labels: i[...], class indices.
      num_bins: Number of bins; with fewer examples, some are empty.

    Returns:
      f32[], a fraction from 0 to 1; NaN if there is no example.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
      >>> labels = jnp.array([0, 1, 1])
      >>> print(calibration.adaptive_calibration_error(probs, labels, num_bins=3))
      0.25

    Reference:
      Nguyen and O'Connor, Posterior calibration and exploratory analysis,
      EMNLP 2015, arXiv:1508.05154, section 3; Nixon et al., Measuring Calibration
      in Deep Learning, arXiv:1904.01685.
    """
    _checks.positive_int(num_bins, "num_bins")
    p = probabilities(probs)
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1])
    confidence = _checks.floating(jnp.max(p, -1), "probs").reshape(-1)
    right = (jnp.argmax(p, -1) == labels).reshape(-1)
    gap = confidence - right.astype(confidence.dtype)
    runs = np.array_split(np.arange(gap.size), num_bins)
    run = np.repeat(np.arange(num_bins), [len(r) for r in runs])
    order = jnp.argsort(confidence, stable=True)
    sums = jax.ops.segment_sum(gap[order], run, num_bins, indices_are_sorted=True)
    return jnp.sum(jnp.abs(sums)) / jnp.float32(gap.size)


def classwise_calibration_error(probs: Any, labels: Any, *, num_bins: int = 15) -> jax.Array:
    """Mean over classes of the binary ECE of each class's probability.

    1/C Σ_c Σ_b (n_bc / n) |frequency_bc - probability_bc|: for each class, all
    examples are put into equal-width bins (as in `calibration_bins`) by their
    probability of that class, which is compared with how often they are of it.

    Args:
      probs: f[..., C], rows of probabilities.
      labels: i[...], class indices.
      num_bins: Number of bins.

    Returns:
      f32[], a fraction from 0 to 1; NaN if there is no example.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5]])
      >>> print(calibration.classwise_calibration_error(probs, jnp.array([0, 1])))
      0.375

    Reference:
      Kull et al., Beyond temperature scaling, NeurIPS 2019, arXiv:1910.12656,
      section 2 (classwise-ECE).
    """
    _checks.positive_int(num_bins, "num_bins")
    p = probabilities(probs)
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1]).reshape(-1)
    p = p.reshape(-1, p.shape[-1])
    bins = bin_index(p, num_bins)
    gap = _checks.floating(p, "probs")
    gap -= _checks.one_hot(labels, p.shape[-1]).astype(gap.dtype)
    # One bin at a time: [N, C, num_bins] need not fit in memory.
    errors = jax.lax.map(
        lambda b: jnp.sum(jnp.abs(jnp.sum(jnp.where(bins == b, gap, 0), 0))), jnp.arange(num_bins)
    )
    return jnp.sum(errors) / jnp.float32(p.size)
