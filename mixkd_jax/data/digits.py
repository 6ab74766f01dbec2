"""The digits that scikit-learn carries: real data without a download."""

import numpy as np

from mixkd_jax.data.types import Dataset, Split

NUM_TEST = 497
_SPLIT_SEED = 0


def load_digits() -> Dataset:
    """Returns the 1,797 handwritten digits of scikit-learn, 8x8x1, in 10 classes.

    Pixels count from 0 to 16 there; here they are ``round(pixel * 255 / 16)``. The data has no
    official test split: a permutation with a fixed seed leaves 1,300 for training and holds out
    the last 497 for testing, the same in every run. scikit-learn gives the images without their
    writers, so a writer may have digits on both sides.

    Source: the test part of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin and
    Kaynak 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), embedded in scikit-learn (BSD-3).
    """
    from sklearn.datasets import load_digits as sklearn_digits  # slow to import: only when used

    pixels, labels = sklearn_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    everything = Split(images[order], labels[order].astype(np.int32))
    cut = len(labels) - NUM_TEST
    return Dataset(
        name="digits",
        class_names=tuple("0123456789"),
        train=everything.subset(np.arange(cut)),
        test=everything.subset(np.arange(cut, len(labels))),
    )
