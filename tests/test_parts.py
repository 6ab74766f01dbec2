import dataclasses

import numpy as np
import pytest
import small

from mixkd_jax import config, data
from mixkd_jax.config import ConfigError
from mixkd_jax.run.images import load_images
from mixkd_jax.training import sharding

DATASET = small.dataset(train=100, test=30)


def _data(**changes):
    return dataclasses.replace(config.parse(small.default_values()).data, **changes)


def split_parts(dataset, settings, seed):
    """The splits of a run as they lie on the devices."""
    return load_images(settings, seed, sharding.data_mesh(), dataset)


def _images(split):
    return np.asarray(split.examples.images)


def _labels(split):
    return split.labels(np.arange(len(split))).tolist()


def _rows(split):
    images = split.images if isinstance(split, small.data.Split) else _images(split)
    return [image.tobytes() for image in images]


def test_all_is_used_by_default_and_nothing_is_held_out():
    parts = split_parts(DATASET, _data(), 0)
    assert parts.validation is None
    for split in (parts.teacher, parts.student):
        assert sorted(_rows(split)) == sorted(_rows(DATASET.train))
    assert _rows(parts.test) == _rows(DATASET.test)


def test_the_smaller_part_lies_within_the_larger_and_validation_outside():
    settings = _data(teacher_examples=60, student_examples=25, validation_examples=30)
    parts = split_parts(DATASET, settings, 0)
    assert parts.validation is not None
    assert (len(parts.teacher), len(parts.student), len(parts.validation)) == (60, 25, 30)
    assert _rows(parts.teacher)[:25] == _rows(parts.student)
    assert not set(_rows(parts.teacher)) & set(_rows(parts.validation))
    known = dict(zip(_rows(DATASET.train), DATASET.train.labels, strict=True))
    for split in (parts.teacher, parts.student, parts.validation):
        assert [known[row] for row in _rows(split)] == _labels(split)


def test_all_means_all_that_is_not_held_out():
    parts = split_parts(DATASET, _data(validation_examples=99), 0)
    assert len(parts.teacher) == len(parts.student) == 1


def test_test_images_are_the_first_ones_and_never_trained_on():
    parts = split_parts(DATASET, _data(test_examples=7), 5)
    assert _rows(parts.test) == _rows(DATASET.test)[:7]


def test_parts_are_a_function_of_the_seed():
    settings = _data(student_examples=20, noise=0.2, validation_examples=10)
    first, again = split_parts(DATASET, settings, 1), split_parts(DATASET, settings, 1)
    other = split_parts(DATASET, settings, 2)
    for field in ("teacher", "student", "validation", "test"):
        rows = [_rows(getattr(parts, field)) for parts in (first, again, other)]
        assert rows[0] == rows[1] != rows[2]


def test_noise_is_on_what_the_student_meets_and_has_its_deviation():
    grey = small.data.Split(np.full((100, 8, 8, 1), 128, np.uint8), DATASET.train.labels)
    dataset = dataclasses.replace(DATASET, train=grey)
    clean = split_parts(dataset, _data(validation_examples=10), 0)
    noisy = split_parts(dataset, _data(validation_examples=10, noise=0.1), 0)
    assert _rows(noisy.teacher) == _rows(clean.teacher)
    for field in ("student", "validation"):
        noise = _images(getattr(noisy, field)) - 128.0
        assert abs(noise.mean()) < 5 * 25.5 / np.sqrt(noise.size)
        assert abs(noise.std() - 25.5) < 1.5
        assert _labels(getattr(noisy, field)) == _labels(getattr(clean, field))
    difference = _images(noisy.test).astype(float) - _images(clean.test)
    assert difference.std() > 20
    assert not np.array_equal(_images(noisy.student)[:10], _images(noisy.validation))  # pyright: ignore[reportOptionalMemberAccess]


def test_noise_is_clipped_and_not_wrapped():
    parts = split_parts(DATASET, _data(noise=1.0), 0)
    dark = DATASET.test.images < 20
    assert _images(parts.test).dtype == np.uint8
    assert (_images(parts.test)[dark] == 0).mean() > 0.3 and _images(parts.test).max() == 255


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_examples": 101}, "config.data.teacher_examples: .*100 training .* got 101"),
        ({"student_examples": 101}, "config.data.student_examples: .*100 training .* got 101"),
        ({"test_examples": 31}, "config.data.test_examples: .*30 test images .* got 31"),
        ({"validation_examples": 100}, "config.data.validation_examples: .*100 .* got 100"),
        ({"validation_examples": 50, "student_examples": 51}, "student_examples: .*50.* got 51"),
    ],
)
def test_more_than_there_is_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        split_parts(DATASET, _data(**changes), 0)


def test_only_images_of_some_part_are_read_and_they_are_the_same(monkeypatch):
    def load(name, *, choose, **_):
        train, test = choose(len(DATASET.train), len(DATASET.test))
        assert (np.diff(train) > 0).all() and len(test) == 20
        assert len(train) == 40 + 10  # the teacher's lie within the students'
        chosen = {"train": DATASET.train.subset(train), "test": DATASET.test.subset(test)}
        return dataclasses.replace(DATASET, **chosen)

    monkeypatch.setattr(data, "load", load)
    counts = {"teacher_examples": 30, "student_examples": 40, "validation_examples": 10}
    settings = _data(**counts, test_examples=20, noise=0.1)
    read = load_images(settings, 0, sharding.data_mesh())
    whole = split_parts(DATASET, settings, 0)
    for part in ("teacher", "student", "validation", "test"):
        np.testing.assert_array_equal(_images(getattr(read, part)), _images(getattr(whole, part)))
        assert _labels(getattr(read, part)) == _labels(getattr(whole, part))
