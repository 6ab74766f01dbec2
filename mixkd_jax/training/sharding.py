"""Where arrays lie: batches split over the devices of a "data" mesh, parameters so or whole."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixkd_jax.config import ConfigError


def data_mesh(devices: Any = None) -> Mesh:
    """Returns a mesh with one axis, "data", over `devices` (default: all, of every process)."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def replicated_key(mesh: Mesh, key: jax.Array) -> jax.Array:
    """Copies a key to every device, those of other processes too; device_put refuses keys there."""
    data = jax.device_put(np.asarray(jax.random.key_data(key)), replicated(mesh))
    return jax.random.wrap_key_data(data)


def parameters(mesh: Mesh, tree: Any, how: str) -> Any:
    """Returns a sharding for every array of `tree`.

    Args:
      mesh: the devices.
      tree: of arrays or their shapes.
      how: "replicated", or "sharded": the largest axis that divides by the number of devices is
        split over them, and an array without such an axis is replicated.
    """

    def sharding(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size and size % mesh.size == 0]
        if how == "replicated" or not axes:
            return replicated(mesh)
        split = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * split, "data"))

    return jax.tree.map(sharding, tree)


def gathered(mesh: Mesh, tree: Any) -> Any:
    """Inside a jit: makes arrays whole on every device while they are used.

    Without it XLA may leave parameters split and move activations instead, which are larger.
    """
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def over_data(mesh: Mesh, tree: Any) -> Any:
    """Inside a jit: splits the leading axis of every array over the mesh."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P("data")))


def check_divisible(path: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError, naming the field at `path`, if the devices can't share a batch."""
    if batch_size % mesh.size:
        below = batch_size // mesh.size * mesh.size
        nearest = f"{below} or {below + mesh.size}" if below else f"{mesh.size}"
        raise ConfigError(
            f"{path}: expected a multiple of the {mesh.size} devices, got {batch_size}; "
            f"try {nearest}"
        )


def agreed(value: bool) -> bool:
    """Returns what process 0 says, so that all processes do the same."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def union(names: Set[str]) -> set[str]:
    """Returns the names that any process has; every process calls it."""
    if jax.process_count() == 1:
        return set(names)
    text = np.frombuffer(json.dumps(sorted(names)).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.pad(text, (0, sizes.max() - len(text)))
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return {
        name
        for text, size in zip(texts, sizes, strict=True)
        for name in json.loads(text[:size].tobytes())
    }


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
