"""Which images each model learns from: parts of a data set's training split."""

from __future__ import annotations

import dataclasses

import numpy as np

from mixkd_jax.config import ConfigError, Data
from mixkd_jax.data.types import Dataset, Split


@dataclasses.dataclass(frozen=True)
class Parts:
    """The splits of a run; `validation` is None if none is held out."""

    teacher: Split
    student: Split
    validation: Split | None
    test: Split


def split_parts(dataset: Dataset, config: Data, seed: int) -> Parts:
    """Divides a data set as the config says; the same `seed` gives the same parts.

    One shuffle orders the training split. Validation images are its last ones, the teacher's and
    the student's its first ones, so that the smaller of the two lies within the larger.

    Raises:
      ConfigError: if more examples are asked for than there are.
    """
    order = np.random.default_rng(seed).permutation(len(dataset.train))
    available = len(order) - config.validation_examples
    if available < 1:
        raise ConfigError(
            f"config.data.validation_examples: expected fewer than the {len(order)} training "
            f"images of {dataset.name}, got {config.validation_examples}"
        )

    def first(field: str, count: int) -> Split:
        count = _count(field, count, available, f"training images of {dataset.name}")
        return dataset.train.subset(order[:count])

    held_out = dataset.train.subset(order[available:])
    tests = _count(
        "test_examples", config.test_examples, len(dataset.test), f"test images of {dataset.name}"
    )
    return Parts(
        teacher=first("teacher_examples", config.teacher_examples),
        student=_noisy(first("student_examples", config.student_examples), config.noise, seed, 1),
        validation=_noisy(held_out, config.noise, seed, 2) if len(held_out) else None,
        test=_noisy(dataset.test.subset(np.arange(tests)), config.noise, seed, 3),
    )


def _count(field: str, count: int, available: int, what: str) -> int:
    if count > available:
        raise ConfigError(
            f"config.data.{field}: expected at most the {available} {what}, got {count}"
        )
    return available if count == -1 else count


def _noisy(split: Split, deviation: float, seed: int, stream: int) -> Split:
    """Adds Gaussian noise of `deviation`, a fraction of the pixels' range, and clips to 0..255."""
    if not deviation:
        return split
    noise = np.random.default_rng([seed, stream]).normal(0, 255 * deviation, split.images.shape)
    images = np.clip(np.rint(split.images + noise), 0, 255).astype(np.uint8)
    return Split(images, split.labels)
