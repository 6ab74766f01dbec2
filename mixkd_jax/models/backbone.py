"""What the families have in common whose weights come from files of Keras or PyTorch.

A submodule has the name of its layer in keras.applications, in PyTorch's variant too; the places of
its weights in each kind of file are in `mixkd_jax.weights`. Parameters and statistics are float32;
`dtype` is that of the computation.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

glorot_uniform = nn.initializers.glorot_uniform()


class Backbone(nn.Module):
    """A network without its classifier: images [B, H, W, C] to float32 features [B, F].

    Attributes:
        dtype: Of the computation; parameters, statistics and features are float32.
        torch: Whether this is the architecture as timm and torchvision have it, whose weights are
            in safetensors, instead of Keras', whose weights are in Keras files.
    """

    dtype: DTypeLike = jnp.float32
    torch: bool = False

    def conv(
        self,
        name: str,
        x: jax.Array,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | str = 0,
        bias: bool = True,
        groups: int = 1,
        kernel_init: nn.initializers.Initializer = glorot_uniform,
    ) -> jax.Array:
        """Convolves ``x``; ``padding`` is zeros on every side, or ``"SAME"`` as TensorFlow pads."""
        return nn.Conv(
            filters,
            (kernel, kernel),
            strides=stride,
            padding=padding,
            use_bias=bias,
            feature_group_count=groups,
            kernel_init=kernel_init,
            dtype=self.dtype,
            name=name,
        )(x)

    def layer_norm(self, name: str, x: jax.Array) -> jax.Array:
        """Normalises over channels with the epsilon of ConvNeXt and ViT, in Keras and PyTorch."""
        return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)


def pad_max_pool(x: jax.Array) -> jax.Array:
    """Pads one row of zeros on every side, then takes 3x3 maxima with stride 2.

    The zeros count, unlike those of Flax's own padding: they hide negative values at the border.
    """
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(padded, (3, 3), strides=(2, 2))
