"""The Vision Transformer of Dosovitskiy et al. (arXiv:2010.11929).

keras_hub, timm and torchvision have the same one; their weights lie differently in a file.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixkd_jax.models.backbone import Backbone, glorot_uniform


class ViT(Backbone):
    """The network without its classifier.

    The position embedding has one row a patch and one for the class token, so its shape follows
    the size of the images that the variables were made for.

    Attributes:
        depth: Number of encoder blocks.
        width: Of the states, 768 for ViT-B.
        heads: Number of attention heads.
        mlp_width: Of the hidden layer of each block.
        patch: Height and width of a patch, in pixels; divides the images'.
        pool_patches: Whether the features are the mean over the patches' final states, as timm's
            ``global_pool="avg"`` has it, or the class token's.
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    patch: int = 16
    pool_patches: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the pooled state after the last LayerNorm, float32 [B, width]."""
        del train  # nothing here depends on it: the dropout is 0
        batch, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images: expected height and width divisible by the patch size {self.patch}, "
                f"got {height} x {width}"
            )
        x = self.conv("patch_embedding", images, self.width, self.patch, stride=self.patch)
        x = x.reshape(batch, -1, self.width)
        token = self.param("class_token", nn.initializers.normal(0.05), (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (x.shape[1], self.width)
        )
        x = x + positions.astype(x.dtype)
        for index in range(self.depth):
            x = self.block(f"block_{index}", x)
        x = x[:, 1:].mean(1) if self.pool_patches else x[:, 0]
        return self.layer_norm("layer_norm", x).astype(jnp.float32)

    def block(self, name: str, x: jax.Array) -> jax.Array:
        """Self-attention and a two-layer perceptron, each after a LayerNorm and added to x."""
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            force_fp32_for_softmax=True,
            kernel_init=glorot_uniform,
            name=f"{name}_attention",
        )
        x = x + attention(self.layer_norm(f"{name}_layer_norm_1", x))
        y = self.layer_norm(f"{name}_layer_norm_2", x)
        y = nn.gelu(self.dense(f"{name}_dense_1", y, self.mlp_width), approximate=False)
        return x + self.dense(f"{name}_dense_2", y, self.width)

    def dense(self, name: str, x: jax.Array, width: int) -> jax.Array:
        """A linear map of the states."""
        return nn.Dense(width, kernel_init=glorot_uniform, dtype=self.dtype, name=name)(x)
