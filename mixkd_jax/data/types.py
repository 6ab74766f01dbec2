"""What a data source gives: images and labels in host memory, and what they are."""

import dataclasses

import numpy as np


class DataError(ValueError):
    """A dataset that is missing, unreadable or of a kind that is not supported."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N], from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Raises ValueError for arrays of another dtype, rank or length, or a negative label."""
        for field, dtype, axes in (("images", np.uint8, "NHWC"), ("labels", np.int32, "N")):
            array = getattr(self, field)
            got = (
                f"{array.dtype}{list(array.shape)}"
                if isinstance(array, np.ndarray)
                else type(array).__name__
            )
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != len(axes):
                raise ValueError(
                    f"{field}: expected a NumPy array {np.dtype(dtype).name}[{', '.join(axes)}], "
                    f"got {got}"
                )
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"labels: expected one for each of the {len(self.images)} images, "
                f"got {len(self.labels)}"
            )
        if len(self.labels) and self.labels.min() < 0:
            raise ValueError(f"labels: expected none below 0, got {self.labels.min()}")

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "Split":
        """Returns the examples at ``indices`` [M], in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A classification dataset with its two splits.

    Attributes:
        name: As given to `mixkd_jax.data.load`, or the caller's own.
        class_names: One a class, in the order of the labels.
        train: Training examples.
        test: Test examples, with images of the same shape.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split

    def __post_init__(self) -> None:
        """Raises ValueError for splits of unequal image shapes or a label without a class."""
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"test images: expected the shape of the training images "
                f"{list(self.image_shape)}, got {list(self.test.images.shape[1:])}"
            )
        for name, split in (("train", self.train), ("test", self.test)):
            if len(split) and split.labels.max() >= self.num_classes:
                raise ValueError(
                    f"{name} labels: expected below {self.num_classes}, the number of "
                    f"class_names, got {split.labels.max()}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels
