"""TFDS's builders of CIFAR-10 and CIFAR-100, preparing without TensorFlow.

TFDS unpacks archives and encodes image arrays through TensorFlow, but writes bytes that are
already encoded as they are. These subclasses read the members of the downloaded archive with
tarfile and encode them as PNG with Pillow. Name, version, features, example keys and hence the
order of the examples are TFDS's own, so ``tfds.builder("cifar10", data_dir=...)`` reads the result.

Importing this module imports TFDS; `mixkd_jax.data.load` does so only when it downloads.

Source of the data: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009, "Learning
Multiple Layers of Features from Tiny Images"), which states no licence.
"""

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tensorflow_datasets.image_classification import cifar

_PIXELS = 32 * 32 * 3


class _PngExamples:
    """Replaces how TFDS's CIFAR builders read the archive and encode images."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        source = self._cifar_info  # pyright: ignore[reportAttributeAccessIssue]
        features = self.info.features  # pyright: ignore[reportAttributeAccessIssue]
        members = _read_members(dl_manager.download(source.url), source.prefix)
        for key, file in zip(source.label_keys, source.label_files, strict=True):
            features[key].names = members[file].decode().split()
        return {
            "train": _examples(
                "train", [members[f] for f in source.train_files], source.label_keys
            ),
            "test": _examples("test", [members[f] for f in source.test_files], source.label_keys),
        }


class Cifar10(_PngExamples, cifar.Cifar10, skip_registration=True):
    """CIFAR-10, 50,000 + 10,000 images of 32x32x3, with PNG encoded by Pillow."""

    name = "cifar10"


class Cifar100(_PngExamples, cifar.Cifar100, skip_registration=True):
    """CIFAR-100, as many images of the same size, with PNG encoded by Pillow."""

    name = "cifar100"


BUILDERS = {builder.name: builder for builder in (Cifar10, Cifar100)}


def _read_members(archive: os.PathLike, prefix: str) -> dict[str, bytes]:
    """Returns the files of a tar archive under ``prefix`` by their name after it."""
    members = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None and member.name.startswith(prefix):
                members[member.name.removeprefix(prefix)] = file.read()
    return members


def _examples(
    split: str, files: Sequence[bytes], label_keys: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    """Yields (key, example) from files of records: a byte a label, then 32x32 red, green, blue."""
    record_bytes = len(label_keys) + _PIXELS
    records = np.concatenate([np.frombuffer(f, np.uint8).reshape(-1, record_bytes) for f in files])
    for index, record in enumerate(records):
        labels, pixels = np.split(record, [len(label_keys)])
        image = pixels.reshape(3, 32, 32).transpose(1, 2, 0)
        yield (
            index,
            {
                "id": f"{split}_{index:05d}",
                "image": _png(image),
                **dict(zip(label_keys, labels.tolist(), strict=True)),
            },
        )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()
