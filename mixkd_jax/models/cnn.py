"""A small convolutional network for small grey images such as the 8x8 digits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mixkd_jax.models import layers


class PatchConv(nn.Module):
    """A 3x3 convolution of stride 2, written as one matrix product over patches.

    Equal to `layers.conv(filters, 3, stride=2)` with the kernel reshaped to [9 * C, filters]. With
    so few channels the product and its gradients are faster on a CPU than XLA's convolution.
    """

    filters: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), filters]."""
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = [
            padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)
        ]
        dense = nn.Dense(
            self.filters,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
        )
        return dense(jnp.concatenate(taps, axis=-1))


class CNN(nn.Module):
    """Two 3x3 convolutions of stride 2 with BatchNorm and ReLU, then a linear classifier.

    Attributes:
        num_classes: Number of logits.
        width: Filters of the first convolution; the second has twice as many.
        dtype: Of the computation; parameters, statistics and logits are float32.
    """

    num_classes: int
    width: int = 16
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Raises ValueError for a width that is no positive integer."""
        if not (isinstance(self.width, int) and self.width > 0):
            raise ValueError(f"width: expected a positive integer, got {self.width!r}")
        super().__post_init__()

    def setup(self) -> None:
        """Builds the layers."""
        filters = (self.width, 2 * self.width)
        self.convs = [PatchConv(n, self.dtype) for n in filters]
        self.norms = [layers.BatchNorm(dtype=self.dtype) for _ in filters]
        self.classifier = layers.classifier(self.num_classes)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the flattened input of the classifier, float32 [B, H/4 * W/4 * 2 * width]."""
        layers.check_images(images)
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.relu(norm(conv(x), use_running_average=not train))
        return x.reshape(x.shape[0], -1).astype(jnp.float32)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to float32 logits [B, num_classes]."""
        return self.classifier(self.features(images, train))
