import dataclasses
import io
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

from mixkd_jax.data import DataError, Dataset, Split, load, tfds_source


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


def _as_set(images, labels):
    return {(image.tobytes(), int(y)) for image, y in zip(images, labels, strict=True)}


def test_digits_are_those_of_scikit_learn_split_once():
    dataset = load("digits")
    assert (len(dataset.train), len(dataset.test)) == (1300, 497)
    assert (dataset.num_classes, dataset.image_shape) == (10, (8, 8, 1))
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    scaled = np.array([[round(v * 255 / 16) for v in row] for row in pixels], np.uint8)
    train, test = (_as_set(s.images, s.labels) for s in (dataset.train, dataset.test))
    assert train | test == _as_set(scaled, labels)
    assert not train & test
    np.testing.assert_array_equal(dataset.train.images, load("digits").train.images)
    assert min(np.bincount(dataset.test.labels, minlength=10)) >= 30


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory):
    """The folder of CIFAR-10 as the script beside the repository prepares it."""
    script = pathlib.Path(__file__).parents[2] / "shared" / "data" / "prepare_cifar10.py"
    if not script.exists():
        pytest.skip(f"needs the CIFAR-10 archive of {script.parent}, which is not here")
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, script, "--data_dir", folder], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_cifar10_is_read_whole_from_prepared_files(cifar10_dir):
    dataset = load("cifar10", data_dir=str(cifar10_dir), download=False)
    assert dataset.class_names == tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    )
    assert dataset.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [1000] * 10)
    # The channel means of CIFAR-10's training images that the literature standardises with.
    means = dataset.train.images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=0.002)


def test_missing_data_names_folder_command_and_the_default(tmp_path):
    with pytest.raises(DataError) as caught:
        load("cifar10", data_dir=str(tmp_path), download=False)
    message = str(caught.value)
    assert message.startswith("dataset 'cifar10' is not prepared in")
    assert str(tmp_path / "cifar10" / "3.0.2") in message
    assert f"load('cifar10', data_dir='{tmp_path}')" in message
    assert "python run.py --config=configs/digits.py" in message


def test_a_dataset_that_tfds_prepares_names_its_command(tmp_path):
    with pytest.raises(DataError, match=r"tfds.builder\('svhn_cropped', data_dir="):
        load("svhn_cropped", data_dir=str(tmp_path), download=False)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected 'digits', 'cifar10'.*got 'cifar11'"):
        load("cifar11", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="'cifar10:9.9.9': TFDS cannot open it: .*9.9.9"):
        load("cifar10:9.9.9", data_dir=str(tmp_path))


def _prepare(folder, shape=(4, 6, 1), splits=("train", "test")):
    """Writes a TFDS dataset "mine" whose code TFDS does not have; returns images and labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(5, 4, 6, 3), dtype=np.uint8)[..., : shape[-1]]
    labels = np.array([0, 1, 2, 1, 0], np.int32)
    examples = []
    for image, label in zip(images, labels, strict=True):
        file = io.BytesIO()
        PIL.Image.fromarray(image.squeeze()).save(file, format="PNG")
        examples.append({"image": file.getvalue(), "label": int(label)})

    class Mine(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            yield from enumerate(examples)

    Mine(data_dir=folder, file_format="array_record").download_and_prepare()
    return images, labels


@pytest.mark.parametrize("channels", [1, 3])
def test_any_prepared_dataset_is_read_exactly(tmp_path, channels):
    images, labels = _prepare(tmp_path, (4, 6, channels))
    dataset = load("mine", data_dir=str(tmp_path), download=False)
    assert (dataset.name, dataset.class_names) == ("mine", ("a", "b", "c"))
    for split in (dataset.train, dataset.test):  # TFDS shuffles when it prepares
        assert _as_set(split.images, split.labels) == _as_set(images, labels)


def test_long_reading_reports_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mixkd_jax.data.tfds_source._REPORT_SECONDS", 0.0)
    monkeypatch.setattr("mixkd_jax.data.tfds_source._CHUNK", 2)
    _prepare(tmp_path)
    load("mine", data_dir=str(tmp_path))
    assert "mine train: 4 of 5 images read" in capsys.readouterr().err


def test_unsupported_datasets_are_refused(tmp_path):
    _prepare(tmp_path / "size", (None, None, 3))
    with pytest.raises(DataError, match="uint8 images of one fixed shape .*image=Image"):
        load("mine", data_dir=str(tmp_path / "size"))
    _prepare(tmp_path / "split", splits=("train", "validation"))
    with pytest.raises(DataError, match=r"'train' and 'test', got \['train', 'validation'\]"):
        load("mine", data_dir=str(tmp_path / "split"))
    _prepare(tmp_path / "format")
    info = tmp_path / "format" / "mine" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="expected files of the format array_record .*got tfrecord"):
        load("mine", data_dir=str(tmp_path / "format"))


def test_importing_the_package_loads_no_data_library():
    heavy = "tensorflow_datasets tensorflow array_record sklearn PIL absl flax"
    script = f"import sys, mixkd_jax.data; print([m for m in {heavy.split()} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"


def test_chosen_images_alone_are_read(tmp_path, monkeypatch):
    _prepare(tmp_path)
    every = load("mine", data_dir=str(tmp_path))  # TFDS keeps an order of its own
    decoded = []
    decode = tfds_source._decode
    monkeypatch.setattr(tfds_source, "_decode", lambda *args: decoded.append(None) or decode(*args))

    def choose(num_train, num_test):
        assert (num_train, num_test) == (5, 5)
        return np.array([1, 4]), np.array([0])

    found = load("mine", data_dir=str(tmp_path), choose=choose)
    assert len(found.test) == 1 and len(decoded) == 3
    np.testing.assert_array_equal(found.train.images, every.train.images[[1, 4]])
    np.testing.assert_array_equal(found.train.labels, every.train.labels[[1, 4]])
    digits = load("digits", choose=lambda *_: (np.array([3, 5]), np.array([7])))
    whole = load("digits")
    np.testing.assert_array_equal(digits.train.images, whole.train.images[[3, 5]])
    np.testing.assert_array_equal(digits.test.labels, whole.test.labels[[7]])
