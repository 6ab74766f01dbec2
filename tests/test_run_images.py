import pathlib

import jax
import numpy as np
import pytest
import small

from mixkd_jax import config, data
from mixkd_jax.config import ConfigError
from mixkd_jax.data import BrokenImageError, DataError, memory
from mixkd_jax.run.images import load_images
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice, Streamed

SHAPE = (8, 8, 3)
PARTS = ("teacher", "student", "validation", "test")


@pytest.fixture
def root(tmp_path):
    """30 training and 12 test images as files."""
    return small.folder(tmp_path, small.dataset(30, 12, SHAPE))


def _load(root=None, dataset=None, seed=0, **changes):
    """The images of a folder, or of `dataset`, with the config's data fields changed."""
    if root is not None:
        changes = {"name": "folder", "dir": str(root)} | changes
    values = small.default_values(**{f"data__{name}": value for name, value in changes.items()})
    return load_images(config.parse(values).data, seed, sharding.data_mesh(), dataset)


def _kinds(images):
    return {type(getattr(images, part)) for part in PARTS} - {type(None)}


def test_digits_lie_on_the_devices():
    images = _load()
    assert (images.name, images.num_classes, images.skipped) == ("digits", 10, 0)
    assert _kinds(images) == {OnDevice}
    assert images.test.take(np.arange(8)).shape == (8, 8, 8, 1)
    assert images.validation is None


@pytest.mark.parametrize(("spare", "kind"), [(0, OnDevice), (-1, Streamed)])
def test_a_folder_that_is_too_large_is_streamed(root, monkeypatch, spare, kind):
    monkeypatch.setattr(memory, "MAX_BYTES", 42 * 8 * 8 * 3 + spare)
    images = _load(root)
    assert _kinds(images) == {kind}
    assert (images.name, images.num_classes) == (root.name, 3)
    assert images.student.image_shape == SHAPE


def test_the_image_size_decides_whether_a_folder_is_too_large(root, monkeypatch):
    monkeypatch.setattr(memory, "MAX_BYTES", 42 * 8 * 8 * 3)
    assert _kinds(_load(root, image_size=9)) == {Streamed}
    assert _kinds(_load(root, image_size=7)) == {OnDevice}


def test_a_pipeline_that_is_named_is_taken(root, monkeypatch):
    assert _kinds(_load(root, pipeline="stream")) == {Streamed}
    monkeypatch.setattr(memory, "MAX_BYTES", 1)
    assert _kinds(_load(root, pipeline="device")) == {OnDevice}


def test_a_given_data_set_is_on_the_devices_whatever_its_name_says():
    given = small.dataset(shape=SHAPE)
    images = _load(dataset=given, name="imagenet2012", pipeline="stream")
    assert (images.name, images.num_classes, _kinds(images)) == ("small", 3, {OnDevice})
    np.testing.assert_array_equal(images.test.labels(np.arange(40)), given.test.labels)


def test_both_pipelines_have_the_same_parts(root):
    options = {"teacher_examples": 20, "student_examples": 7, "validation_examples": 5}
    images = [
        _load(root, seed=3, pipeline=name, resize=8, image_size=8, test_examples=9, **options)
        for name in ("device", "stream")
    ]
    for part, size in zip(PARTS, (20, 7, 5, 9), strict=True):
        device, stream = (getattr(each, part) for each in images)
        assert len(device) == len(stream) == size
        every = np.arange(size)
        np.testing.assert_array_equal(device.labels(every), stream.labels(every))
        eight = np.arange(8) % size
        np.testing.assert_array_equal(device.take(eight), stream.take(eight))


def test_a_stream_has_the_settings(root):
    changes = {"crop": "resize_crop", "resize": 7, "image_size": 6, "flip": True, "broken": "skip"}
    images = _load(root, pipeline="stream", workers=3, prefetch=4, **changes)
    stream = images.student.stream
    assert (stream.image_size, stream.resize, stream.flip) == ((6, 6), 7, True)
    assert (stream.augmentation, stream.workers, stream.prefetch) == ("resize_crop", 3, 4)
    assert stream.broken == "skip"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": 0.1}, "config.data.noise: expected 0 for streamed images, got 0.1"),
        (
            {"crop_padding": 4},
            "config.data.crop_padding: expected 0 for streamed images, which config.data.crop "
            "crops, got 4",
        ),
    ],
)
def test_what_a_stream_cannot_do_is_refused(root, changes, message):
    with pytest.raises(ConfigError) as caught:
        _load(root, pipeline="stream", **changes)
    assert str(caught.value) == message
    _load(root, pipeline="device", **changes)


