"""A model together with its preprocessing: from mixed pixels to logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixkd_jax.models.preprocess import standardize

Variables = Mapping[str, Any]  # {"params": ..., "batch_stats": ...}, as Flax Linen has them


class Classifier(Protocol):
    """What a teacher must be able to do: a `Network`, or one of `mixkd_jax.models.teachers`.

    Attributes:
      on_host: whether it runs on the host, and so is called between compiled programs.
    """

    @property
    def on_host(self) -> bool:
        """See above."""
        ...

    def logits(self, variables: Any, images: jax.Array, /) -> jax.Array:
        """Returns f32[B, C] for pixels [B, H, W, C] in [0, 255], in evaluation mode."""
        ...

    def logits_and_features(
        self, variables: Any, images: jax.Array, /
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the logits, and the inputs of the last layer f32[B, D] if it gives them."""
        ...


@dataclasses.dataclass(frozen=True)
class Network:
    """A classifier of pixels: what a teacher or a student is, without its variables.

    Attributes:
      module: a Linen module with `apply(variables, images, train=False) -> logits`.
      mean: per channel, subtracted from pixels in [0, 1].
      std: per channel, divides the difference.
      bgr: whether the module sees the channels in the order blue, green, red; `mean` and `std` are
        in that of the images, red first.
      image_size: height and width in pixels that the module sees; images of another size are
        resized (bilinear). 0 takes them as they are.
    """

    module: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    image_size: int = 0

    @property
    def on_host(self) -> bool:
        """False: it runs on the devices."""
        return False

    def init(self, key: jax.Array, image_shape: tuple[int, ...]) -> Variables:
        """Returns new variables for images [H, W, C]."""
        return self.module.init(key, self.preprocess(jnp.zeros((1, *image_shape))), train=False)

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Returns what the module sees of pixels in [0, 255]."""
        side = self.image_size
        if side and images.shape[1:3] != (side, side):
            shape = (images.shape[0], side, side, images.shape[3])
            images = jax.image.resize(images.astype(jnp.float32), shape, "bilinear")
        images = standardize(images, self.mean, self.std)
        if not self.bgr:
            return images
        channels = (jax.lax.slice_in_dim(images, c, c + 1, axis=-1) for c in (2, 1, 0))
        return jnp.concatenate(list(channels), -1)

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Returns f32[B, C] for pixels [B, H, W, C] in [0, 255], in evaluation mode."""
        return self.module.apply(variables, self.preprocess(images), train=False)  # pyright: ignore[reportReturnType]

    def logits_and_features(
        self, variables: Variables, images: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the logits, and the inputs of the classifier f32[B, D].

        The features are those that the module's method `features` returns, and None of a module
        without one. Both come from one pass: features are caught on their way to the classifier.
        """
        if not hasattr(self.module, "features"):
            return self.logits(variables, images), None
        logits, caught = self.module.apply(
            variables,
            self.preprocess(images),
            train=False,
            capture_intermediates=lambda _, method: method == "features",
            mutable=["intermediates"],
        )
        features = caught["intermediates"]["features"][0]  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]
        return logits, features.reshape(features.shape[0], -1)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue, reportReturnType]

    def train_logits(
        self, variables: Variables, images: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Returns (logits f32[B, C], new batch statistics), in training mode.

        Args:
          variables: as `init` returns them.
          images: [B, H, W, C] in [0, 255].
          key: for dropout.
        """
        logits, changed = self.module.apply(
            variables,
            self.preprocess(images),
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return logits, changed.get("batch_stats", {})  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]


class Teacher(NamedTuple):
    """A frozen classifier with its variables: what students learn from."""

    network: Classifier
    variables: Any
