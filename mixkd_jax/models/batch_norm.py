"""BatchNorm whose sums are written for XLA's CPU backend.

Flax's layer sums over images and pixels at once. XLA makes of that, and of its gradient, a loop on
one core in which channels, of which there may be 16, are all that is computed side by side. Summed
over rows first and then over what is left, the numbers are the same up to rounding, and a network
trains 5 to 15 % faster on a CPU (docs/performance.md). Other backends get Flax's own layer.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm`, which it equals up to rounding, fields and variables included.

    Where it trains on a CPU it has no forward-mode derivative, no gradient through the running
    statistics, and needs `check_vma=False` within `jax.shard_map`. Whatever is unusual, such as
    another axis or parameters in another dtype, is left to Flax there, too.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes the input; see `flax.linen.BatchNorm`."""
        average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        trains = not average and not self.is_initializing()
        if not (trains and mask is None and self._is_usual(x) and jax.default_backend() == "cpu"):
            return super().__call__(x, use_running_average, mask=mask)
        shape = x.shape[-1:]
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        y, mean, var = normalize(x, scale, bias, self.epsilon)
        for name, first, new in (("mean", jnp.zeros, mean), ("var", jnp.ones, var)):
            running = self.variable("batch_stats", name, first, shape, jnp.float32)
            running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y.astype(self.dtype or y.dtype)

    def _is_usual(self, x: jax.Array) -> bool:
        """Whether `normalize` does what the fields say."""
        parameters = self.use_scale and self.use_bias and self.param_dtype == jnp.float32
        sums = self.use_fast_variance and self.force_float32_reductions and self.axis_name is None
        known = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != jnp.float64
        return parameters and sums and known and x.ndim == 4 and self.axis == -1


@jax.custom_vjp
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes the channels of a batch by their own mean and variance.

    Args:
      x: f[B, H, W, C].
      scale: f32[C].
      bias: f32[C].
      epsilon: added to the variance.

    Returns:
      f32[B, H, W, C], and the mean and the biased variance f32[C] of each channel, which have no
      gradient.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Any:
    count = x.size // x.shape[-1]
    values = x.astype(jnp.float32)
    total, squares = _sums(values, values * values)
    mean = total / count
    var = jnp.maximum(squares / count - mean * mean, 0)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (values - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, mean, inverse, scale)


def _backward(saved: Any, cotangents: Any) -> tuple[jax.Array | None, ...]:
    x, mean, inverse, scale = saved
    g, count = cotangents[0], x.size // x.shape[-1]
    centred = x.astype(jnp.float32) - mean
    in_bias, projected = _sums(g, g * centred)
    in_scale = projected * inverse
    in_x = (g - in_bias / count - centred * (inverse * in_scale / count)) * (inverse * scale)
    return in_x.astype(x.dtype), in_scale, in_bias, None  # epsilon has none


normalize.defvjp(_forward, _backward)


def _sums(*values: jax.Array) -> tuple[jax.Array, ...]:
    """Sums f32[B, H, W, C] to f32[C] each: over H, and then over the rest."""
    # Without the barrier XLA makes one sum of the two.
    rows = jax.lax.optimization_barrier(tuple(jnp.sum(value, 1) for value in values))
    return tuple(jnp.sum(row, (0, 1)) for row in rows)
