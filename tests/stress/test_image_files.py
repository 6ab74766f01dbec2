"""Image files with bytes changed at random: decoded, or broken with their name."""

import collections
import io
import random
import warnings

import numpy as np
import pytest
import trials
from PIL import Image

from mixkd_jax.data import BrokenImageError, Item, images

pytestmark = pytest.mark.stress
FORMATS = {
    "jpeg": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    "png": {},
    "webp": {"lossless": True},
    "bmp": {},
    "tiff": {"compression": "tiff_lzw"},
}


class One:
    """A source of one image."""

    class_names = ("a",)

    def __init__(self, content):
        self._content = content

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Item(self._content, 0)

    def item_name(self, index):
        return "train/a/0"


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_image_is_decoded_or_broken(name, capsys):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(file, name, **FORMATS[name])
    assert images.read(One(file.getvalue()), 0)[0].mode == "RGB"
    chance, outcomes = random.Random(trials.SEED), collections.Counter()
    for _ in range(trials.COUNT):
        what, content = trials.changed(chance, file.getvalue())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
            try:
                image, label = images.read(One(content), 0)
            except BrokenImageError as error:
                assert str(error).startswith("train/a/0: cannot decode the image: "), what
                outcomes["broken"] += 1
                continue
        assert (image.mode, label) == ("RGB", 0), what
        assert np.asarray(image).dtype == np.uint8, what
        outcomes["decoded"] += 1
    capsys.readouterr()
    with capsys.disabled():
        print(f"\n{name}: {trials.COUNT} files, seed {trials.SEED}: {dict(outcomes)}")
