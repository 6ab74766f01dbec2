"""The device pipeline: a data set that fits lies on the device, batches are made inside the jit.

Everything random is a function of a key and the step. Pairs are made by index, before any image
is read: example i and its partner j are both gathered from the data set, so that mixing moves no
image between devices.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixkd_jax import mixup


class Examples(NamedTuple):
    """A split on the device: images u8[N, H, W, C] and labels i32[N]."""

    images: jax.Array
    labels: jax.Array


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crops of zero-padded or of resized images, and mirroring.

    Attributes:
      crop_padding: pixels on every side of images that aren't resized (He et al.,
        arXiv:1512.03385, sec. 4.2).
      flip: whether half of the images are mirrored left to right.
      resize: pixels of both sides to resize to (bilinear) before a crop; 0 doesn't resize.
      image_size: pixels of both sides of such a crop.
    """

    crop_padding: int = 0
    flip: bool = False
    resize: int = 0
    image_size: int = 0

    @property
    def corners(self) -> int:
        """Number of places along a side where a crop can be."""
        return 1 + (self.resize - self.image_size if self.resize else 2 * self.crop_padding)


class Batch(NamedTuple):
    """Input of a step.

    Attributes:
      images: f32[B, H, W, C] in [0, 255], mixed or not.
      labels: f32[B, C], one-hot or mixed.
      counts: numbers to be logged, by name: f32[] each.
    """

    images: jax.Array
    labels: jax.Array
    counts: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How batches are made, of whatever they are fed with.

    Attributes:
      batch_size: B, over all devices.
      num_classes: C, for one-hot labels.
      augmentation: of single images, before mixing.
    """

    batch_size: int
    num_classes: int
    augmentation: Augmentation


class Shuffled(NamedTuple):
    """Feed of a step: a split on every device, and the order i32[N] of the step's epoch."""

    examples: Examples
    order: jax.Array

    def batch(
        self,
        how: Batching,
        key: jax.Array,
        step: jax.Array,
        plan: mixup.MixupPlan | None,
    ) -> Batch:
        """Returns the batch of a step, gathered, augmented and mixed.

        Equal to `apply_mixup(plan, ·)` of the augmented images and of the one-hot labels, without
        exchanging images among the examples of the batch.

        Args:
          how: batches are made.
          key: decides how each image is augmented.
          step: whose batch it is.
          plan: who is mixed with whom; None doesn't mix.
        """
        indices = batch_indices(self.order, step, how.batch_size)
        views = sample_views(key, how.batch_size, how.augmentation)

        def load(indices: jax.Array, views: Views) -> tuple[jax.Array, jax.Array]:
            images = augment(self.examples.images[indices], views, how.augmentation)
            return _as_input(images, self.examples.labels[indices], how.num_classes)

        own, other = load(indices, views), None
        if plan is not None:
            other = load(indices[plan.partner], jax.tree.map(lambda x: x[plan.partner], views))
        return _mix(own, other, plan, {})


class Loaded(NamedTuple):
    """Feed of a step: its examples, already augmented, and their partners if they are mixed.

    `skipped` i32[devices] adds up to the broken images that the examples took the place of.
    """

    own: Examples
    other: Examples | None
    skipped: jax.Array

    def batch(
        self,
        how: Batching,
        key: jax.Array,
        step: jax.Array,
        plan: mixup.MixupPlan | None,
    ) -> Batch:
        """Returns the batch that was loaded, mixed by the weights of `plan`; see `Shuffled`."""
        del key, step
        own = _as_input(*self.own, how.num_classes)
        other = None if self.other is None else _as_input(*self.other, how.num_classes)
        return _mix(own, other, plan, {"skipped": jnp.sum(self.skipped).astype(jnp.float32)})


Feed = Shuffled | Loaded


def _as_input(
    images: jax.Array, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    return images.astype(jnp.float32), jax.nn.one_hot(labels, num_classes)


def _mix(
    own: tuple[jax.Array, jax.Array],
    other: tuple[jax.Array, jax.Array] | None,
    plan: mixup.MixupPlan | None,
    counts: dict[str, jax.Array],
) -> Batch:
    if other is None or plan is None:
        return Batch(*own, counts)
    images, labels = jax.tree.map(lambda i, j: mixup.interpolate(plan.lam, i, j), own, other)
    return Batch(images, labels, counts)


class Views(NamedTuple):
    """How each image of a batch is augmented: crop's corner i32[B, 2] and mirrored bool[B]."""

    corner: jax.Array
    mirrored: jax.Array


def epoch_order(key: jax.Array, epoch: jax.Array | int, num_examples: int) -> jax.Array:
    """Returns the order i32[N] in which an epoch visits the examples."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def batch_indices(order: jax.Array, step: jax.Array | int, batch_size: int) -> jax.Array:
    """Returns the examples i32[B] of a step; an epoch's rest that fills no batch is left out."""
    position = step % (order.shape[0] // batch_size)
    return jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))


def sample_views(key: jax.Array, batch_size: int, augmentation: Augmentation) -> Views:
    """Draws how each of `batch_size` images is augmented."""
    corner_key, mirror_key = jax.random.split(key)
    corner = jax.random.randint(corner_key, (batch_size, 2), 0, augmentation.corners, jnp.int32)
    mirrored = jax.random.bernoulli(mirror_key, 0.5, (batch_size,)) & augmentation.flip
    return Views(corner, mirrored)


def augment(images: jax.Array, views: Views, augmentation: Augmentation) -> jax.Array:
    """Returns `images` [B, H, W, C] as `views` shows them; float32 if they are resized."""
    shape, pad = images.shape[1:], augmentation.crop_padding
    if augmentation.resize:
        side, channels = augmentation.resize, shape[-1]
        images = jax.image.resize(
            images.astype(jnp.float32), (len(images), side, side, channels), "bilinear"
        )
        shape = (augmentation.image_size, augmentation.image_size, channels)
    elif pad:
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    if images.shape[1:] != shape:
        crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), shape)  # noqa: E731
        images = jax.vmap(crop)(images, views.corner)
    if augmentation.flip:
        images = jnp.where(views.mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images
