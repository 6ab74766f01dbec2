"""Residual networks for ImageNet-sized images, as in keras.applications or PyTorch.

Those of He et al. (arXiv:1512.03385), and with pre-activation (arXiv:1603.05027). In Keras the
convolutions have biases, and the stride of a stage is in the first 1x1 convolution of its first
block (ResNet), or in the 3x3 one of its last block (ResNetV2). In PyTorch, that is in timm and
torchvision, they have none, and the stride of a ResNet is in the 3x3 one.
"""

import functools

import flax.linen as nn
import jax

from mixkd_jax.models import layers
from mixkd_jax.models.backbone import Backbone, pad_max_pool
from mixkd_jax.models.batch_norm import BatchNorm

_WIDTHS = (64, 128, 256, 512)


class _ResNet(Backbone):
    """What the two have in common.

    Attributes:
        blocks: Number of blocks of each of the four stages.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)

    def norm(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        """Normalises over the batch as keras.applications' ResNets do, or PyTorch's."""
        keras = functools.partial(BatchNorm, momentum=0.99, epsilon=1.001e-5)
        norm = layers.BatchNorm if self.torch else keras
        return norm(use_running_average=not train, dtype=self.dtype, name=name)(x)


class ResNetV1(_ResNet):
    """ResNet-50 with ``blocks=(3, 4, 6, 3)``.

    Attributes:
        bottleneck: Whether a block has three convolutions, the last of them four times as wide, or
            two of 3x3, as in ResNet-18 with ``blocks=(2, 2, 2, 2)``.
    """

    bottleneck: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the spatial mean of the last feature map, float32 [B, 2048], or [B, 512]."""
        x = self.conv("conv1_conv", images, 64, 7, stride=2, padding=3, bias=not self.torch)
        x = pad_max_pool(nn.relu(self.norm("conv1_bn", x, train)))
        for stage, (filters, blocks) in enumerate(zip(_WIDTHS, self.blocks, strict=True), start=2):
            for block in range(1, blocks + 1):
                stride = 2 if block == 1 and stage > 2 else 1
                x = self.block(f"conv{stage}_block{block}", x, filters, stride, train)
        return layers.spatial_mean(x)

    def block(self, name: str, x: jax.Array, filters: int, stride: int, train: bool) -> jax.Array:
        """Adds convolutions to a shortcut, which is one too where the shape changes."""

        def conv_norm(index: int, y: jax.Array, width: int, kernel: int, step: int) -> jax.Array:
            y = self.conv(
                f"{name}_{index}_conv",
                y,
                width,
                kernel,
                stride=step,
                padding=kernel // 2,
                bias=not self.torch,
            )
            return self.norm(f"{name}_{index}_bn", y, train)

        width = 4 * filters if self.bottleneck else filters
        changes = stride != 1 or x.shape[-1] != width
        shortcut = conv_norm(0, x, width, 1, stride) if changes else x
        if not self.bottleneck:
            y = nn.relu(conv_norm(1, x, filters, 3, stride))
            return nn.relu(shortcut + conv_norm(2, y, filters, 3, 1))
        first, second = (1, stride) if self.torch else (stride, 1)
        y = nn.relu(conv_norm(1, x, filters, 1, first))
        y = nn.relu(conv_norm(2, y, filters, 3, second))
        return nn.relu(shortcut + conv_norm(3, y, width, 1, 1))


class ResNetV2(_ResNet):
    """ResNet-152V2 with ``blocks=(3, 8, 36, 3)``; 2048 features. A stage has two blocks or more."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the spatial mean of the last feature map, float32 [B, 2048]."""
        x = pad_max_pool(self.conv("conv1_conv", images, 64, 7, stride=2, padding=3))
        for stage, (filters, blocks) in enumerate(zip(_WIDTHS, self.blocks, strict=True), start=2):
            for block in range(1, blocks + 1):
                stride = 2 if block == blocks and stage < 5 else 1
                x = self.block(f"conv{stage}_block{block}", x, filters, stride, block == 1, train)
        return layers.spatial_mean(nn.relu(self.norm("post_bn", x, train)))

    def block(
        self, name: str, x: jax.Array, filters: int, stride: int, project: bool, train: bool
    ) -> jax.Array:
        """BatchNorm and ReLU before each of three convolutions; a plain or subsampled shortcut."""
        before = nn.relu(self.norm(f"{name}_preact_bn", x, train))
        if project:
            shortcut = self.conv(f"{name}_0_conv", before, 4 * filters, 1, stride=stride)
        else:
            shortcut = x[:, ::stride, ::stride]
        y = self.conv(f"{name}_1_conv", before, filters, 1, bias=False)
        y = nn.relu(self.norm(f"{name}_1_bn", y, train))
        y = self.conv(f"{name}_2_conv", y, filters, 3, stride=stride, padding=1, bias=False)
        y = nn.relu(self.norm(f"{name}_2_bn", y, train))
        return shortcut + self.conv(f"{name}_3_conv", y, 4 * filters, 1)
