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
        count = _count(
            f"config.data.{field}", count, available, f"training images of {dataset.name}"
        )
        return dataset.train.subset(order[:count])

    tests = _count(
        "config.data.test_examples",
        config.test_examples,
        len(dataset.test),
        f"test images of {dataset.name}",
    )
    return Parts(
        teacher=first("teacher_examples", config.teacher_examples),
        student=_noisy(first("student_examples", config.student_examples), config, seed),
        validation=dataset.train.subset(order[available:]) if available < len(order) else None,
        test=dataset.test.subset(np.arange(tests)),
    )


def _count(path: str, count: int, available: int, what: str) -> int:
    if count > available:
        raise ConfigError(f"{path}: expected at most the {available} {what}, got {count}")
    return available if count == -1 else count


def _noisy(split: Split, config: Data, seed: int) -> Split:
    """Adds the config's Gaussian noise to every pixel, once; pixels stay within 0 to 255."""
    if not config.student_noise:
        return split
    noise = np.random.default_rng([seed, 1]).normal(
        0, 255 * config.student_noise, split.images.shape
    )
    images = np.clip(np.rint(split.images + noise), 0, 255).astype(np.uint8)
    return Split(images, split.labels)
