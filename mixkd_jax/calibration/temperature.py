"""Temperature scaling."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import _checks

__all__ = ["fit_temperature"]

# The search for log(scale / T): T from 1e-4 to 1e4 times the scale of the logits.
_BOUND = float(np.log(1e4))
_MAX_STEPS = 100


def fit_temperature(logits: Any, labels: Any) -> jax.Array:
    """Returns the T > 0 that minimises the mean of -log softmax(z/T)_y.

    Newton's method on log T, kept inside a bracket by bisection. The NLL is convex
    in 1/T, so the minimum is unique. It may lie at infinity: the NLL of labels
    that are all classified right falls all the way to T = 0, that of labels worse
    than chance to T = ∞. T is therefore searched between 1e-4 and 1e4 times the
    mean, over examples, of the largest minus the smallest logit, and such data
    give that bound. If all logits of every example are equal, T is 1.

    Works under `jit` and `vmap`; derivatives in the logits are those of the
    minimum (implicit function theorem), and 0 at a bound.

    Args:
      logits: f[..., C]; -inf removes a class.
      labels: i[...], class indices. Use data that was not trained on.

    Returns:
      f32[] (float64 for float64 logits).

    Raises:
      ValueError: If the shapes do not fit, there is no example, or an index is out
        of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mixkd_jax import calibration
      >>> logits = jnp.array([[2.0, 0.0]] * 4)
      >>> t = calibration.fit_temperature(logits, jnp.array([0, 0, 0, 1]))
      >>> bool(jnp.isclose(jax.nn.sigmoid(2.0 / t), 0.75))
      True

    Reference:
      Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599,
      section 4.2.
    """
    z = _checks.floating(logits, "logits")
    _checks.class_axis(z, -1, "logits")
    labels = _checks.class_labels(labels, z.shape[:-1], z.shape[-1])
    if labels.size == 0:
        raise ValueError(f"logits: expected at least one example, got shape {z.shape}.")
    z, labels = z.reshape(-1, z.shape[-1]), labels.reshape(-1)
    z = z - jax.lax.stop_gradient(jnp.max(z, -1, keepdims=True))
    widest = -jnp.min(jnp.where(z == -jnp.inf, 0, z), -1)
    scale = jax.lax.stop_gradient(jnp.mean(widest))
    flat = scale == 0
    unit = z / jnp.where(flat, 1, scale)
    x = _minimise(jax.lax.stop_gradient(unit), labels, jnp.log(jnp.where(flat, 1, scale)))
    # One more Newton step, with the logits' derivative: that of the minimum.
    slope, curvature = _slope(unit, labels, x)
    inside = (jnp.abs(x) < _BOUND) & (curvature > 0)
    step = slope / jax.lax.stop_gradient(jnp.where(inside, curvature, 1))
    x = jnp.clip(x - jnp.where(inside, step, 0), -_BOUND, _BOUND)
    return jnp.where(flat, 1, scale * jnp.exp(-x))


def _slope(u: jax.Array, labels: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns first and second derivative of the mean NLL of exp(x) · u in x."""
    beta = jnp.exp(x)
    u = jnp.where(u == -jnp.inf, jnp.finfo(u.dtype).min / 1e12, u)
    p = jax.nn.softmax(beta * u)
    own = jnp.take_along_axis(u, labels[:, None], -1)
    gap = jnp.sum(p * (u - own), -1)
    mean = jnp.sum(p * u, -1, keepdims=True)
    variance = jnp.sum(p * jnp.where(p > 0, u - mean, 0) ** 2, -1)
    slope = beta * jnp.mean(gap)
    return slope, slope + beta**2 * jnp.mean(variance)


def _minimise(u: jax.Array, labels: jax.Array, start: jax.Array) -> jax.Array:
    """Returns x in [-_BOUND, _BOUND] where the mean NLL of exp(x) · u is least."""
    low, high = jnp.full((), -_BOUND, u.dtype), jnp.full((), _BOUND, u.dtype)
    # A slope that does not change sign leaves only a bound.
    low = jnp.where(_slope(u, labels, high)[0] <= 0, high, low)
    high = jnp.where(_slope(u, labels, -jnp.full_like(low, _BOUND))[0] >= 0, -_BOUND, high)
    tolerance = 4 * jnp.finfo(u.dtype).eps

    def unfinished(state: Any) -> jax.Array:
        _, _, _, moved, count = state
        return (moved > tolerance) & (count < _MAX_STEPS)

    def improve(state: Any) -> Any:
        low, high, x, moved, count = state
        slope, curvature = _slope(u, labels, x)
        low, high = jnp.where(slope < 0, x, low), jnp.where(slope > 0, x, high)
        newton = x - slope / jnp.where(curvature > 0, curvature, 1)
        middle = (low + high) / 2
        good = (curvature > 0) & (newton >= low) & (newton <= high)
        good &= jnp.abs(newton - x) <= moved / 2
        new = jnp.where(good, newton, middle)
        return low, high, new, jnp.abs(new - x), count + 1

    x = jnp.clip(start.astype(u.dtype), low, high)
    return jax.lax.while_loop(unfinished, improve, (low, high, x, high - low, 0))[2]
