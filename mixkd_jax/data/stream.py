"""Batches of images that don't fit into memory, decoded while the device computes.

A batch is a function of the step alone: which examples it holds, how each is cropped and mirrored
and who its partner is follow from the seed and the position in the stream. So a stream that starts
at step s gives, bit for bit, what one that started at 0 gives from s on.

Reading, decoding and cropping run in threads of this process: Pillow releases the interpreter's
lock for nearly all of it. Grain keeps the order of the examples and decodes ahead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mixkd_jax.data import images
from mixkd_jax.data.images import Size
from mixkd_jax.data.memory import check_broken
from mixkd_jax.data.types import BrokenImageError, DataError, Source

AUGMENTATIONS = ("random_resized_crop", "resize_crop")
_MARGIN = 256 / 224  # of resizing to cropping (Krizhevsky et al. 2012)
_MAX_SKIPPED = 100  # broken images one after the other
_SHUFFLE, _VIEW, _PARTNER = range(3)  # what random numbers are for: each its own stream


class StreamBatch(NamedTuple):
    """This process's part of a batch, b = batch_size / process_count examples.

    Attributes:
        images: uint8 [b, H, W, 3].
        labels: int32 [b].
        partner_images: uint8 [b, H, W, 3], a permutation of `images`; None without `pairs`.
        partner_labels: int32 [b], the same permutation of `labels`; None without `pairs`.
        skipped: Indices in the source of the broken images met in making these b examples.
    """

    images: np.ndarray
    labels: np.ndarray
    partner_images: np.ndarray | None
    partner_labels: np.ndarray | None
    skipped: tuple[int, ...]


class _Example(NamedTuple):
    position: int
    image: np.ndarray
    label: int
    skipped: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A source whose images are decoded when they are needed, all at one size.

    Attributes:
        source: What is read, from several threads at once.
        image_size: Height and width of the images in pixels; one number for a square.
        augmentation: Of training: "random_resized_crop" (`images.random_resized_crop`), or
            "resize_crop", which resizes to `resize` and crops at random.
        resize: Pixels of the shorter side before cropping, in "resize_crop" and in `view`; 0 for
            that of `image_size` times 256 / 224.
        flip: Of training: whether half of the images are mirrored left to right.
        workers: Threads that decode; 0 decodes when a batch is needed.
        prefetch: Batches decoded ahead, at least 1; without `workers` there are none.
        broken: What training does at an image that can't be decoded: "stop", or "skip" it, tell its
            name on stderr once, count it and take the next readable one of the source instead.

    Raises:
        ValueError: For arguments out of their range.
        DataError: For an empty source.
    """

    source: Source
    _: dataclasses.KW_ONLY
    image_size: int | Size
    augmentation: str = "random_resized_crop"
    resize: int = 0
    flip: bool = True
    workers: int = 8
    prefetch: int = 2
    broken: str = "stop"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _check_least(self, workers=0, prefetch=1)
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"augmentation: expected {' or '.join(map(repr, AUGMENTATIONS))}, "
                f"got {self.augmentation!r}"
            )
        if min(self.size) < 1:
            raise ValueError(f"image_size: expected at least 1 pixel, got {self.image_size}")
        if self.resize and self.resize < min(self.size):
            raise ValueError(
                f"resize: expected 0 or at least the {min(self.size)} pixels of image_size, "
                f"got {self.resize}"
            )
        check_broken(self.broken)
        if not len(self.source):
            raise DataError("source: expected examples, got none")

    @property
    def size(self) -> Size:
        """Height and width of the images."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side

    @property
    def resized(self) -> Size:
        """What resized images cover, in the proportions of `size`."""
        height, width = self.size
        scale = self.resize / min(height, width) if self.resize else _MARGIN
        return round(height * scale), round(width * scale)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return (*self.size, 3)

    def view(self, index: int) -> np.ndarray:
        """Returns an example as evaluations see it, uint8 [H, W, 3]: cropped in the middle.

        Raises:
            BrokenImageError: If it is broken, whatever `broken` says: what is measured is the whole
                split, or nothing.
        """
        image, _ = images.read(self.source, index)
        return images.center_crop(image, self.size, self.resized)


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The endless batches of a training on a stream.

    The stream is shuffled anew for every pass over its source, and cropped at random; a batch at
    the end of a pass goes on into the next one. The parts of all processes, one after the other,
    are the same global batch for any `process_count`. Partners are drawn within a part, so that
    mixing moves no image between hosts.

    Attributes:
        stream: What is read.
        batch_size: Examples in a step, over all processes together.
        seed: Of everything random.
        pairs: Whether batches have partners, for mixup.
        process_index: Which process this is, from 0.
        process_count: Number of processes; divides `batch_size`.

    Raises:
        ValueError: For arguments out of their range.
    """

    stream: Stream
    _: dataclasses.KW_ONLY
    batch_size: int
    seed: int = 0
    pairs: bool = False
    process_index: int = 0
    process_count: int = 1
    _told: set[int] = dataclasses.field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _check_least(self, batch_size=1, seed=0, process_count=1)
        if self.batch_size % self.process_count:
            raise ValueError(
                f"batch_size: expected a multiple of the {self.process_count} processes, "
                f"got {self.batch_size}"
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"process_index: expected 0 to {self.process_count - 1}, got {self.process_index}"
            )

    def start(self, first_step: int = 0) -> Generator[StreamBatch]:
        """Yields the batches from a step on; close it, or let it go, to stop the threads.

        Raises:
            ValueError: For a negative step.
            BrokenImageError: When a batch has a broken image and the stream's `broken` is "stop".
            DataError: If grain is not installed, or 100 images in a row are broken.
        """
        if first_step < 0:
            raise ValueError(f"first_step: expected at least 0, got {first_step}")
        try:
            import grain  # of the extra "stream", and slow to import
        except ImportError as error:
            raise DataError(
                f"streaming needs grain ({error}): pip install 'mixkd-jax[stream]'"
            ) from None
        stream, share = self.stream, self.batch_size // self.process_count
        # A hash, since grain's epoch e of seed s has the order of epoch 0 of seed s + e.
        seed = int(np.random.SeedSequence([self.seed, _SHUFFLE]).generate_state(1)[0])
        order = grain.MapDataset.range(len(stream.source)).shuffle(seed=seed).repeat()
        order[0]  # grain sets itself up at the first access, which threads must not share
        positions = grain.MapDataset.range(first_step * share, sys.maxsize)
        ahead = max(stream.prefetch * share, stream.workers) if stream.workers else 0
        return _iterate(
            positions.map(lambda k: self._example(order, self._position(k)))
            .to_iter_dataset(grain.ReadOptions(stream.workers, ahead))
            .batch(share, batch_fn=self._collate)
        )

    def _position(self, count: int) -> int:
        """Returns where this process's example number `count` is in the whole stream."""
        share = self.batch_size // self.process_count
        step, place = divmod(count, share)
        return step * self.batch_size + self.process_index * share + place

    def _example(self, order: Any, position: int) -> _Example:
        image, label, skipped = self._read(order[position])
        return _Example(position, self._view(image, position), label, skipped)

    def _read(self, index: int) -> tuple[Image.Image, int, tuple[int, ...]]:
        """Returns the image and label at an index, or the next ones, and which were broken."""
        source, skipped = self.stream.source, ()
        tries = min(_MAX_SKIPPED, len(source))
        for candidate in (k % len(source) for k in range(index, index + tries)):
            try:
                return *images.read(source, candidate), skipped
            except BrokenImageError as error:
                skipped += (candidate,)
                if self.stream.broken == "stop":
                    raise
                if candidate not in self._told:
                    self._told.add(candidate)
                    images.tell_skipped(error)
        raise DataError(
            f"{source.item_name(index)}: expected a readable image, got {tries} broken ones in a "
            "row"
        )

    def _view(self, image: Image.Image, position: int) -> np.ndarray:
        """Returns the part of an image that is shown at a position, uint8 [H, W, 3]."""
        stream, rng = self.stream, np.random.default_rng([self.seed, _VIEW, position])
        if stream.augmentation == "random_resized_crop":
            view = images.random_resized_crop(image, stream.size, rng)
        else:
            view = images.random_crop(image, stream.size, stream.resized, rng)
        return view[:, ::-1] if stream.flip and rng.random() < 0.5 else view

    def _collate(self, examples: Sequence[_Example]) -> StreamBatch:
        _, pixels, labels, skipped = zip(*examples, strict=True)
        batch, targets = np.stack(pixels), np.array(labels, np.int32)
        partner = None
        if self.pairs:
            step = examples[0].position // self.batch_size
            entropy = [self.seed, _PARTNER, step, self.process_index, self.process_count]
            partner = np.random.default_rng(entropy).permutation(len(examples))
        return StreamBatch(
            batch,
            targets,
            None if partner is None else batch[partner],
            None if partner is None else targets[partner],
            sum(skipped, ()),
        )


def _check_least(made: Any, **least: int) -> None:
    for name, smallest in least.items():
        if getattr(made, name) < smallest:
            raise ValueError(f"{name}: expected at least {smallest}, got {getattr(made, name)}")


def _iterate(dataset: Any) -> Generator[StreamBatch]:
    with contextlib.closing(iter(dataset)) as iterator:
        yield from iterator
