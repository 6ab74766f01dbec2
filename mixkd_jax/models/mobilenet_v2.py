"""MobileNetV2 (Sandler et al., arXiv:1801.04381) of width 1, as in keras.applications or PyTorch.

PyTorch's, of timm and torchvision, pads both sides of a convolution of stride 2 where TensorFlow
pads one, and has other constants of BatchNorm.
"""

import functools

import flax.linen as nn
import jax

from mixkd_jax.models import layers
from mixkd_jax.models.backbone import Backbone
from mixkd_jax.models.batch_norm import BatchNorm

# Of each inverted residual block: filters, stride, expansion.
BLOCKS = (
    ((16, 1, 1),)
    + ((24, 2, 6), (24, 1, 6))
    + ((32, 2, 6), (32, 1, 6), (32, 1, 6))
    + ((64, 2, 6), (64, 1, 6), (64, 1, 6), (64, 1, 6))
    + ((96, 1, 6), (96, 1, 6), (96, 1, 6))
    + ((160, 2, 6), (160, 1, 6), (160, 1, 6))
    + ((320, 1, 6),)
)


class MobileNetV2(Backbone):
    """The network without its classifier; 1280 features."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the spatial mean of the last feature map, float32 [B, 1280]."""
        x = self.conv("Conv1", images, 32, 3, stride=2, padding=self.padding(), bias=False)
        x = nn.relu6(self.norm("bn_Conv1", x, train))
        for index, (filters, stride, expansion) in enumerate(BLOCKS):
            name = f"block_{index}" if index else "expanded_conv"
            x = self.block(name, x, filters, stride, expansion, train)
        x = self.conv("Conv_1", x, 1280, 1, bias=False)
        return layers.spatial_mean(nn.relu6(self.norm("Conv_1_bn", x, train)))

    def block(
        self, name: str, x: jax.Array, filters: int, stride: int, expansion: int, train: bool
    ) -> jax.Array:
        """Expands, convolves each channel, projects; adds the input where the shapes agree."""
        y, width = x, expansion * x.shape[-1]
        if expansion > 1:
            y = self.conv(f"{name}_expand", y, width, 1, bias=False)
            y = nn.relu6(self.norm(f"{name}_expand_BN", y, train))
        y = self.conv(
            f"{name}_depthwise",
            y,
            width,
            3,
            stride=stride,
            padding=self.padding(),
            bias=False,
            groups=width,
        )
        y = nn.relu6(self.norm(f"{name}_depthwise_BN", y, train))
        y = self.conv(f"{name}_project", y, filters, 1, bias=False)
        y = self.norm(f"{name}_project_BN", y, train)
        return x + y if stride == 1 and x.shape[-1] == filters else y

    def padding(self) -> int | str:
        """Returns how the 3x3 convolutions are padded."""
        return 1 if self.torch else "SAME"

    def norm(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        """Normalises over the batch with Keras' constants for this family, or PyTorch's."""
        keras = functools.partial(BatchNorm, momentum=0.999, epsilon=1e-3)
        norm = layers.BatchNorm if self.torch else keras
        return norm(use_running_average=not train, dtype=self.dtype, name=name)(x)
