"""What a data source gives: images and labels, in host memory or one by one, and what they are."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

# From the numbers of training and of test images to the indices of those that are wanted of each.
Choose = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class DataError(ValueError):
    """A dataset that is missing, unreadable or of a kind that is not supported."""


class BrokenImageError(DataError):
    """An image that can't be read or decoded; the message names it."""


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
        skipped: Broken images that were left out of the two splits.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    skipped: int = 0

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


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")  # of image files


class Item(NamedTuple):
    """An example before decoding: a JPEG or PNG file, or uint8 [H, W, C], and its label."""

    image: bytes | np.ndarray
    label: int


class Source(Protocol):
    """Labelled images of any size, read one by one and from several threads at once."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class, in the order of the labels."""
        ...

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int, /) -> Item:
        """Returns an example; raises OSError if it can't be read."""
        ...

    def item_name(self, index: int, /) -> str:
        """Returns where an example is from, such as its file, for messages."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """A classification dataset that isn't in memory; both parts have the same classes."""

    name: str
    train: Source
    test: Source


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """The examples of a source at ``indices`` [M], in that order; a `Source` itself."""

    source: Source
    indices: np.ndarray

    @property
    def class_names(self) -> tuple[str, ...]:
        """One a class, in the order of the labels."""
        return self.source.class_names

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        """Returns an example."""
        return self.source[int(self.indices[index])]

    def item_name(self, index: int) -> str:
        """Returns where an example is from."""
        return self.source.item_name(int(self.indices[index]))
