"""The CIFAR ResNet family of He et al. (arXiv:1512.03385, section 4.2).

Three stages of basic blocks after a 3x3 stem; depth = 6 n + 2 with n blocks a stage. Where the
shape changes, the shortcut is a 1x1 convolution with BatchNorm (option B), as in RepDistiller and
mdistiller; the paper's own CIFAR nets pad with zeros (option A), which has no parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mixkd_jax.models import layers


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))``."""

    filters: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, filters]."""

        def norm(y: jax.Array) -> jax.Array:
            return layers.BatchNorm(use_running_average=not train, dtype=self.dtype)(y)

        y = layers.conv(self.filters, 3, stride=self.stride, dtype=self.dtype)(x)
        y = nn.relu(norm(y))
        y = norm(layers.conv(self.filters, 3, dtype=self.dtype)(y))
        if self.stride != 1 or x.shape[-1] != self.filters:
            x = norm(layers.conv(self.filters, 1, stride=self.stride, dtype=self.dtype)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A CIFAR ResNet.

    Attributes:
        num_classes: Number of logits.
        depth: Number of weighted layers without the shortcuts, 6 n + 2.
        widths: Filters of the stem and of the three stages.
        dtype: Of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int
    depth: int
    widths: tuple[int, int, int, int] = (16, 16, 32, 64)
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Builds the layers."""
        stem, *stages = self.widths
        blocks_per_stage = (self.depth - 2) // 6
        self.stem = layers.conv(stem, 3, dtype=self.dtype)
        self.stem_norm = layers.BatchNorm(dtype=self.dtype)
        self.blocks = [
            BasicBlock(filters, 2 if stage > 0 and block == 0 else 1, self.dtype)
            for stage, filters in enumerate(stages)
            for block in range(blocks_per_stage)
        ]
        self.classifier = layers.classifier(self.num_classes)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the input of the classifier, float32 [B, widths[-1]]."""
        layers.check_images(images)
        x = self.stem_norm(self.stem(images), use_running_average=not train)
        x = nn.relu(x)
        for block in self.blocks:
            x = block(x, train)
        return layers.spatial_mean(x)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to float32 logits [B, num_classes]."""
        return self.classifier(self.features(images, train))
