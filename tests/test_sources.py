import dataclasses

import numpy as np
import pytest
import sklearn.datasets

from mixkd_jax.data import Dataset, Split, load


def _split(n=4, classes=2, shape=(2, 2, 1)):
    return Split(np.zeros((n, *shape), np.uint8), np.arange(n, dtype=np.int32) % classes)


def test_split_subset_keeps_the_order_of_the_indices():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    split = Split(images, np.arange(5, dtype=np.int32))
    part = split.subset(np.array([3, 0, 3]))
    assert len(split) == 5 and len(part) == 3
    np.testing.assert_array_equal(part.images.ravel(), [3, 0, 3])
    np.testing.assert_array_equal(part.labels, [3, 0, 3])
    with pytest.raises(dataclasses.FrozenInstanceError):
        split.labels = part.labels  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32), "images: .* float32"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32), r"images: .*\[2, 4, 4\]"),
        ([[0]], np.zeros(2, np.int32), "images: .* list"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64), "labels: .* int64"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 1), np.int32), r"labels: .*\[2, 1\]"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int32), "labels: .*2 images, got 3"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, -1], np.int32), "labels: .*below 0.*-1"),
    ],
)
def test_split_refuses_other_arrays(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


def test_dataset_names_its_shape_and_classes():
    dataset = Dataset("mine", ("a", "b"), _split(), _split(2))
    assert (dataset.num_classes, dataset.image_shape) == (2, (2, 2, 1))


def test_dataset_refuses_splits_that_do_not_fit():
    with pytest.raises(ValueError, match=r"test images: .*\[2, 2, 1\], got \[3, 3, 1\]"):
        Dataset("mine", ("a", "b"), _split(), _split(shape=(3, 3, 1)))
    with pytest.raises(ValueError, match="train labels: expected below 2.*got 2"):
        Dataset("mine", ("a", "b"), _split(classes=3), _split())


def test_digits_are_those_of_scikit_learn_split_once():
    dataset = load("digits")
    assert (len(dataset.train), len(dataset.test)) == (1300, 497)
    assert (dataset.num_classes, dataset.image_shape) == (10, (8, 8, 1))
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    got = {
        (*image.ravel().tolist(), int(label))
        for split in (dataset.train, dataset.test)
        for image, label in zip(split.images, split.labels, strict=True)
    }
    assert got == {
        (*(round(v * 255 / 16) for v in row), int(y)) for row, y in zip(pixels, labels, strict=True)
    }
    np.testing.assert_array_equal(dataset.train.images, load("digits").train.images)
    assert min(np.bincount(dataset.test.labels, minlength=10)) >= 30
