import builtins
import io
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mixkd_jax.data import BrokenImageError, DataError, Item, Subset, images, open_sources
from mixkd_jax.data.stream import Batches, Stream


class _Images:
    """A source of images of 9 to 30 pixels a side; labels count up to 3, `broken` are no images."""

    class_names = ("a", "b", "c")

    def __init__(self, count=10, broken=(), sizes=None):
        rng = np.random.default_rng(0)
        self.sizes = sizes or rng.integers(9, 30, (count, 2)).tolist()
        self.items = [_jpeg(height, width, i) for i, (height, width) in enumerate(self.sizes)]
        for index in broken:
            self.items[index] = b"broken"

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return Item(self.items[index], index % 3)

    def item_name(self, index):
        return f"image {index}"


class _Numbers:
    """A source of 12x12 images that are all of one colour, their number."""

    class_names = tuple(map(str, range(100)))

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Item(np.full((12, 12, 3), index, np.uint8), index)

    def item_name(self, index):
        return f"number {index}"


def _jpeg(height, width, seed):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


_OF_BATCHES = ("batch_size", "seed", "pairs", "process_index", "process_count")


def _stream(source, **options):
    return Stream(source, **{"image_size": 8, "workers": 0, **options})


def _batches(source, **options):
    """Batches of a stream, with the options of both."""
    own = {name: options.pop(name) for name in _OF_BATCHES if name in options}
    return Batches(_stream(source, **options), **{"batch_size": 4, "seed": 3, **own})


def _take(batches, count, first_step=0):
    return list(itertools.islice(batches.start(first_step), count))


