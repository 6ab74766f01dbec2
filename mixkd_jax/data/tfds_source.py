"""Image classification datasets of TensorFlow Datasets, read without TensorFlow."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import absl.logging
import numpy as np

from mixkd_jax.data.types import Choose, DataError, Dataset, Item, Sources, Split

_CHUNK = 1000  # records read at once
_REPORT_SECONDS = 5.0
_DOWNLOAD_RETRIES = 5  # 6 seconds in all; TFDS's own 10 wait 200 before they tell of no network
_UNLABELLED_TESTS = ("imagenet2012",)  # measured on "validation", as in the literature
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_tfds(name: str, *, data_dir: str, download: bool, choose: Choose | None = None) -> Dataset:
    """Loads the "train" and "test" splits of a TFDS dataset; see `mixkd_jax.data.load`."""
    builder = _prepared(name, data_dir, download)
    image_key, label_key = _check_features(name, builder)
    splits = _find_splits(name, builder, ("test",))
    sizes = [builder.info.splits[split].num_examples for split in splits]
    chosen = choose(*sizes) if choose else [np.arange(size) for size in sizes]
    train, test = (
        _read_split(name, builder, split, image_key, label_key, indices)
        for split, indices in zip(splits, chosen, strict=True)
    )
    return Dataset(name, tuple(builder.info.features[label_key].names), train, test)


def open_tfds(name: str, *, data_dir: str, download: bool) -> Sources:
    """Opens a TFDS dataset, whose images may differ in size; see `mixkd_jax.data.open_sources`."""
    builder = _prepared(name, data_dir, download)
    keys = _check_features(name, builder, any_size=True)
    tests = ("validation",) if builder.name in _UNLABELLED_TESTS else ("test", "validation")
    splits = _find_splits(name, builder, tests)
    return Sources(name, *(_Records(name, builder, split, *keys) for split in splits))


class _Records:
    """The encoded images of a TFDS split, and their labels; a `Source`."""

    def __init__(self, name: str, builder: Any, split: str, image_key: str, label_key: str) -> None:
        self.class_names = tuple(builder.info.features[label_key].names)
        self._name = f"{name} {split}"
        self._image_key, self._label_key = image_key, label_key
        self._records = _open_split(name, builder, split, image_key)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Item:
        record = self._records[index]
        return Item(record[self._image_key], int(record[self._label_key]))

    def item_name(self, index: int) -> str:
        """Returns dataset, split and number, and the image's file name where the dataset has it."""
        file = self._records[index].get("file_name")
        return f"{self._name}, example {index}" + (f" ({os.fsdecode(file)})" if file else "")


def _prepared(name: str, data_dir: str, download: bool) -> Any:
    """Returns the builder of a dataset that is there, or now is."""
    with _quiet_absl():
        builder = _builder(name, data_dir)
        if not builder.is_prepared():
            if not download:
                raise DataError(_missing(name, builder, "downloading is switched off"))
            _prepare(name, builder)
            builder = _builder(name, data_dir)  # reads the splits that are there now
    return builder


def _builder(name: str, data_dir: str) -> Any:
    import tensorflow_datasets as tfds  # only when used: slow to import, and of the train extra

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        raise DataError(
            f"dataset name: expected 'digits', 'cifar10', 'cifar100' or another image "
            f"classification dataset of TFDS (https://www.tensorflow.org/datasets/catalog); "
            f"got {name!r}, which TFDS does not know"
        ) from None
    except Exception as error:  # TFDS raises many types: a bad version, a builder of TensorFlow
        raise DataError(f"dataset {name!r}: TFDS cannot open it: {error}") from None


