"""ConvNeXt (Liu et al., arXiv:2201.03545) as in keras.applications or PyTorch.

Keras' takes pixels in [0, 255] and standardises them itself; PyTorch's, of timm and torchvision,
takes them standardised. The stochastic depth of Keras' models is zero, so there is none here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixkd_jax.models import layers
from mixkd_jax.models.backbone import Backbone, glorot_uniform
from mixkd_jax.models.preprocess import standardize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvNeXt(Backbone):
    """The network without its classifier; ``widths[-1]`` features.

    Attributes:
        depths: Number of blocks of each of the four stages.
        widths: Channels of each stage.
        pool_first: Whether the last LayerNorm follows the spatial mean, as in PyTorch and under
            Keras' ImageNet classifier, or goes before it, as in the paper's teachers
            (``include_top=False``).
    """

    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    pool_first: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the pooled and normalised features, float32 [B, widths[-1]]."""
        del train  # nothing here depends on it
        x = images if self.torch else standardize(images, MEAN, STD)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage == 0:
                x = self.conv("stem_conv", x, width, 4, stride=4)
                x = self.layer_norm("stem_layernorm", x)
            else:
                x = self.layer_norm(f"downsampling_layernorm_{stage - 1}", x)
                x = self.conv(f"downsampling_conv_{stage - 1}", x, width, 2, stride=2)
            for block in range(depth):
                x = self.block(f"stage_{stage}_block_{block}", x)
        if self.pool_first:
            return self.layer_norm("layernorm", layers.spatial_mean(x)).astype(jnp.float32)
        return layers.spatial_mean(self.layer_norm("layernorm", x))

    def block(self, name: str, x: jax.Array) -> jax.Array:
        """A 7x7 depthwise convolution, LayerNorm and two linear maps, scaled and added to x."""
        width = x.shape[-1]
        y = self.conv(f"{name}_depthwise_conv", x, width, 7, padding=3, groups=width)
        y = self.layer_norm(f"{name}_layernorm", y)
        y = nn.gelu(self.dense(f"{name}_pointwise_conv_1", y, 4 * width), approximate=False)
        y = self.dense(f"{name}_pointwise_conv_2", y, width)
        scale = self.param(f"{name}_layer_scale", nn.initializers.constant(1e-6), (width,))
        return x + y * scale.astype(y.dtype)

    def dense(self, name: str, x: jax.Array, width: int) -> jax.Array:
        """A linear map of the channels."""
        return nn.Dense(width, kernel_init=glorot_uniform, dtype=self.dtype, name=name)(x)
