"""Layers that every family shares, with the conventions of the distillation literature.

These are the choices of RepDistiller (https://github.com/HobbitLong/RepDistiller) and
mdistiller (https://github.com/megvii-research/mdistiller), written in PyTorch:

* convolutions without bias, He initialisation with fan-out (He et al. 2015, arXiv:1502.01852);
* symmetric padding, also at stride 2, where Flax's ``"SAME"`` pads one side only;
* BatchNorm with epsilon 1e-5 and PyTorch's momentum 0.1, which Flax writes as 0.9;
* a linear classifier on the spatial mean.

Two details differ: Flax tracks the biased batch variance (PyTorch the unbiased one), and the
classifier's bias starts at zero. Parameters and statistics are always float32.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mixkd_jax.models import batch_norm

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for a linear layer.
_linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# Without an axis name the statistics are over the whole array: under jit with a sharded batch
# that is the global batch.
BatchNorm = functools.partial(batch_norm.BatchNorm, momentum=0.9, epsilon=1e-5)


def conv(filters: int, kernel: int, *, stride: int = 1, dtype: DTypeLike) -> nn.Conv:
    """Returns a square convolution without bias, padded by ``kernel // 2`` on every side."""
    return nn.Conv(
        filters,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=he_fan_out,
        dtype=dtype,
    )


def classifier(num_classes: int) -> nn.Dense:
    """Returns the last linear layer: float32 whatever the computation dtype, so logits are too."""
    return nn.Dense(num_classes, kernel_init=_linear_uniform, dtype=jnp.float32)


def spatial_mean(x: jax.Array) -> jax.Array:
    """Returns the mean over height and width of ``x`` [B, H, W, C] as float32 [B, C]."""
    return x.mean((1, 2), dtype=jnp.float32)


def check_images(images: jax.Array) -> None:
    """Raises ValueError unless ``images`` is floating [B, H, W, C]."""
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images: expected a floating array [batch, height, width, channels], got "
            f"{images.dtype}{list(images.shape)}; preprocess uint8 images first, as "
            f"mixkd_jax.models.preprocess.standardize does"
        )
