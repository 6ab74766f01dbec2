"""What a model says about images and mixtures of them, and what it saw in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixkd_jax import mixup
from mixkd_jax.models.network import Network, Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import Images


class Answers(NamedTuple):
    """A model's answers to n inputs, in host memory.

    Attributes:
      logits: f32[n, C].
      features: f32[n, D], the input of its classifier.
    """

    logits: np.ndarray
    features: np.ndarray


Ask = Callable[[Variables, Images, np.ndarray, np.ndarray, np.ndarray], Answers]


def create_ask(
    network: Network,
    variables: Variables,
    image_shape: tuple[int, int, int],
    *,
    mesh: Mesh,
    batch_size: int,
) -> Ask:
    """Compiles a function (variables, images, i, j, lam) to answers on lam x_i + (1 - lam) x_j.

    Args:
      network: what is asked.
      variables: of the network, or their shapes.
      image_shape: of the images.
      mesh: the devices that share a batch.
      batch_size: inputs at once, rounded up to a multiple of the devices; changes no result but by
        rounding.

    Returns:
      The function; i and j i32[n] are indices of the split `images`, lam is f32[n]. λ = 1 asks
      about x_i itself. It holds one batch on the devices, and all its answers in host memory.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size

    def answer(variables, x_i, x_j, lam):
        # One pass for both: the features are caught on their way to the classifier.
        logits, caught = network.module.apply(
            sharding.gathered(mesh, variables),
            network.preprocess(mixup.interpolate(lam, x_i, x_j)),
            train=False,
            capture_intermediates=lambda _, method: method == "features",
            mutable=["intermediates"],
        )
        features = caught["intermediates"]["features"][0]  # pyright: ignore[reportArgumentType, reportIndexIssue, reportCallIssue]
        return Answers(logits, features.reshape(features.shape[0], -1))  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]

    split = NamedSharding(mesh, P("data"))
    x = jax.ShapeDtypeStruct((batch_size, *image_shape), np.uint8, sharding=split)
    lam = jax.ShapeDtypeStruct((batch_size,), np.float32, sharding=split)
    compiled = (
        jax.jit(answer, out_shardings=sharding.replicated(mesh))
        .lower(variables, x, x, lam)
        .compile()
    )

    def ask(variables, images, i, j, lam):
        parts = []
        for start in range(0, len(i), batch_size):
            own = slice(start, start + batch_size)
            here, there, weight = (_padded(values[own], batch_size) for values in (i, j, lam))
            x_i = images.take(here)
            x_j = x_i if np.array_equal(here, there) else images.take(there)
            weight = jax.device_put(weight.astype(np.float32), split)
            parts.append(jax.tree.map(np.asarray, compiled(variables, x_i, x_j, weight)))
        return Answers(*(np.concatenate(part)[: len(i)] for part in zip(*parts, strict=True)))

    return ask


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)))
