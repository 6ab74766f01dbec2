"""Random streams: what is drawn in a step is a function of the seed, a name and the step."""

from __future__ import annotations

import zlib

import jax


def stream(key: jax.Array, name: str, step: jax.Array | int | None = None) -> jax.Array:
    """Returns a key of its own for each purpose, and for each of its steps.

    Args:
      key: of a run or a model.
      name: the purpose, such as "mixup"; different names never share a key.
      step: within the stream; None is the stream itself.
    """
    named = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return named if step is None else jax.random.fold_in(named, step)
