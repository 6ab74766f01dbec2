"""Calibration errors that are read off reliability bins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax.calibration.bins import CalibrationBins, calibration_bins

__all__ = [
    "debiased_l2_calibration_error",
    "expected_calibration_error",
    "maximum_calibration_error",
    "overconfidence",
    "overconfidence_error",
]


def expected_calibration_error(
    bins: CalibrationBins | ArrayLike, labels: ArrayLike | None = None
) -> jax.Array:
    """ECE = Σ_b (n_b / n) |accuracy_b - confidence_b|, a fraction from 0 to 1.

    Args:
      bins: From `calibration_bins`; or f[..., C], rows of probabilities, for which
        15 bins are made.
      labels: i[...], class indices, only with probabilities.

    Returns:
      f32[]; NaN if there is no example.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs, labels = jnp.array([[0.75, 0.25], [0.5, 0.5]]), jnp.array([0, 1])
      >>> float(calibration.expected_calibration_error(
      ...     calibration.calibration_bins(probs, labels)))
      0.375

    Reference:
      Guo et al., arXiv:1706.04599, eq. 3.
    """
    bins, gap, total = _gaps_and_total(bins, labels)
    return jnp.sum(jnp.abs(gap)) / total


def maximum_calibration_error(
    bins: CalibrationBins | ArrayLike, labels: ArrayLike | None = None
) -> jax.Array:
    """MCE = max_b |accuracy_b - confidence_b| over bins with examples, from 0 to 1.

    Args:
      bins: From `calibration_bins`.
      labels: As in `expected_calibration_error`.

    Returns:
      f32[]; NaN if there is no example.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs, labels = jnp.array([[0.75, 0.25], [0.5, 0.5]]), jnp.array([0, 1])
      >>> float(calibration.maximum_calibration_error(
      ...     calibration.calibration_bins(probs, labels)))
      0.5

    Reference:
      Guo et al., arXiv:1706.04599, eq. 5.
    """
    bins, gap, total = _gaps_and_total(bins, labels)
    worst = jnp.max(jnp.abs(gap) / _at_least_one(bins.count, gap))
    return jnp.where(total > 0, worst, jnp.nan)


def overconfidence(bins: CalibrationBins | ArrayLike, labels: ArrayLike | None = None) -> jax.Array:
    """Mean confidence minus accuracy, signed, from -1 to 1; above 0 is overconfident.

    Args:
      bins: From `calibration_bins`, with any number of bins.
      labels: As in `expected_calibration_error`.

    Returns:
      f32[]; NaN if there is no example.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs, labels = jnp.array([[0.75, 0.25], [0.5, 0.5]]), jnp.array([0, 1])
      >>> float(calibration.overconfidence(calibration.calibration_bins(probs, labels)))
      0.125

    Reference:
      Medina et al., arXiv:2606.12171 (confidence minus accuracy).
    """
    bins, gap, total = _gaps_and_total(bins, labels)
    return jnp.sum(gap) / total


def overconfidence_error(
    bins: CalibrationBins | ArrayLike, labels: ArrayLike | None = None
) -> jax.Array:
    """OE = Σ_b (n_b / n) confidence_b · max(confidence_b - accuracy_b, 0), from 0 to 1.

    Args:
      bins: From `calibration_bins`.
      labels: As in `expected_calibration_error`.

    Returns:
      f32[]; NaN if there is no example.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs, labels = jnp.array([[0.75, 0.25], [0.5, 0.5]]), jnp.array([0, 1])
      >>> float(calibration.overconfidence_error(
      ...     calibration.calibration_bins(probs, labels)))
      0.125

    Reference:
      Thulasidasan et al., On Mixup Training, NeurIPS 2019, arXiv:1905.11001,
      section 3.1.
    """
    bins, gap, total = _gaps_and_total(bins, labels)
    confidence = jnp.asarray(bins.confidence) / _at_least_one(bins.count, gap)
    return jnp.sum(confidence * jnp.maximum(gap, 0)) / total


def debiased_l2_calibration_error(
    bins: CalibrationBins | ArrayLike, labels: ArrayLike | None = None
) -> jax.Array:
    """L2 calibration error √Σ_b (n_b / n) [(accuracy_b - confidence_b)² - v_b], from 0 to 1.

    The squared gap of a bin is too large by the variance of its accuracy, even for a
    calibrated model; v_b = accuracy_b (1 - accuracy_b) / (n_b - 1) estimates that.
    Bins of one example count as 0, and so does a sum below 0.

    Args:
      bins: From `calibration_bins`.
      labels: As in `expected_calibration_error`.

    Returns:
      f32[]; NaN if there is no example.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs, labels = jnp.tile(jnp.array([0.75, 0.25]), (4, 1)), jnp.array([1, 1, 1, 1])
      >>> float(calibration.debiased_l2_calibration_error(probs, labels))
      0.75

    Reference:
      Kumar et al., Verified Uncertainty Calibration, NeurIPS 2019, arXiv:1909.10155,
      definition 5.1.
    """
    bins, gap, total = _gaps_and_total(bins, labels)
    count = _at_least_one(bins.count, gap)
    accuracy = jnp.asarray(bins.correct).astype(gap.dtype) / count
    several = count > 1
    variance = accuracy * (1 - accuracy) / jnp.where(several, count - 1, 1)
    square = jnp.sum(jnp.where(several, count * ((gap / count) ** 2 - variance), 0)) / total
    # The root's slope at 0 is infinite; taken as 0.
    positive = square > 0
    root = jnp.sqrt(jnp.where(positive, square, 1))
    return jnp.where(positive, root, jnp.where(jnp.isnan(square), square, 0))


def _gaps_and_total(
    bins: CalibrationBins | ArrayLike, labels: ArrayLike | None
) -> tuple[CalibrationBins, jax.Array, jax.Array]:
    """Returns the bins, their sums of confidence minus right answers, the number of examples."""
    if not isinstance(bins, CalibrationBins):
        if labels is None:
            raise TypeError(
                f"bins: expected CalibrationBins, got {type(bins).__name__}; make them of "
                "probabilities and labels by calibration_bins, or pass both."
            )
        bins = calibration_bins(bins, labels)
    elif labels is not None:
        raise TypeError("labels: expected None with CalibrationBins, which hold the right answers.")
    # NumPy's float64 sums are subtracted as such: of many examples float32 keeps no difference.
    gap = jnp.asarray(bins.confidence - bins.correct.astype(bins.confidence.dtype))
    count = jnp.asarray(bins.count.astype(bins.confidence.dtype))
    return bins, gap, jnp.where(jnp.any(count < 0), jnp.nan, jnp.sum(count))


def _at_least_one(count: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.asarray(count.astype(like.dtype)), 1)
