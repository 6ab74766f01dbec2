"""Reliability bins that merge by adding."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mixkd_jax import _checks

__all__ = ["CalibrationBins", "calibration_bins"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CalibrationBins:
    """Sums over the examples in each bin of confidence; add two to merge them.

    They are a pytree of sums, so bins of batches, devices or processes merge with
    `+`, `jax.lax.psum` or `jnp.sum` over a batch axis. A count holds up to 2^31 - 1:
    `+` refuses a larger one or, under `jit`, makes the errors NaN. To add more,
    convert to NumPy first: `jax.tree.map(lambda x: np.asarray(x, np.float64), bins)`.

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
        total = jax.tree.map(operator.add, self, other)
        # Integers wrap around; from below 0 they don't come back, for that stays the smaller.
        wrapped = (total.count < self.count) | (self.count < 0) | (other.count < 0)
        if not _checks.visible(wrapped):
            return dataclasses.replace(total, count=jnp.where(wrapped, -1, total.count))
        if np.any(wrapped):
            raise OverflowError(
                "bins: expected at most 2147483647 examples in a bin, got more; convert the bins "
                "first: jax.tree.map(lambda x: np.asarray(x, np.float64), bins)."
            )
        return total

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


def probabilities(probs: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Returns checked probabilities in their own float dtype, for it sets the bin edges."""
    _checks.class_axis(_checks.floating(probs, "probs"), -1, "probs")
    _checks.probabilities(probs, "probs", where=where)
    array = _checks.array(probs, "probs")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.float32)


def calibration_bins(
    probs: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, where: ArrayLike | None = None
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
