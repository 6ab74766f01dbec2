"""From pixels to the input of a model, as pure functions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def standardize(
    images: jax.Array, mean: ArrayLike | Sequence[float], std: ArrayLike | Sequence[float]
) -> jax.Array:
    """Scales pixels to [0, 1], then standardises each channel: ``(images / 255 - mean) / std``.

    Args:
        images: [..., C] in [0, 255], any dtype (mixed images are floating).
        mean: [C] or a scalar, on the scale of [0, 1].
        std: [C] or a scalar, on the same scale, positive.

    Returns:
        float32 [..., C].

    Raises:
        ValueError: If ``mean`` or ``std`` has neither one value nor one a channel.
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    channels = images.shape[-1]
    for field, value in (("mean", mean), ("std", std)):
        if value.shape not in ((), (1,), (channels,)):
            raise ValueError(
                f"{field}: expected 1 or {channels} values (one a channel of images "
                f"{list(images.shape)}), got shape {list(value.shape)}"
            )
    return (images.astype(jnp.float32) / 255 - mean) / std
