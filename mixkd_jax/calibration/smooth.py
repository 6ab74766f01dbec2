"""Calibration error by smoothing instead of bins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks
from mixkd_jax.calibration.bins import probabilities

__all__ = ["smooth_calibration_error"]

_POINTS = 1024  # of the integral over confidence, and terms of the cosine series
_STEPS = 30  # of the search for the bandwidth, each halving its error


def smooth_calibration_error(probs: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Smooth ECE: ∫ |r_σ(t)| dt over confidences t, with no number of bins to choose.

    r_σ(t) is the mean over examples of (right - confidence) · K_σ(t, confidence), K_σ
    a Gaussian of width σ reflected at 0 and 1. The error falls as σ grows; the width is
    where both are equal, and that is the value. Values below 0.002 are rough.

    Args:
      probs: f[..., C], rows of probabilities; their largest is the confidence.
      labels: i[...], class indices.

    Returns:
      f32[] (float64 for float64 input), from 0 to 1; NaN if there is no example.

    Raises:
      ValueError: If the shapes do not fit, a row is not probabilities, or an index
        is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> probs, labels = jnp.tile(jnp.array([0.75, 0.25]), (4, 1)), jnp.array([0, 0, 0, 1])
      >>> bool(calibration.smooth_calibration_error(probs, labels) < 1e-6)
      True

    Reference:
      Błasiok and Nakkiran, Smooth ECE: Principled Reliability Diagrams via Kernel
      Smoothing, ICLR 2024, arXiv:2309.12236, section 3.
    """
    p = probabilities(probs)
    labels = _checks.class_labels(labels, p.shape[:-1], p.shape[-1])
    confidence = _checks.floating(jnp.max(p, -1), "probs").reshape(-1)
    gap = (jnp.argmax(p, -1) == labels).reshape(-1).astype(confidence.dtype) - confidence
    # Smoothing with reflection multiplies the k-th cosine coefficient by exp(-(π k σ)² / 2).
    k = jnp.arange(_POINTS, dtype=confidence.dtype)
    series = jax.lax.map(lambda k: jnp.mean(gap * jnp.cos(jnp.pi * k * confidence)), k)
    series = jnp.where(k == 0, 1, 2) * series
    cosines = jnp.cos(jnp.pi * jnp.outer(k, (k + 0.5) / _POINTS))

    def above(width: jax.Array) -> jax.Array:
        """Error less width, which falls."""
        damped = series * jnp.exp(-((jnp.pi * k * width) ** 2) / 2)
        smooth = jnp.matmul(damped, cosines, precision="highest")
        return jnp.mean(jnp.abs(smooth)) - width

    return jax.lax.custom_root(above, jnp.zeros_like(series[0]), _bisect, _divide)


def _bisect(function, start: jax.Array) -> jax.Array:
    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        positive = function(middle) > 0
        return jnp.where(positive, middle, low), jnp.where(positive, high, middle)

    low, high = jax.lax.fori_loop(0, _STEPS, halve, (start, jnp.ones_like(start)))
    return jnp.where(jnp.isnan(function(high)), jnp.nan, (low + high) / 2)


def _divide(slope, y: jax.Array) -> jax.Array:
    return y / slope(jnp.ones_like(y))
