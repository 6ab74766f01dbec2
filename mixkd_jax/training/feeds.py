"""What models learn from and are measured on: a split on the devices, or streamed to them.

The two have one interface, `Images`. A step takes what `feeds` returns, a `device.Feed`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixkd_jax.data import Split, device
from mixkd_jax.data.device import Examples, Feed, Loaded, Shuffled
from mixkd_jax.data.stream import Batches, Stream
from mixkd_jax.training import sharding

_KEPT_BYTES = 2**29  # of images decoded for `Streamed.take`


class Images(Protocol):
    """A labelled split."""

    @property
    def mesh(self) -> Mesh:
        """The devices that share a batch."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of all images, as `take` gives them."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what the steps measure of their feeds."""
        ...

    @property
    def skipped(self) -> Set[str]:
        """Names of the broken images that this process has left out of its feeds so far."""
        ...

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def feeds(self, key: jax.Array, batch_size: int, *, pairs: bool) -> Callable[[int], Feed]:
        """Returns the function from a step to its feed.

        Args:
          key: decides the order of the examples.
          batch_size: examples in a step.
          pairs: whether examples are mixed.
        """
        ...

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Returns the labels i32[M] of the examples at `indices` [M]."""
        ...

    def take(self, indices: np.ndarray) -> jax.Array:
        """Returns the images u8[B, H, W, C] at `indices` [B], split over the devices."""
        ...


def fetch(images: Images, indices: np.ndarray) -> np.ndarray:
    """Returns the images u8[M, H, W, C] at `indices` [M] in the memory of every host."""
    padded = np.pad(indices, (0, -len(indices) % images.mesh.size))
    taken = multihost_utils.process_allgather(images.take(padded), tiled=True)
    return np.asarray(taken)[: len(indices)]


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
    """A split of which every device has all; implements `Images`."""

    examples: Examples
    mesh: Mesh
    metrics = ()
    skipped = frozenset()

    @classmethod
    def put(cls, split: Split, mesh: Mesh) -> OnDevice:
        """Copies a split to all devices of a mesh."""
        arrays = (split.images, split.labels)
        return cls(Examples(*jax.device_put(arrays, sharding.replicated(mesh))), mesh)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.examples.images.shape[1:]
        return height, width, channels

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self.examples.labels.shape[0]

    def feeds(self, key: jax.Array, batch_size: int, *, pairs: bool) -> Callable[[int], Feed]:
        """Returns feeds that are the same for an epoch; pairs are made on the device."""
        del pairs
        per_epoch = len(self) // batch_size
        order = functools.lru_cache(maxsize=1)(lambda epoch: self._shuffle(key, epoch))

        def feed(step: int) -> Feed:
            return Shuffled(self.examples, order(step // per_epoch))

        return feed

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Returns labels."""
        return np.asarray(self.examples.labels)[indices]

    def take(self, indices: np.ndarray) -> jax.Array:
        """Gathers images on the devices."""
        return self._gather(self.examples.images, np.asarray(indices, np.int32))

    @functools.cached_property
    def _shuffle(self) -> Any:
        order = functools.partial(device.epoch_order, num_examples=len(self))
        return jax.jit(order, out_shardings=sharding.replicated(self.mesh))

    @functools.cached_property
    def _gather(self) -> Any:
        split = NamedSharding(self.mesh, P("data"))
        return jax.jit(lambda images, indices: images[indices], out_shardings=split)


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """A split that is read and decoded batch by batch; implements `Images`.

    Attributes:
      stream: what is read, and how images are seen.
      mesh: the devices that share a batch.
      skipped: grows with every feed that leaves out a broken image.
    """

    stream: Stream
    mesh: Mesh
    skipped: set[str] = dataclasses.field(default_factory=set, init=False)
    metrics = ("skipped",)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.stream.image_shape

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.stream.source)

    def feeds(self, key: jax.Array, batch_size: int, *, pairs: bool) -> Callable[[int], Feed]:
        """Returns feeds of a step each; pairs are made by the host, within its own part."""
        batches = Batches(
            self.stream,
            batch_size=batch_size,
            seed=int(np.asarray(jax.random.bits(key, dtype="uint32"))),
            pairs=pairs,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        following: Iterator | None = None
        position = -1

        def feed(step: int) -> Feed:
            nonlocal following, position
            if following is None or step != position:
                following = batches.start(step)
            batch = next(following)
            position = step + 1
            own, other = self._assemble(batch.images, batch.labels), None
            if batch.partner_images is not None and batch.partner_labels is not None:
                other = self._assemble(batch.partner_images, batch.partner_labels)
            self.skipped.update(map(self.stream.source.item_name, batch.skipped))
            return Loaded(own, other, self._count(len(batch.skipped)))

        return feed

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Reads those examples that it hasn't read before."""
        return np.fromiter(self._threads.map(self._label, indices.tolist()), np.int32)

    def take(self, indices: np.ndarray) -> jax.Array:
        """Reads and decodes the images whose place is on this process's devices.

        Those of the last calls are kept: an image that is measured is mixed with the next ones.
        """
        split, shape = NamedSharding(self.mesh, P("data")), (len(indices), *self.image_shape)

        def part(place: Any) -> np.ndarray:
            each, where = np.unique(indices[place[0]], return_inverse=True)
            return np.stack(list(self._threads.map(self._view, each.tolist())))[where]

        return jax.make_array_from_callback(shape, split, part)

    @functools.cached_property
    def _view(self) -> Callable[[int], np.ndarray]:
        kept = _KEPT_BYTES // math.prod(self.image_shape)
        return functools.lru_cache(maxsize=max(kept, 1))(self.stream.view)

    @functools.cached_property
    def _label(self) -> Callable[[int], int]:
        source = self.stream.source
        return functools.cache(lambda index: source[index].label)

    @functools.cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(self.stream.workers, 1))

    def _count(self, count: int) -> jax.Array:
        """Returns a global array with this process's `count` in it."""
        counts = np.zeros(len(self.mesh.local_devices), np.int32)
        counts[0] = count
        split = NamedSharding(self.mesh, P("data"))
        return jax.make_array_from_process_local_data(split, counts)

    def _assemble(self, images: np.ndarray, labels: np.ndarray) -> Examples:
        """Returns the global arrays of which every process has a part."""
        split = NamedSharding(self.mesh, P("data"))
        arrays = (images, labels)
        return Examples(*(jax.make_array_from_process_local_data(split, a) for a in arrays))
