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
        valid: bool [b], False for padding and for images left out of an evaluation; these are
            black, with label 0.
        partner_images: uint8 [b, H, W, 3], a permutation of `images`; None without `pairs`.
        partner_labels: int32 [b], the same permutation of `labels`; None without `pairs`.
        skipped: Indices in the source of the broken images met in making these b examples.
    """

    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    partner_images: np.ndarray | None
    partner_labels: np.ndarray | None
    skipped: tuple[int, ...]


class _Example(NamedTuple):
    position: int
    image: np.ndarray
    label: int
    valid: bool
    skipped: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Batches from a source, for training or evaluation.

    For training, the stream is endless: shuffled anew for every pass over the source, and cropped
    at random; a batch at the end of a pass goes on into the next one. For evaluation, every example
    comes once, in the source's order, resized and cropped in the middle; the last batch is padded.

    The parts of all processes, one after the other, are the same global batch for any
    `process_count`. Partners are drawn within a part, so that mixing moves no image between hosts.

    Attributes:
        source: What is read, from several threads at once.
        batch_size: Examples in a step, over all processes together.
        image_size: Height and width of the batches' images in pixels; one number for a square.
        train: For training, otherwise for evaluation.
        seed: Of everything random.
        augmentation: For training: "random_resized_crop" (`images.random_resized_crop`), or
            "resize_crop", which resizes to `resize` and crops at random.
        resize: Pixels of the shorter side before cropping, in "resize_crop" and in evaluation;
            0 for that of `image_size` times 256 / 224.
        flip: For training: whether half of the images are mirrored left to right.
        pairs: For training: whether batches have partners, for mixup.
        workers: Threads that decode; 0 decodes when a batch is asked for.
        prefetch: Batches decoded ahead, at least 1; without `workers` there are none.
        process_index: Which process this is, from 0.
        process_count: Number of processes; divides `batch_size`.
        broken: "stop" at an image that can't be decoded, or "skip" it, tell its name on stderr
            once, and count it. In training the next readable one of the source takes its place.

    Raises:
        ValueError: For arguments out of their range.
        DataError: For an empty source.
    """

    source: Source
    _: dataclasses.KW_ONLY
    batch_size: int
    image_size: int | Size
    train: bool
    seed: int = 0
    augmentation: str = "random_resized_crop"
    resize: int = 0
    flip: bool = True
    pairs: bool = False
    workers: int = 8
    prefetch: int = 2
    process_index: int = 0
    process_count: int = 1
    broken: str = "stop"
    _told: set[int] = dataclasses.field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the arguments."""
        least = {"batch_size": 1, "seed": 0, "workers": 0, "prefetch": 1, "process_count": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}: expected at least {smallest}, got {getattr(self, name)}")
        if self.batch_size % self.process_count:
            raise ValueError(
                f"batch_size: expected a multiple of the {self.process_count} processes, "
                f"got {self.batch_size}"
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"process_index: expected 0 to {self.process_count - 1}, got {self.process_index}"
            )
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"augmentation: expected {' or '.join(map(repr, AUGMENTATIONS))}, "
                f"got {self.augmentation!r}"
            )
        if min(self._size) < 1:
            raise ValueError(f"image_size: expected at least 1 pixel, got {self.image_size}")
        if self.resize and self.resize < min(self._size):
            raise ValueError(
                f"resize: expected 0 or at least the {min(self._size)} pixels of image_size, "
                f"got {self.resize}"
            )
        if self.pairs and not self.train:
            raise ValueError("pairs: expected False for evaluation, got True")
        check_broken(self.broken)
        if not len(self.source):
            raise DataError("source: expected examples, got none")

    def view(self, index: int) -> np.ndarray:
        """Returns an example as evaluations see it, uint8 [H, W, 3].

        Raises:
            BrokenImageError: If it is broken, whatever `broken` says: what is measured is the whole
                split, or nothing.
        """
        image, _ = images.read(self.source, index)
        return images.center_crop(image, self._size, self._resize)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the batches' images."""
        return (*self._size, 3)

    @property
    def num_batches(self) -> int:
        """Number of batches that hold every example once."""
        return -(-len(self.source) // self.batch_size)

    def batches(self, first_step: int = 0) -> Generator[StreamBatch]:
        """Yields the batches from a step on; close it, or let it go, to stop the threads.

        Raises:
            ValueError: For a negative step.
            BrokenImageError: When a batch has a broken image and `broken` is "stop".
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
        share = self.batch_size // self.process_count
        end = sys.maxsize if self.train else self.num_batches * share
        order = grain.MapDataset.range(len(self.source))
        if self.train:
            # A hash, since grain's epoch e of seed s has the order of epoch 0 of seed s + e.
            seed = int(np.random.SeedSequence([self.seed, _SHUFFLE]).generate_state(1)[0])
            order = order.shuffle(seed=seed).repeat()
        order[0]  # grain sets itself up at the first access, which threads must not share
        positions = grain.MapDataset.range(min(first_step * share, end), end)
        ahead = max(self.prefetch * share, self.workers) if self.workers else 0
        return self._iterate(
            positions.map(lambda k: self._example(order, self._position(k)))
            .to_iter_dataset(grain.ReadOptions(self.workers, ahead))
            .batch(share, batch_fn=self._collate)
        )

    def _iterate(self, dataset: Any) -> Generator[StreamBatch]:
        with contextlib.closing(iter(dataset)) as iterator:
            yield from iterator

    @property
    def _size(self) -> Size:
        side = self.image_size
        return (side, side) if isinstance(side, int) else side

    @property
    def _resize(self) -> Size:
        """What resized images cover, in the proportions of `_size`."""
        height, width = self._size
        scale = self.resize / min(height, width) if self.resize else _MARGIN
        return round(height * scale), round(width * scale)

    def _position(self, count: int) -> int:
        """Returns where this process's example number `count` is in the whole stream."""
        share = self.batch_size // self.process_count
        step, place = divmod(count, share)
        return step * self.batch_size + self.process_index * share + place

    def _example(self, order: Any, position: int) -> _Example:
        if position < len(self.source) or self.train:
            image, label, skipped = self._read(order[position])
        else:
            image, label, skipped = None, 0, ()  # padding
        if image is None:
            return _Example(position, np.zeros((*self._size, 3), np.uint8), 0, False, skipped)
        return _Example(position, self._view(image, position), label, True, skipped)

    def _read(self, index: int) -> tuple[Image.Image | None, int, tuple[int, ...]]:
        """Returns image, label and which were broken; no image if that of an evaluation is."""
        tries = min(_MAX_SKIPPED, len(self.source)) if self.train else 1
        skipped = ()
        for candidate in (k % len(self.source) for k in range(index, index + tries)):
            try:
                return *images.read(self.source, candidate), skipped
            except BrokenImageError as error:
                skipped += (candidate,)
                if self.broken == "stop":
                    raise
                if candidate not in self._told:
                    self._told.add(candidate)
                    images.tell_skipped(error)
        if self.train:
            raise DataError(
                f"{self.source.item_name(index)}: expected a readable image, got {tries} broken "
                f"ones in a row"
            )
        return None, 0, skipped

    def _view(self, image: Image.Image, position: int) -> np.ndarray:
        """Returns the part of an image that the stream shows at a position, uint8 [H, W, 3]."""
        if not self.train:
            return images.center_crop(image, self._size, self._resize)
        rng = np.random.default_rng([self.seed, _VIEW, position])
        if self.augmentation == "random_resized_crop":
            view = images.random_resized_crop(image, self._size, rng)
        else:
            view = images.random_crop(image, self._size, self._resize, rng)
        return view[:, ::-1] if self.flip and rng.random() < 0.5 else view

    def _collate(self, examples: Sequence[_Example]) -> StreamBatch:
        _, pixels, labels, valid, skipped = zip(*examples, strict=True)
        batch, targets = np.stack(pixels), np.array(labels, np.int32)
        partner = None
        if self.pairs:
            step = examples[0].position // self.batch_size
            entropy = [self.seed, _PARTNER, step, self.process_index, self.process_count]
            partner = np.random.default_rng(entropy).permutation(len(examples))
        return StreamBatch(
            batch,
            targets,
            np.array(valid),
            None if partner is None else batch[partner],
            None if partner is None else targets[partner],
            sum(skipped, ()),
        )