def _assert_equal(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        for name, x, y in zip(a._fields, a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("augmentation", ["random_resized_crop", "resize_crop"])
def test_a_stream_resumes_bit_for_bit(augmentation):
    stream = _batches(_Images(), augmentation=augmentation, pairs=True, workers=2)
    whole = _take(stream, 9)
    for first_step in (1, 5, 8):
        _assert_equal(_take(stream, 9 - first_step, first_step), whole[first_step:])
    assert whole[0].images.shape == (4, 8, 8, 3) and whole[0].images.dtype == np.uint8
    assert whole[0].labels.shape == (4,) and whole[0].labels.dtype == np.int32


def test_workers_and_prefetch_change_no_batch():
    source = _Images(broken=[4])
    expected = _take(_batches(source, pairs=True, broken="skip"), 3)
    for workers, prefetch in ((1, 1), (3, 2), (16, 1)):
        options = {"pairs": True, "workers": workers, "prefetch": prefetch}
        _assert_equal(_take(_batches(source, broken="skip", **options), 3), expected)


@pytest.mark.parametrize("count", [2, 4])
def test_the_parts_of_all_processes_are_the_same_global_batch(count):
    whole = _take(_batches(_Images()), 3)
    shares = [
        _take(_batches(_Images(), process_index=i, process_count=count), 3) for i in range(count)
    ]
    for step, parts in enumerate(zip(*shares, strict=True)):
        for field in ("images", "labels"):
            joined = np.concatenate([getattr(part, field) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole[step], field))


def test_every_pass_shows_every_example_once_in_another_order():
    labels = [b.labels for b in _take(_batches(_Numbers(10), batch_size=5), 8)]
    passes = np.concatenate(labels).reshape(4, 10)
    for one in passes:
        assert sorted(one) == list(range(10))
    assert len({tuple(one) for one in passes}) == 4
    # A batch goes on into the next pass, and may be larger than the source.
    large = np.concatenate([b.labels for b in _take(_batches(_Numbers(10), batch_size=20), 2)])
    np.testing.assert_array_equal(large, passes.ravel())
    np.testing.assert_array_equal(_take(_batches(_Numbers(1)), 1)[0].labels, [0, 0, 0, 0])


def test_seeds_share_no_pass():
    orders = {
        seed: {tuple(b.labels) for b in _take(_batches(_Numbers(12), batch_size=12, seed=seed), 6)}
        for seed in (0, 1, 2)
    }
    for one, other in itertools.combinations(orders.values(), 2):
        assert not one & other
    views = [_take(_batches(_Images(sizes=[(30, 30)]), seed=s), 1)[0].images for s in (0, 1)]
    assert (views[0] != views[1]).any()


def test_an_example_is_cropped_anew_at_every_position():
    batch = _take(_batches(_Images(sizes=[(30, 30)]), batch_size=16), 1)[0]
    assert len({image.tobytes() for image in batch.images}) == 16


def _partners(batch):
    """Returns where in a batch of different labels each example's partner is."""
    return tuple(int(np.flatnonzero(batch.labels == y)[0]) for y in batch.partner_labels)


def test_partners_are_a_permutation_of_the_part_another_at_every_step():
    batches = _take(_batches(_Numbers(40), batch_size=8, pairs=True), 10)
    for batch in batches:
        assert sorted(_partners(batch)) == list(range(8))
        np.testing.assert_array_equal(batch.partner_images, batch.images[list(_partners(batch))])
    assert len(set(map(_partners, batches))) == 10
    first, second = (
        _take(_batches(_Numbers(40), pairs=True, process_index=i, process_count=2), 10)
        for i in range(2)
    )
    assert list(map(_partners, first)) != list(map(_partners, second))
    assert _take(_batches(_Numbers(40)), 1)[0].partner_images is None


def test_half_of_the_images_are_mirrored():
    ramp = np.broadcast_to(np.arange(0, 160, 10).astype(np.uint8)[None, :, None], (16, 16, 3))

    class Ramp(_Numbers):
        def __getitem__(self, index):
            return Item(ramp, 0)

    options = {"batch_size": 200, "image_size": 16, "resize": 16, "augmentation": "resize_crop"}
    batch = _take(_batches(Ramp(5), **options), 1)[0]
    mirrored = [(image == ramp[:, ::-1]).all() for image in batch.images]
    upright = [(image == ramp).all() for image in batch.images]
    assert np.logical_xor(mirrored, upright).all()
    assert 70 < sum(mirrored) < 130  # of 200, 4 standard deviations
    plain = _take(_batches(Ramp(5), flip=False, **options), 1)[0]
    assert (plain.images == ramp).all()


def test_views_are_cropped_in_the_middle():
    source = _Images()
    stream = _stream(source, image_size=(8, 12), resize=10)
    for index in range(10):  # the shorter side becomes 10 pixels: 10x15 is covered
        expected = images.center_crop(images.decode(source.items[index]), (8, 12), (10, 15))
        np.testing.assert_array_equal(stream.view(index), expected)


def test_views_resize_to_256_224ths_of_the_image_size():
    source = _Images(sizes=[(64, 64)])
    expected = images.center_crop(images.decode(source.items[0]), (56, 56), (64, 64))
    np.testing.assert_array_equal(_stream(source, image_size=56).view(0), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_the_stream_and_is_named(workers):
    with pytest.raises(BrokenImageError, match="^image 6: cannot decode the image"):
        _take(_batches(_Images(broken=[6]), workers=workers), 3)
    with pytest.raises(BrokenImageError, match="^image 6: cannot decode the image"):
        _stream(_Images(broken=[6]), workers=workers, broken="skip").view(6)


def test_the_next_readable_image_takes_the_place_of_a_broken_one(capsys):
    class Holes(_Numbers):
        def __getitem__(self, index):
            return Item(b"", 0) if index in (3, 4, 9) else super().__getitem__(index)

    options = {"batch_size": 10, "broken": "skip"}
    whole = _take(_batches(_Numbers(10), **options), 3)
    holes = _take(_batches(Holes(10), **options), 3)
    instead = np.array([0, 1, 2, 5, 5, 5, 6, 7, 8, 0])
    for got, expected in zip(holes, whole, strict=True):
        np.testing.assert_array_equal(got.labels, instead[expected.labels])
        np.testing.assert_array_equal(got.images[:, 0, 0, 0], got.labels)
        met = {3: (3, 4), 4: (4,), 9: (9,)}
        assert got.skipped == sum((met.get(label, ()) for label in expected.labels.tolist()), ())
        assert len(got.skipped) == 4
    told = capsys.readouterr().err
    assert [told.count(f"skipped: number {n}:") for n in (3, 4, 9)] == [1, 1, 1]


def test_a_source_of_broken_images_alone_is_refused():
    with pytest.raises(DataError, match="readable image, got 10 broken ones in a row"):
        _take(_batches(_Images(broken=range(10)), broken="skip"), 1)


def test_a_subset_is_a_source():
    subset = Subset(_Numbers(20), np.array([7, 3, 11]))
    views = [_stream(subset).view(index)[0, 0, 0] for index in range(3)]
    assert views == [7, 3, 11]
    assert subset.item_name(2) == "number 11" and subset.class_names == _Numbers.class_names


def test_threads_decode_ahead_and_stop_with_the_batches():
    class Counting(_Numbers):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    def threads():
        return sum(t.name.startswith("grain") for t in threading.enumerate())

    source, before = Counting(50), threads()
    batches = _batches(source, workers=3, prefetch=2).start()
    next(batches)
    deadline = time.monotonic() + 10
    while source.read < 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 9 <= source.read <= 12  # a batch of 4, and 2 more ahead
    assert threads() > before
    batches.close()
    while threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"process_count": 3}, "batch_size: expected a multiple of the 3 processes, got 4"),
        ({"process_index": 1}, "process_index: expected 0 to 0, got 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"workers": -1}, "workers: expected at least 0"),
        ({"prefetch": 0}, "prefetch: expected at least 1"),
        ({"augmentation": "none"}, "augmentation: expected 'random_resized_crop' or .*'none'"),
        ({"image_size": 0}, "image_size: expected at least 1 pixel"),
        ({"resize": 7}, "resize: expected 0 or at least the 8 pixels of image_size, got 7"),
        ({"broken": "ignore"}, "broken: expected 'stop' or 'skip'"),
    ],
)
def test_mistaken_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _batches(_Numbers(5), **options)


