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
    "maximum_calibration_error",
    "overconfidence",
    "overconfidence_error",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CalibrationBins:
    """Sums over the examples in each bin of confidence; add two to merge them.

    They are a pytree of sums, so bins of batches, devices or processes merge with
    `+`, `jax.lax.psum` or `jnp.sum` over a batch axis.

    Attributes:
      count: i32[num_bins], number of examples.
      confidence: f32[num_bins], sum of their largest probabilities.
      correct: i32[num_bins], number of them classified right.
    """

    count: jax.Array
    confidence: jax.Array
    correct: jax.Array

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        """Returns the bins of both sets of examples together."""
        if not isinstance(other, CalibrationBins):
            return NotImplemented
        if self.count.shape != other.count.shape:
            raise ValueError(
                f"bins: expected the same number of bins, got {self.count.shape} and "
                f"{other.count.shape}; make both with one num_bins."
            )
        return jax.tree.map(jnp.add, self, other)

    def __radd__(self, other: Any) -> CalibrationBins:
        """Lets `sum` begin with its 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def bin_index(probs: jax.Array, num_bins: int) -> jax.Array:
    """Returns the index of the bin that holds each probability.

    Bins are equal-width on [0, 1], with edges k / num_bins rounded to the dtype of
    `probs`; each holds its left edge, and the last one holds 1.
    """
    edges = (np.arange(1, num_bins) / num_bins).astype(probs.dtype)
    edges = jnp.asarray(edges.reshape((1,) * probs.ndim + (-1,)))
    # Several times faster than a search, and an example stays on its device.
    return jnp.sum(probs[..., None] >= edges, -1, dtype=jnp.int32)


def probabilities(probs: Any, where: Any = None) -> jax.Array:
    """Returns checked probabilities in their own float dtype, for it sets the bin edges."""
    _checks.class_axis(_checks.floating(probs, "probs"), -1, "probs")
    _checks.probabilities(probs, "probs", where=where)
    array = jnp.asarray(probs)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)


def calibration_bins(
    probs: Any, labels: Any, *, num_bins: int = 15, where: Any = None
) -> CalibrationBins:
    """Sorts examples into bins of confidence and sums over each bin.

    The confidence of an example is its largest probability. Bins are equal-width
    on [0, 1]: bin k holds k/num_bins <= confidence < (k+1)/num_bins, the last one
    1 as well, with edges rounded to the dtype of `probs`.

    Args:
      probs: f[..., C], rows of probabilities. Logits are refused where visible.
      labels: i[...], class indices.
      num_bins: Number of bins.
      where: Optional bool[...] mask; examples where it is False are left out, and
        may hold anything.

    Returns:
      `CalibrationBins` of all examples. Under `jit`, an index outside [0, C)
      counts as classified wrong.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
      >>> bins = calibration.calibration_bins(probs, jnp.array([0, 1, 1]), num_bins=4)
      >>> print(bins.count, bins.confidence, bins.correct)
      [0 0 1 2] [0.   0.   0.5  1.75] [0 0 0 2]
      >>> (bins + bins).count.tolist()
      [0, 0, 2, 4]

    Reference:
      Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
      arXiv:1706.04599, section 2.
    """
    _checks.positive_int(num_bins, "num_bins")
    if where is not None:
        where = _checks.mask(where, np.shape(probs)[:-1])
    p = probabilities(probs, where)
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1], where=where)
    top = jnp.max(p, -1)
    hit = _checks.one_hot(bin_index(top, num_bins), num_bins)
    if where is not None:
        hit &= where[..., None]
    examples = tuple(range(hit.ndim - 1))
    confidence = _checks.floating(top, "probs")[..., None]
    right = (jnp.argmax(p, -1) == labels)[..., None]
    return CalibrationBins(
        count=jnp.sum(hit, examples, dtype=jnp.int32),
        confidence=jnp.sum(jnp.where(hit, confidence, 0), examples),
        correct=jnp.sum(hit & right, examples, dtype=jnp.int32),
    )


def expected_calibration_error(bins: CalibrationBins) -> jax.Array:
    """ECE = Σ_b (n_b / n) |accuracy_b - confidence_b|, a fraction from 0 to 1.

    Args:
      bins: From `calibration_bins`.

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
    gap, total = _gaps_and_total(bins)
    return jnp.sum(jnp.abs(gap)) / total


def maximum_calibration_error(bins: CalibrationBins) -> jax.Array:
    """MCE = max_b |accuracy_b - confidence_b| over bins with examples, from 0 to 1.

    Args:
      bins: From `calibration_bins`.

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
    gap, total = _gaps_and_total(bins)
    worst = jnp.max(jnp.abs(gap) / _at_least_one(bins.count, gap))
    return jnp.where(total > 0, worst, jnp.nan)


def overconfidence(bins: CalibrationBins) -> jax.Array:
    """Mean confidence minus accuracy, signed, from -1 to 1; above 0 is overconfident.

    Args:
      bins: From `calibration_bins`, with any number of bins.

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
    gap, total = _gaps_and_total(bins)
    return jnp.sum(gap) / total


def overconfidence_error(bins: CalibrationBins) -> jax.Array:
    """OE = Σ_b (n_b / n) confidence_b · max(confidence_b - accuracy_b, 0), from 0 to 1.

    Args:
      bins: From `calibration_bins`.

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
    gap, total = _gaps_and_total(bins)
    confidence = jnp.asarray(bins.confidence) / _at_least_one(bins.count, gap)
    return jnp.sum(confidence * jnp.maximum(gap, 0)) / total


def _gaps_and_total(bins: CalibrationBins) -> tuple[jax.Array, jax.Array]:
    """Returns each bin's sum of confidence minus its right answers, and the number of examples."""
    if not isinstance(bins, CalibrationBins):
        raise TypeError(
            f"bins: expected CalibrationBins, got {type(bins).__name__}; make them of "
            "probabilities and labels by calibration_bins."
        )
    # NumPy's float64 sums are subtracted as such: of many examples float32 keeps no difference.
    gap = jnp.asarray(bins.confidence - bins.correct.astype(bins.confidence.dtype))
    return gap, jnp.sum(bins.count).astype(gap.dtype)


def _at_least_one(count: Any, like: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.asarray(count).astype(like.dtype), 1)
