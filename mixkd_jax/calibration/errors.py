"""Calibration errors that need all examples at once, and the risk-coverage area."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mixkd_jax import _checks
from mixkd_jax.calibration.bins import bin_index, probabilities

__all__ = [
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "classwise_adaptive_calibration_error",
    "classwise_calibration_error",
]


def adaptive_calibration_error(
    probs: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> jax.Array:
    """ECE with bins of equal count: Σ_b (n_b / n) |accuracy_b - confidence_b|.

    Examples are sorted by confidence and cut into `num_bins` runs whose sizes differ
    by at most one, the larger first, as `numpy.array_split` does. Examples of equal
    confidence stay together, in the last run that begins with it: so their order
    doesn't matter. The value depends on the whole set: unlike `calibration_bins`, it
    does not merge.

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
    return _adaptive_error(confidence, right, num_bins)


def _adaptive_error(p: jax.Array, true: jax.Array, num_bins: int) -> jax.Array:
    """Returns the error of probabilities f[N] of what is true or not, bool[N]."""
    runs = np.array_split(np.arange(p.size), num_bins)
    starts = np.array([run[0] for run in runs if run.size], int)
    run = jnp.searchsorted(jnp.sort(p)[starts], p, side="right") - 1
    sums = jax.ops.segment_sum(p - true.astype(p.dtype), run, max(len(starts), 1))
    return jnp.sum(jnp.abs(sums)) / jnp.float32(p.size)


def classwise_calibration_error(
    probs: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> jax.Array:
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


def classwise_adaptive_calibration_error(
    probs: ArrayLike, labels: ArrayLike, *, num_bins: int = 15
) -> jax.Array:
    """ACE: `classwise_calibration_error` with bins of equal count.

    For each class, all examples are put into bins by their probability of that class,
    cut as in `adaptive_calibration_error`, ties together; the mean over classes of
    Σ_b (n_bc / n) |frequency_bc - probability_bc|.

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
      >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5]])
      >>> print(calibration.classwise_adaptive_calibration_error(
      ...     probs, jnp.array([0, 1]), num_bins=1))
      0.125

    Reference:
      Nixon et al., Measuring Calibration in Deep Learning, arXiv:1904.01685, eq. 2.
    """
    _checks.positive_int(num_bins, "num_bins")
    p = probabilities(probs)
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1]).reshape(-1)
    columns = _checks.floating(p, "probs").reshape(-1, p.shape[-1]).T
    # One class at a time, as sorting all of them would take several times the memory.
    errors = jax.lax.map(
        lambda given: _adaptive_error(given[0], labels == given[1], num_bins),
        (columns, jnp.arange(p.shape[-1], dtype=labels.dtype)),
    )
    return jnp.mean(errors)


def area_under_risk_coverage(probs: ArrayLike, labels: ArrayLike) -> jax.Array:
    """AURC: the error rate among the k most confident examples, averaged over k = 1 ... n.

    0 where all answers are right; lower is better. Examples of equal confidence share
    their mean error, so that their order doesn't matter. Like an accuracy it has no
    derivative other than 0.

    Args:
      probs: f[..., C], rows of probabilities; their largest is the confidence.
      labels: i[...], class indices.

    Returns:
      f32[], a fraction from 0 to 1; NaN if there is no example.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs = jnp.array([[0.9, 0.1], [0.6, 0.4]])
      >>> print(calibration.area_under_risk_coverage(probs, jnp.array([0, 1])))
      0.25

    Reference:
      Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural
      Classifiers, ICLR 2019, arXiv:1805.08206, section 3.
    """
    p = probabilities(probs)
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1])
    confidence = _checks.floating(jnp.max(p, -1), "probs").reshape(-1)
    wrong = (jnp.argmax(p, -1) != labels).reshape(-1).astype(confidence.dtype)
    total = wrong.size
    # The k-th most confident example is in the means over k, k + 1, ... n examples.
    shares = np.cumsum(1 / np.arange(total, 0, -1))[::-1] / max(total, 1)
    order = jnp.argsort(-confidence)
    ordered = confidence[order]
    tie = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])[:total])
    ties = [
        jax.ops.segment_sum(x, tie, max(total, 1), indices_are_sorted=True)
        for x in (wrong[order], jnp.asarray(shares, wrong.dtype), jnp.ones_like(wrong))
    ]
    area = jnp.sum(ties[0] * ties[1] / jnp.maximum(ties[2], 1))
    return jnp.where(jnp.any(jnp.isnan(confidence)) | (total == 0), jnp.nan, area)