def test_empty_sources_and_negative_steps_are_refused():
    with pytest.raises(DataError, match="source: expected examples, got none"):
        _batches(_Numbers(0))
    with pytest.raises(ValueError, match="first_step: expected at least 0, got -1"):
        _batches(_Numbers(5)).start(-1)


def test_without_grain_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without_grain(name, *args, **kwargs):
        if name == "grain":
            raise ModuleNotFoundError("No module named 'grain'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_grain)
    with pytest.raises(DataError, match=r"pip install 'mixkd-jax\[stream\]'"):
        _batches(_Numbers(5)).start()


def test_grain_is_imported_only_when_batches_are_asked_for():
    script = (
        "import sys, mixkd_jax.data.stream, mixkd_jax.data.folder; print('grain' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "False"


def _prepare(folder, splits=("train", "validation")):
    """Writes a TFDS dataset of JPEG images of several sizes, as imagenet2012 has them."""
    sizes = [(20, 30), (31, 17), (9, 9)]

    class Mine(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for key, size in enumerate(sizes):
                label = -1 if split == "test" else key % 2
                name = f"{split}_{key}.JPEG"
                yield key, {"image": _jpeg(*size, key), "label": label, "file_name": name}

    Mine(data_dir=folder, file_format="array_record").download_and_prepare()
    return sizes


def test_tfds_images_of_any_size_are_streamed(tmp_path):
    sizes = _prepare(tmp_path)
    sources = open_sources("mine", data_dir=str(tmp_path), download=False)
    assert sources.train.class_names == ("a", "b")
    for source, split in ((sources.train, "train"), (sources.test, "validation")):
        stored = {images.read_size(source, i): source[i] for i in range(3)}
        assert set(stored) == set(sizes)
        for key, size in enumerate(sizes):
            assert stored[size] == (_jpeg(*size, key), key % 2)
        for index in range(3):
            key = sizes.index(images.read_size(source, index))
            name = f"mine {split}, example {index} ({split}_{key}.JPEG)"
            assert source.item_name(index) == name
    batch = _take(_batches(sources.train, workers=2), 1)[0]
    assert batch.images.shape == (4, 8, 8, 3)


def test_a_split_without_labels_is_refused(tmp_path):
    _prepare(tmp_path, ("train", "test", "validation"))
    sources = open_sources("mine", data_dir=str(tmp_path), download=False)
    with pytest.raises(DataError, match=r"mine test, example 0 \(test_\d.JPEG\): expected a label"):
        _stream(sources.test).view(0)


def test_tfds_sets_without_test_images_are_refused(tmp_path):
    _prepare(tmp_path, ("train", "other"))
    with pytest.raises(
        DataError, match="'train' and 'test' or 'validation', got .*'other', 'train'"
    ):
        open_sources("mine", data_dir=str(tmp_path), download=False)


def test_a_folder_is_streamed(tmp_path):
    for split, number in itertools.product(("train", "test"), range(3)):
        file = tmp_path / split / "a" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_jpeg(10 + number, 12, number))
    sources = open_sources("folder", data_dir=os.fspath(tmp_path))
    stream = _stream(sources.test)
    for number in range(3):
        decoded = images.decode(_jpeg(10 + number, 12, number))
        expected = images.center_crop(decoded, (8, 8), (9, 9))
        np.testing.assert_array_equal(stream.view(number), expected)
