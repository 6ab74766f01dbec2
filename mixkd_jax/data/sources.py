"""Datasets by name."""

import dataclasses

from mixkd_jax.data.digits import load_digits
from mixkd_jax.data.types import Choose, DataError, Dataset, Sources


def load(
    name: str,
    *,
    data_dir: str = "",
    download: bool = True,
    image_size: int = 0,
    broken: str = "stop",
    choose: Choose | None = None,
) -> Dataset:
    """Loads a dataset with its two splits into host memory.

    Names:
        digits: scikit-learn's 8x8 handwritten digits, without a download; how they are split is
            told at `mixkd_jax.data.digits.load_digits`.
        cifar10, cifar100: 50,000 + 10,000 images of 32x32x3 (Krizhevsky 2009,
            https://www.cs.toronto.edu/~kriz/cifar.html, no licence stated).
        folder: the images under `data_dir`, in ``train/<class>`` and ``test/<class>``; see
            `mixkd_jax.data.folder.open_folder`. More than 4 GiB of pixels are refused: stream them.
        Any other TFDS dataset with uint8 images of one shape, class labels and the splits "train"
            and "test", such as ``svhn_cropped``; its catalogue page names source and licence.
            Reading needs no TensorFlow; most builders need it once, to prepare.

    Args:
        name: As above, or any of TFDS's forms (``name/config:version``).
        data_dir: Folder of prepared TFDS datasets; empty for TFDS's own default,
            ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``. Of "folder", the folder.
        download: Whether to download and prepare what is missing there.
        image_size: Of "folder": height and width in pixels; 0 finds them, see
            `mixkd_jax.data.memory.find_image_size`.
        broken: Of "folder": "stop" at an image that can't be decoded, or "skip" it; the dataset's
            `skipped` counts them.
        choose: From the numbers of training and of test images to the rising indices of those that
            are read of each; None reads all.

    Returns:
        The dataset, in the same order at every call.

    Raises:
        DataError: If the dataset is unknown, missing and not downloaded, or not of this kind. The
            message names the folder and the command that prepares it.
    """
    if name == "folder":
        from mixkd_jax.data.folder import open_folder
        from mixkd_jax.data.memory import load_sources  # imports Pillow

        if image_size < 0:
            raise DataError(f"image_size: expected pixels, or 0 to find them, got {image_size}")
        size = (image_size, image_size) if image_size else None
        return load_sources(open_folder(data_dir), size=size, broken=broken, choose=choose)
    if image_size:
        raise DataError(
            f"image_size: expected 0 for {name!r}, whose size is given; got {image_size}"
        )
    if name == "digits":
        if data_dir:
            raise DataError(f"data_dir: expected '' for 'digits', which has none; got {data_dir!r}")
        return _chosen(load_digits(), choose)
    from mixkd_jax.data.tfds_source import load_tfds  # imports absl, and TFDS when it reads

    return load_tfds(name, data_dir=data_dir, download=download, choose=choose)


def _chosen(dataset: Dataset, choose: Choose | None) -> Dataset:
    """Returns what is chosen of a dataset that is in memory anyway."""
    if choose is None:
        return dataset
    train, test = choose(len(dataset.train), len(dataset.test))
    return dataclasses.replace(
        dataset, train=dataset.train.subset(train), test=dataset.test.subset(test)
    )


def open_sources(name: str, *, data_dir: str = "", download: bool = True) -> Sources:
    """Opens a dataset to be streamed, see `mixkd_jax.data.stream.Stream`; reads no images.

    Names:
        folder: the images under `data_dir`; see `mixkd_jax.data.folder.open_folder`.
        imagenet2012: of TFDS, prepared from the files that https://image-net.org gives for
            non-commercial research; the test images are its split "validation".
        Any other TFDS dataset with uint8 images of any size, class labels and the splits "train"
            and "test" or else "validation".

    Args:
        name: As above.
        data_dir: As in `load`.
        download: As in `load`.

    Raises:
        DataError: As in `load`.
    """
    if name == "folder":
        from mixkd_jax.data.folder import open_folder

        return open_folder(data_dir)
    if name == "digits":
        raise DataError("dataset 'digits': expected one to stream, got one that is in memory")
    from mixkd_jax.data.tfds_source import open_tfds

    return open_tfds(name, data_dir=data_dir, download=download)
