"""Proper scores, one value per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks
from mixkd_jax.losses import cross_entropy

__all__ = ["brier_score", "negative_log_likelihood"]


def brier_score(probs: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Brier score Σ_k (p_k - [y = k])², summed over classes, from 0 to 2.

    Args:
      probs: f[..., C], rows of probabilities.
      labels: i[...], class indices.

    Returns:
      f32[...] (float64 for float64 input), one value per example. Under `jit`, an
      index outside [0, C) gives NaN.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> calibration.brier_score(jnp.array([[0.75, 0.25]]), jnp.array([0])).tolist()
      [0.125]

    Reference:
      Brier, Verification of Forecasts Expressed in Terms of Probability, 1950,
      eq. 2.
    """
    p = _checks.floating(probs, "probs")
    _checks.class_axis(p, -1, "probs")
    _checks.probabilities(probs, "probs")
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1])
    own = _checks.one_hot(labels, p.shape[-1]).astype(p.dtype)
    score = jnp.sum((p - own) ** 2, -1)
    return jnp.where((labels >= 0) & (labels < p.shape[-1]), score, jnp.nan)


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Negative log-likelihood -log softmax(z)_y, in nats, from logits.

    Args:
      logits: f[..., C], not probabilities: their logarithm would do.
      labels: i[...], class indices.

    Returns:
      f32[...] (float64 for float64 input), one value per example. Under `jit`, an
      index outside [0, C) gives NaN.

    Raises:
      TypeError: If the labels are not integers.
      ValueError: If the shapes do not fit, or an index is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> print(calibration.negative_log_likelihood(jnp.zeros((1, 2)), jnp.array([0])).round(4))
      [0.6931]

    Reference:
      Guo et al., arXiv:1706.04599, eq. 6.
    """
    z = _checks.floating(logits, "logits")
    classes = z.shape[_checks.class_axis(z, -1, "logits")]
    return cross_entropy(z, _checks.class_labels(labels, z.shape[:-1], classes))