def test_digits_cannot_be_streamed():
    with pytest.raises(DataError, match="digits"):
        _load(pipeline="stream")


@pytest.mark.parametrize("pipeline", ["device", "stream"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mean": (0.1, 0.2)},
            "config.data.mean: expected 1 number or 3, one per channel of {name}, got 2",
        ),
        (
            {"std": (0.1,) * 4},
            "config.data.std: expected 1 number or 3, one per channel of {name}, got 4",
        ),
        (
            {"resize": 9},
            "config.data.resize: expected at least config.data.image_size, the size of a crop, and "
            "that above 0; got 9 and 0",
        ),
        (
            {"resize": 9, "image_size": 10},
            "config.data.resize: expected at least config.data.image_size, the size of a crop, and "
            "that above 0; got 9 and 10",
        ),
        (
            {"teacher_examples": 31},
            "config.data.teacher_examples: expected at most the 30 training images of {name}, "
            "got 31",
        ),
    ],
)
def test_what_does_not_fit_the_images_is_refused(root, pipeline, changes, message):
    with pytest.raises(ConfigError) as caught:
        _load(root, pipeline=pipeline, **changes)
    assert str(caught.value) == message.format(name=root.name)


def test_padding_beside_resizing_is_refused(root):
    with pytest.raises(
        ConfigError, match=r"^config.data.crop_padding: expected less than the \d+ p"
    ):
        _load(root, image_size=8, crop_padding=8)
    with pytest.raises(ConfigError, match=r"^config.data.crop_padding: expected 0 with config.dat"):
        _load(root, resize=9, image_size=8, crop_padding=1)


@pytest.mark.parametrize("numbers", [(0.5,), (0.1, 0.2, 0.3)])
def test_one_number_or_one_a_channel_is_right(root, numbers):
    _load(root, mean=numbers, std=numbers, resize=9, image_size=9)


def _break(root: pathlib.Path, *names: str) -> None:
    for name in names:
        next((root / name).glob("*/*.png")).write_bytes(b"no image")


def test_broken_images_on_the_devices_are_skipped_and_counted(root, capfd):
    _break(root, "train", "test")
    with pytest.raises(BrokenImageError, match=r"\.png: cannot decode the image"):
        _load(root)
    images = _load(root, broken="skip")
    assert images.about() == {
        "name": root.name,
        "num_classes": 3,
        "class_names": ["a", "b", "c"],
        "image_shape": [8, 8, 3],
        "resize": [8, 8],
        "teacher": 29,
        "student": 29,
        "validation": 0,
        "test": 11,
        "skipped": 2,
    }
    assert (len(images.teacher), len(images.test)) == (29, 11)
    assert capfd.readouterr().err.count("skipped: ") == 2


def test_the_size_of_a_streamed_folder_is_found_past_a_broken_image(root):
    _break(root, "train")
    with pytest.raises(BrokenImageError, match=r"\.png: cannot decode the image"):
        _load(root, pipeline="stream")
    assert _load(root, pipeline="stream", broken="skip").student.image_shape == SHAPE


def test_noise_is_on_what_the_student_meets(root):
    clean, noisy = _load(root, validation_examples=8), _load(root, validation_examples=8, noise=0.2)
    eight = np.arange(8)
    for part in PARTS:
        same = jax.numpy.array_equal(
            getattr(clean, part).take(eight), getattr(noisy, part).take(eight)
        )
        assert bool(same) == (part == "teacher"), part


def test_a_folder_is_read_as_data_load_reads_it(root):
    want = data.load("folder", data_dir=root)
    images = _load(root)
    np.testing.assert_array_equal(images.test.take(np.arange(8)), want.test.images[:8])
