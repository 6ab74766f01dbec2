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


class Shuffled(NamedTuple):
    """Feed of a step: a split on every device, and the order i32[N] of the step's epoch."""

    examples: Examples
    order: jax.Array


class Loaded(NamedTuple):
    """Feed of a step: its examples, already augmented, and their partners if they are mixed.

    `skipped` i32[devices] adds up to the broken images that the examples took the place of.
    """

    own: Examples
    other: Examples | None
    skipped: jax.Array


Feed = Shuffled | Loaded


class Batch(NamedTuple):
    """Input of a step: images f32[B, H, W, C] in [0, 255] and labels f32[B, C], mixed or not."""

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


def mix_loaded(loaded: Loaded, lam: jax.Array | None, *, num_classes: int) -> Batch:
    """Mixes examples with the partners that they came with.

    Args:
      loaded: B examples, and as many partners.
      lam: f32[B], the weight of the example itself; None doesn't mix.
      num_classes: C, for one-hot labels.
    """

    def batch(examples: Examples) -> Batch:
        labels = jax.nn.one_hot(examples.labels, num_classes)
        return Batch(examples.images.astype(jnp.float32), labels)

    own = batch(loaded.own)
    if lam is None or loaded.other is None:
        return own
    other = batch(loaded.other)
    return jax.tree.map(lambda x_i, x_j: mixup.interpolate(lam, x_i, x_j), own, other)


def load_batch(
    examples: Examples,
    indices: jax.Array,
    views: Views,
    plan: mixup.MixupPlan | None,
    *,
    augmentation: Augmentation,
    num_classes: int,
) -> Batch:
    """Gathers, augments and mixes a batch.

    Equal to `apply_mixup(plan, ·)` of the augmented images and of the one-hot labels, without
    exchanging images among the examples of the batch.

    Args:
      examples: the split to gather from.
      indices: i32[B].
      views: how each of them is augmented.
      plan: who is mixed with whom; None doesn't mix.
      augmentation: what `views` was drawn for.
      num_classes: C, for one-hot labels.
    """

    def load(indices: jax.Array, views: Views) -> Batch:
        images = augment(examples.images[indices], views, augmentation)
        labels = jax.nn.one_hot(examples.labels[indices], num_classes)
        return Batch(images.astype(jnp.float32), labels)

    own = load(indices, views)
    if plan is None:
        return own
    other = load(indices[plan.partner], jax.tree.map(lambda view: view[plan.partner], views))
    return jax.tree.map(lambda x_i, x_j: mixup.interpolate(plan.lam, x_i, x_j), own, other)
