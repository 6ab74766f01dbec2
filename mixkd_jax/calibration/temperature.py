"""Temperature scaling."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mixkd_jax import _checks

__all__ = ["fit_temperature"]

# The search for log(scale / T): T from 1e-4 to 1e4 times the scale of the logits.
_BOUND = float(np.log(1e4))
_MAX_STEPS = 100


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Returns the T > 0 that minimises the mean of -Σ_k y_k log softmax(z/T)_k.

    Newton's method on log T, kept inside a bracket by bisection. The NLL is convex
    in 1/T, so the minimum is unique. It may lie at infinity: the NLL of labels
    that are all classified right falls all the way to T = 0, that of labels worse
    than chance to T = ∞. T is therefore searched between 1e-4 and 1e4 times a
    typical gap, and such data give that bound: the geometric mean, over examples,
    of the largest logit minus the next smaller one. If all logits of every example
    are equal, T is 1.

    Works under `jit` and `vmap`; derivatives in the logits, of any order, are those
    of the minimum (implicit function theorem), and 0 at a bound.

    Args:
      logits: f[..., C]; -inf removes a class, and so in effect does -1e9.
      labels: i[...], class indices, or f[..., C], rows of probabilities. Use data that
        was not trained on.

    Returns:
      f32[] (float64 for float64 logits). NaN if a logit is NaN or +inf, a label's own
      logit or all of an example are -inf or, under `jit`, an index is outside [0, C).

    Raises:
      ValueError: If the shapes do not fit, there is no example, or an index is out
        of range, or soft labels are not probabilities.

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
    soft = jnp.issubdtype(_checks.array(labels, "labels").dtype, jnp.floating)
    if soft:
        given = _checks.soft_labels(labels, z).astype(z.dtype)
    else:
        given = _checks.class_labels(labels, z.shape[:-1], z.shape[-1])
    if z.size == 0:
        raise ValueError(f"logits: expected at least one example, got shape {z.shape}.")
    z = z.reshape(-1, z.shape[-1])
    top = jax.lax.stop_gradient(jnp.max(z, -1, keepdims=True))
    bad = ~jnp.all(jnp.isfinite(top))
    z = z - top
    scale = _typical_gap(jax.lax.stop_gradient(z))
    unit = jnp.maximum(z / scale, jnp.finfo(z.dtype).min / 1e12)  # 0 · inf is NaN
    if soft:
        own = jnp.sum(given.reshape(unit.shape) * unit, -1, keepdims=True)
        bad |= jnp.any(jnp.isnan(own)) | jnp.any((given > 0).reshape(z.shape) & (z == -jnp.inf))
    else:
        bad |= jnp.any((given < 0) | (given >= z.shape[-1]))
        own = jnp.take_along_axis(unit, given.reshape(-1, 1), -1)
        bad |= jnp.any(jnp.take_along_axis(z, given.reshape(-1, 1), -1) == -jnp.inf)
    x = jax.lax.custom_root(
        lambda x: _slope(unit, own, x)[0],
        jnp.log(scale),
        lambda _, start: _minimise(*jax.lax.stop_gradient((unit, own)), start),
        _divide,
    )
    return jnp.where(bad, jnp.nan, jnp.where(jnp.all(z == 0), 1, scale * jnp.exp(-x)))


def _typical_gap(z: jax.Array) -> jax.Array:
    """Returns the geometric mean of each row's smallest positive distance to its largest, 0."""
    gap = jnp.min(jnp.where((z < 0) & (z > -jnp.inf), -z, jnp.inf), -1)
    has = gap < jnp.inf
    logs = jnp.where(has, jnp.log(jnp.where(has, gap, 1)), 0)
    return jnp.exp(jnp.sum(logs) / jnp.maximum(jnp.sum(has, dtype=z.dtype), 1))


def _divide(slope: Any, y: jax.Array) -> jax.Array:
    """Solves slope(x) = y, slope being linear; at a bound, where the curvature is 0, gives 0."""
    curvature = slope(jnp.ones_like(y))
    return jnp.where(curvature > 0, y / jnp.where(curvature > 0, curvature, 1), 0)


def _slope(u: jax.Array, own: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns first and second derivative of the mean NLL of exp(x) · u in x.

    Args:
      u: f[N, C], logits.
      own: f[N, 1], the logit of the label, or the mean of them by soft labels.
      x: f[].
    """
    beta = jnp.exp(x)
    p = jax.nn.softmax(beta * u)
    gap = jnp.sum(p * (u - own), -1)
    mean = jnp.sum(p * u, -1, keepdims=True)
    variance = jnp.sum(p * jnp.where(p > 0, u - mean, 0) ** 2, -1)
    slope = beta * jnp.mean(gap)
    return slope, slope + beta**2 * jnp.mean(variance)


def _minimise(u: jax.Array, own: jax.Array, start: jax.Array) -> jax.Array:
    """Returns x in [-_BOUND, _BOUND] where the mean NLL of exp(x) · u is least."""
    low, high = jnp.full((), -_BOUND, u.dtype), jnp.full((), _BOUND, u.dtype)
    # A slope that does not change sign leaves only a bound.
    low = jnp.where(_slope(u, own, high)[0] <= 0, high, low)
    high = jnp.where(_slope(u, own, -jnp.full_like(low, _BOUND))[0] >= 0, -_BOUND, high)
    tolerance = 4 * jnp.finfo(u.dtype).eps

    def unfinished(state: Any) -> jax.Array:
        _, _, _, moved, count = state
        return (moved > tolerance) & (count < _MAX_STEPS)

    def improve(state: Any) -> Any:
        low, high, x, moved, count = state
        slope, curvature = _slope(u, own, x)
        low, high = jnp.where(slope < 0, x, low), jnp.where(slope > 0, x, high)
        newton = x - slope / jnp.where(curvature > 0, curvature, 1)
        middle = (low + high) / 2
        good = (curvature > 0) & (newton >= low) & (newton <= high)
        good &= jnp.abs(newton - x) <= moved / 2
        new = jnp.where(good, newton, middle)
        return low, high, new, jnp.abs(new - x), count + 1

    x = jnp.clip(start.astype(u.dtype), low, high)
    return jax.lax.while_loop(unfinished, improve, (low, high, x, high - low, 0))[2]
