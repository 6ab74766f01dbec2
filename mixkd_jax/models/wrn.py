"""Wide residual networks of Zagoruyko and Komodakis (arXiv:1605.07146): WRN-depth-factor.

Pre-activation blocks after a 3x3 stem of 16 filters; three stages of 16, 32 and 64 times the
widening factor; depth = 6 n + 4 with n blocks a stage. As in the authors' code, RepDistiller and
mdistiller, a block whose width changes normalises first and shares the result with its shortcut,
a plain 1x1 convolution; other blocks add their raw input.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mixkd_jax.models import layers


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, with dropout before the second convolution."""

    filters: int
    stride: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, filters]."""

        def norm_relu(y: jax.Array) -> jax.Array:
            return nn.relu(layers.BatchNorm(use_running_average=not train, dtype=self.dtype)(y))

        y = norm_relu(x)
        if x.shape[-1] != self.filters:
            x = layers.conv(self.filters, 1, stride=self.stride, dtype=self.dtype)(y)
        y = layers.conv(self.filters, 3, stride=self.stride, dtype=self.dtype)(y)
        y = nn.Dropout(self.dropout, deterministic=not train)(norm_relu(y))
        return x + layers.conv(self.filters, 3, dtype=self.dtype)(y)


class WideResNet(nn.Module):
    """A wide residual network for CIFAR.

    Attributes:
        num_classes: Number of logits.
        depth: 6 n + 4.
        factor: The widening factor k.
        dropout: Probability of dropping a unit, in [0, 1); above 0, training needs
            ``rngs={"dropout": key}``.
        dtype: Of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int
    depth: int
    factor: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Raises ValueError for a dropout that is no probability below 1."""
        if not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise ValueError(f"dropout: expected a number in [0, 1), got {self.dropout!r}")
        super().__post_init__()

    def setup(self) -> None:
        """Builds the layers."""
        blocks_per_stage = (self.depth - 4) // 6
        self.stem = layers.conv(16, 3, dtype=self.dtype)
        self.blocks = [
            PreActivationBlock(
                filters=width * self.factor,
                stride=2 if stage > 0 and block == 0 else 1,
                dropout=self.dropout,
                dtype=self.dtype,
            )
            for stage, width in enumerate((16, 32, 64))
            for block in range(blocks_per_stage)
        ]
        self.last_norm = layers.BatchNorm(dtype=self.dtype)
        self.classifier = layers.classifier(self.num_classes)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the input of the classifier, float32 [B, 64 * factor]."""
        layers.check_images(images)
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, train)
        x = nn.relu(self.last_norm(x, use_running_average=not train))
        return layers.spatial_mean(x)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to float32 logits [B, num_classes]."""
        return self.classifier(self.features(images, train))
