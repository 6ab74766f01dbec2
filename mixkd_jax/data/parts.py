"""Which images each model learns from and is measured on: parts of a data set's two splits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mixkd_jax.config import ConfigError, Data
from mixkd_jax.data.types import Split


class Parts(NamedTuple):
    """Indices i64[M]: of the training split, and `test` of the test split."""

    teacher: np.ndarray
    student: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def divide(name: str, num_train: int, num_test: int, config: Data, seed: int) -> Parts:
    """Divides a data set as the config says; the same `seed` gives the same parts.

    One shuffle orders the training split. Validation images are its last ones, the teacher's and
    the student's its first ones, so that the smaller of the two lies within the larger.

    Raises:
      ConfigError: if more examples are asked for than there are.
    """
    order = np.random.default_rng(seed).permutation(num_train)
    available = num_train - config.validation_examples
    if available < 1:
        raise ConfigError(
            f"config.data.validation_examples: expected fewer than the {num_train} training "
            f"images of {name}, got {config.validation_examples}"
        )

    def count(field: str, most: int, kind: str) -> int:
        wanted = getattr(config, field)
        if wanted > most:
            raise ConfigError(
                f"config.data.{field}: expected at most the {most} {kind} images of {name}, "
                f"got {wanted}"
            )
        return most if wanted == -1 else wanted

    return Parts(
        teacher=order[: count("teacher_examples", available, "training")],
        student=order[: count("student_examples", available, "training")],
        validation=order[available:],
        test=np.arange(count("test_examples", num_test, "test")),
    )


def needed(parts: Parts) -> tuple[np.ndarray, Parts]:
    """Returns the training images i64[M] in any part, rising, and the parts as places in these."""
    train = np.unique(np.concatenate([parts.teacher, parts.student, parts.validation]))
    places = (np.searchsorted(train, part) for part in parts[:3])
    return train, Parts(*places, test=parts.test)


def add_noise(split: Split, deviation: float, rng: np.random.Generator) -> Split:
    """Adds Gaussian noise of `deviation`, a fraction of the pixels' range, and clips to 0..255."""
    if not deviation:
        return split
    noise = rng.normal(0, 255 * deviation, split.images.shape)
    images = np.clip(np.rint(split.images + noise), 0, 255).astype(np.uint8)
    return Split(images, split.labels)
