"""A backbone and a head, with their variables apart: what is fine-tuned from ImageNet weights.

The parameters are ``{"backbone": ..., "head": ...}``, the batch statistics too, so that the first
stage of the paper's recipe can train the head alone and every weight can be loaded by part.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixkd_jax.models import layers
from mixkd_jax.models.backbone import Backbone, glorot_uniform

HEADS = ("student", "teacher", "imagenet")


class StudentHead(nn.Module):
    """The paper's: Dense 256 without bias, BatchNorm, ReLU, Dropout 0.3, Dense.

    Attributes:
        num_classes: Number of logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        """Maps float32 features [B, F] to float32 logits [B, num_classes]."""
        x = nn.Dense(256, use_bias=False, kernel_init=glorot_uniform, name="hidden")(features)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.99, epsilon=1e-3, name="hidden_bn"
        )
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(norm(x)))
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="logits")(x)


class LinearHead(nn.Module):
    """A linear classifier: the paper's teachers have Dropout 0.3 before it, ImageNet's none.

    Attributes:
        num_classes: Number of logits.
        dropout: Probability of dropping a feature.
    """

    num_classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, features: jax.Array, train: bool) -> jax.Array:
        """Maps float32 features [B, F] to float32 logits [B, num_classes]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        return nn.Dense(self.num_classes, kernel_init=glorot_uniform, name="logits")(x)


class Classifier(nn.Module):
    """A backbone and a head.

    Attributes:
        backbone: Maps images to features.
        head: Maps features to logits.
        train_backbone: If False, training freezes the backbone: its BatchNorms use their running
            statistics and leave them alone, and no gradient enters it. Variables stay the same,
            so ``model.clone(train_backbone=True)`` goes on with them.
    """

    backbone: Backbone
    head: StudentHead | LinearHead
    train_backbone: bool = True

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns the input of the head, float32 [B, F]."""
        layers.check_images(images)
        if min(images.shape[1:3]) < 32:
            raise ValueError(
                f"images: expected at least 32 x 32 pixels, got {list(images.shape)}; resize them"
            )
        x = self.backbone(images, train and self.train_backbone)
        return jax.lax.stop_gradient(x) if train and not self.train_backbone else x

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to float32 logits [B, num_classes]."""
        return self.head(self.features(images, train), train).astype(jnp.float32)


def make_head(kind: str, num_classes: int) -> StudentHead | LinearHead:
    """Returns the head called ``kind``, one of `HEADS`; raises ValueError for another."""
    if kind not in HEADS:
        raise ValueError(f"head: expected one of {', '.join(HEADS)}; got {kind!r}")
    if kind == "student":
        return StudentHead(num_classes)
    return LinearHead(num_classes, dropout=0.3 if kind == "teacher" else 0.0)
