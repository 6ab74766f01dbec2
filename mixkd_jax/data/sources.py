"""Datasets by name."""

from mixkd_jax.data.digits import load_digits
from mixkd_jax.data.types import Dataset


def load(name: str, *, data_dir: str = "", download: bool = True) -> Dataset:
    """Loads a dataset with its two splits into host memory.

    Names:
        digits: scikit-learn's 8x8 handwritten digits, without a download; how they are split is
            told at `mixkd_jax.data.digits.load_digits`.
        cifar10, cifar100: 50,000 + 10,000 images of 32x32x3 (Krizhevsky 2009,
            https://www.cs.toronto.edu/~kriz/cifar.html, no licence stated).
        Any other TFDS dataset with uint8 images of one shape, class labels and the splits "train"
            and "test", such as ``svhn_cropped``; its catalogue page names source and licence.
            Reading needs no TensorFlow; most builders need it once, to prepare.

    Args:
        name: As above, or any of TFDS's forms (``name/config:version``).
        data_dir: Folder of prepared TFDS datasets; empty for TFDS's own default,
            ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
        download: Whether to download and prepare what is missing there.

    Returns:
        The dataset, in the same order at every call.

    Raises:
        DataError: If the dataset is unknown, missing and not downloaded, or not of this kind. The
            message names the folder and the command that prepares it.
    """
    if name == "digits":
        return load_digits()
    from mixkd_jax.data.tfds_source import load_tfds  # imports absl, and TFDS when it reads

    return load_tfds(name, data_dir=data_dir, download=download)