def _prepare(name: str, builder: Any) -> None:
    """Downloads and prepares, with our builder where there is one."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    from mixkd_jax.data.cifar_builders import BUILDERS

    downloader.MAX_RETRIES = _DOWNLOAD_RETRIES
    if name in BUILDERS:
        builder = BUILDERS[name](data_dir=builder.data_dir_root, file_format="array_record")
    print(f"{name}: downloading and preparing under {builder.data_dir_root}", file=sys.stderr)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            file_format="array_record",
        )
    except Exception as error:  # of the network, the disk, the archive or the builder
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorflow":
            reason = "its TFDS builder prepares with TensorFlow, which is not installed"
        else:
            reason = f"preparing failed: {type(error).__name__}: {error}"
        raise DataError(_missing(name, builder, reason)) from None


def _missing(name: str, builder: Any, reason: str) -> str:
    from mixkd_jax.data.cifar_builders import BUILDERS

    root = str(builder.data_dir_root)
    if name in BUILDERS:
        call = f"from mixkd_jax.data import load; load({name!r}, data_dir={root!r})"
    else:
        call = (
            f"import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={root!r})"
            f".download_and_prepare(file_format='array_record')"
        )
    return (
        f"dataset {name!r} is not prepared in {builder.data_dir}, and {reason}. Prepare it where "
        f'there is a network: python -c "{call}"; the folder may then be copied here. '
        f"The default needs no download: python run.py --config=configs/digits.py"
    )


def _check_features(name: str, builder: Any, *, any_size: bool = False) -> tuple[str, str]:
    """Returns the keys of image and label of a dataset that we can read."""
    import tensorflow_datasets as tfds

    info = builder.info
    keys = info.supervised_keys or ("image", "label")
    features = dict(info.features.items())
    image, label = features.get(keys[0]), features.get(keys[1])
    shape: Any = getattr(image, "shape", None)
    if not (
        isinstance(image, tfds.features.Image)
        and isinstance(label, tfds.features.ClassLabel)
        and (any_size or None not in shape)
        and shape[-1] in _MODES
        and image.np_dtype == np.uint8
    ):
        raise DataError(
            f"dataset {name!r}: expected uint8 images{'' if any_size else ' of one fixed shape'} "
            f"and class labels, got {keys[0]}={image}, {keys[1]}={label}"
        )
    return keys[0], keys[1]


def _find_splits(name: str, builder: Any, test_names: tuple[str, ...]) -> tuple[str, str]:
    """Returns "train" and the first of `test_names` that the dataset has."""
    found = builder.info.splits
    test = next((split for split in test_names if split in found), None)
    if "train" not in found or test is None:
        raise DataError(
            f"dataset {name!r}: expected the splits 'train' and "
            f"{' or '.join(map(repr, test_names))}, got {sorted(found)}"
        )
    return "train", test


def _open_split(name: str, builder: Any, split: str, image_key: str) -> Any:
    """Returns a split's records by their number; images stay encoded."""
    import tensorflow_datasets as tfds

    try:
        decoders = {image_key: tfds.decode.SkipDecoding()}
        return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError:
        raise DataError(
            f"dataset {name!r}: expected files of the format array_record in {builder.data_dir}, "
            f"got {builder.info.file_format.value}; prepare it into another data_dir"
        ) from None


def _read_split(
    name: str, builder: Any, split: str, image_key: str, label_key: str, indices: np.ndarray
) -> Split:
    source = _open_split(name, builder, split, image_key)
    count, shape = len(indices), builder.info.features[image_key].shape
    images, labels = np.empty((count, *shape), np.uint8), np.empty(count, np.int32)
    reported = time.monotonic()
    for start in range(0, count, _CHUNK):
        records = source.__getitems__(indices[start : start + _CHUNK].tolist())
        for index, record in enumerate(records, start):
            images[index] = _decode(record[image_key], shape)
            labels[index] = record[label_key]
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            done = start + len(records)
            print(f"{name} {split}: {done:,} of {count:,} images read", file=sys.stderr)
    return Split(images, labels)


def _decode(encoded: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns uint8 [H, W, C] from a PNG, JPEG or other file that Pillow reads."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        mode = _MODES[shape[-1]]
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels.reshape(shape)  # an image of another size is refused here


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Silences TFDS's warnings that a folder is missing: the error says it once."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)
