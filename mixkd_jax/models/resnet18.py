"""ResNet-18 as in the image-classifiers package (Keras itself has none).

Pre-activation basic blocks (arXiv:1603.05027) after a stem that first normalises the pixels by a
BatchNorm without scale, so images are raw. No convolution has a bias. Source:
https://github.com/qubvel/classification_models, classification_models/models/resnet.py.
"""

import flax.linen as nn
import jax

from mixkd_jax.models import layers
from mixkd_jax.models.backbone import Backbone, pad_max_pool
from mixkd_jax.models.batch_norm import BatchNorm

_he_uniform = nn.initializers.he_uniform()


class ResNet18(Backbone):
    """The network without its classifier; 512 features.

    Attributes:
        blocks: Number of blocks of each stage, four in ResNet-18.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the spatial mean of the last feature map, float32 [B, 512]."""
        x = self.norm("bn_data", images, train, scale=False)
        x = self.plain_conv("conv0", x, 64, 7, 2)
        x = pad_max_pool(nn.relu(self.norm("bn0", x, train)))
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                name = f"stage{stage + 1}_unit{block + 1}_"
                x = self.block(name, x, 64 * 2**stage, stride, block == 0, train)
        return layers.spatial_mean(nn.relu(self.norm("bn1", x, train)))

    def block(
        self, name: str, x: jax.Array, filters: int, stride: int, project: bool, train: bool
    ) -> jax.Array:
        """BatchNorm, ReLU, convolution, twice; the first block of a stage projects its shortcut."""
        y = nn.relu(self.norm(f"{name}bn1", x, train))
        shortcut = self.plain_conv(f"{name}sc", y, filters, 1, stride) if project else x
        y = self.plain_conv(f"{name}conv1", y, filters, 3, stride)
        y = nn.relu(self.norm(f"{name}bn2", y, train))
        return shortcut + self.plain_conv(f"{name}conv2", y, filters, 3)

    def plain_conv(
        self, name: str, x: jax.Array, filters: int, kernel: int, stride: int = 1
    ) -> jax.Array:
        """Convolves without bias, padded by half the kernel."""
        return self.conv(
            name,
            x,
            filters,
            kernel,
            stride=stride,
            padding=kernel // 2,
            bias=False,
            kernel_init=_he_uniform,
        )

    def norm(self, name: str, x: jax.Array, train: bool, scale: bool = True) -> jax.Array:
        """Normalises over the batch with that package's constants."""
        return BatchNorm(
            use_running_average=not train,
            momentum=0.99,
            epsilon=2e-5,
            use_scale=scale,
            dtype=self.dtype,
            name=name,
        )(x)
