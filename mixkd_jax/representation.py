"""How alike two models' features are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks

__all__ = ["linear_cka"]


def linear_cka(x: ArrayLike, y: ArrayLike, *, unbiased: bool = True) -> jax.Array:
    """Linear centred kernel alignment (CKA) of two models' features of the same inputs.

    HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)) of the kernels x xᵀ and y yᵀ: 1 for features that
    are equal up to rotation, scale and shift. The usual estimate of HSIC is biased: with
    fewer inputs than features, unrelated ones look alike. The unbiased one leaves the
    kernels' diagonals out, so that those have a CKA around 0.

    Args:
      x: f[n, D1], one row per input.
      y: f[n, D2].
      unbiased: Whether to use the unbiased estimates of HSIC, which need n of at least 4.

    Returns:
      f32[] (float64 for float64 input), from -1 to 1, from 0 if biased. NaN if all features
      of a model are constant.

    Raises:
      ValueError: If the shapes do not fit, or there are too few inputs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mixkd_jax import representation
      >>> x = jax.random.normal(jax.random.key(0), (8, 3))
      >>> bool(jnp.isclose(representation.linear_cka(x, 2 * x[:, ::-1] + 1), 1))
      True

    References:
      Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019,
      arXiv:1905.00414, eq. 3 and 4. Unbiased: Song et al., Feature Selection via Dependence
      Maximization, JMLR 13, 2012, eq. 5; Nguyen et al., arXiv:2010.15327, eq. 3.
    """
    x, y = _checks.floating(x, "x"), _checks.floating(y, "y")
    least = 4 if unbiased else 1
    if x.ndim != 2 or y.ndim != 2 or x.shape[0] != y.shape[0] or x.shape[0] < least:
        raise ValueError(
            f"x, y: expected features [n, D1] and [n, D2] of the same n >= {least} inputs, got "
            f"{x.shape} and {y.shape}; flatten all but the first axis."
        )
    x, y = (_scaled(a - jnp.mean(a, 0, keepdims=True)) for a in (x, y))
    cross, own_x, own_y = (_hsic(a, b, unbiased) for a, b in ((x, y), (x, x), (y, y)))
    return cross / (jnp.sqrt(own_x) * jnp.sqrt(own_y))


def _scaled(x: jax.Array) -> jax.Array:
    """Divides by the largest entry, which CKA doesn't see, lest products over- or underflow."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0.0))
    return x / jnp.where(size > 0, size, 1)


def _hsic(x: jax.Array, y: jax.Array, unbiased: bool) -> jax.Array:
    """Returns HSIC of centred features, up to a factor that depends on n alone.

    With centred kernels K and L, whose rows sum to 0, the unbiased estimate of Song et al. is
    tr(K L) + tr K tr L / ((n-1) (n-2)) - n / (n-2) Σ_i K_ii L_ii, over n (n-3).
    """
    count = x.shape[0]
    if min(x.shape[1], y.shape[1]) > count:  # the same number from matrices of n x n
        grams = [jnp.matmul(a, a.T, precision="highest") for a in (x, y)]
        product = jnp.sum(grams[0] * grams[1])
    else:
        product = jnp.sum(jnp.matmul(y.T, x, precision="highest") ** 2)
    if not unbiased:
        return product
    k, m = jnp.sum(x * x, 1), jnp.sum(y * y, 1)
    traces = jnp.sum(k) * jnp.sum(m) / ((count - 1) * (count - 2))
    return product + traces - count / (count - 2) * jnp.sum(k * m)
