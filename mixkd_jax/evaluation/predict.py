"""What a model predicts for images and for mixtures of them, and its features of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixkd_jax import mixup
from mixkd_jax.models.network import Classifier, Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import Images


class Predictions(NamedTuple):
    """A model's predictions for n inputs, in host memory.

    Attributes:
      logits: f32[n, C].
      features: f32[n, D], the input of its classifier; None of a model that doesn't give them.
    """

    logits: np.ndarray
    features: np.ndarray | None


Predict = Callable[[Variables, Images, np.ndarray, np.ndarray, np.ndarray], Predictions]


def create_predict(network: Classifier, *, mesh: Mesh, batch_size: int) -> Predict:
    """Returns a function (variables, images, i, j, lam) to predictions for lam x_i + (1-lam) x_j.

    Args:
      network: the model.
      mesh: the devices that share a batch.
      batch_size: inputs at once, rounded up to a multiple of the devices; changes no result but by
        rounding.

    Returns:
      The function; i and j i32[n] are indices of the split `images`, lam is f32[n]. λ = 1 predicts
      for x_i itself. It holds one batch on the devices, and all predictions in host memory.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    split = NamedSharding(mesh, P("data"))

    def forward(variables, x_i, x_j, lam):
        whole = sharding.gathered(mesh, variables)
        return network.logits_and_features(whole, mixup.interpolate(lam, x_i, x_j))

    everywhere = sharding.replicated(mesh)
    compiled = jax.jit(forward, out_shardings=everywhere)
    if network.on_host:
        mix = jax.jit(mixup.interpolate, out_shardings=split)
        gather = jax.jit(lambda logits: logits, out_shardings=everywhere)
        compiled = lambda variables, x_i, x_j, lam: (  # noqa: E731
            gather(network.logits(variables, mix(lam, x_i, x_j))),
            None,
        )

    def predict(variables, images, i, j, lam):
        parts = []
        for start in range(0, len(i), batch_size):
            own = slice(start, start + batch_size)
            here, there, weight = (_padded(values[own], batch_size) for values in (i, j, lam))
            x_i = images.take(here)
            x_j = x_i if np.array_equal(here, there) else images.take(there)
            weight = jax.device_put(weight.astype(np.float32), split)
            parts.append(jax.device_get(compiled(variables, x_i, x_j, weight)))
        logits, features = zip(*parts, strict=True)
        known = features[0] is not None
        return Predictions(
            np.concatenate(logits)[: len(i)], np.concatenate(features)[: len(i)] if known else None
        )

    return predict


def predict_all(predict: Predict, variables: Variables, images: Images) -> np.ndarray:
    """Returns the logits f32[N, C] of all images of a split, as they are."""
    every = np.arange(len(images), dtype=np.int32)
    return predict(variables, images, every, every, np.ones(len(every), np.float32)).logits


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (0, size - len(values)))
