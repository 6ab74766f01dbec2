import functools
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.utils import Size
from tensorflow_datasets.image_classification import cifar

from mixkd_jax.data import DataError, load

FILES = {  # records a file, in the order that CIFAR's archives name them
    "cifar10": {**{f"data_batch_{i}.bin": 3 for i in range(1, 6)}, "test_batch.bin": 4},
    "cifar100": {"train.bin": 7, "test.bin": 4},
}
PREFIX = {"cifar10": "cifar-10-batches-bin/", "cifar100": "cifar-100-binary/"}
LABEL_FILES = {
    "cifar10": {"batches.meta.txt": [f"class{i}" for i in range(10)]},
    "cifar100": {
        "coarse_label_names.txt": [f"coarse{i}" for i in range(20)],
        "fine_label_names.txt": [f"fine{i}" for i in range(100)],
    },
}


def _write_archive(path, name):
    """Writes random images in CIFAR's binary format; returns {split: [(labels, image)]}."""
    rng = np.random.default_rng(0)
    sizes = [len(names) for names in LABEL_FILES[name].values()]
    examples = {"train": [], "test": []}
    with tarfile.open(path, "w:gz") as tar:

        def add(file, data):
            member = tarfile.TarInfo(PREFIX[name] + file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        for file, names in LABEL_FILES[name].items():
            add(file, ("\n".join(names) + "\n\n").encode())
        for file, count in FILES[name].items():
            records = b""
            for _ in range(count):
                labels = [int(rng.integers(size)) for size in sizes]
                image = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
                records += bytes(labels) + image.transpose(2, 0, 1).tobytes()
                examples["test" if "test" in file else "train"].append((labels, image))
            add(file, records)
    return examples


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serves both archives on this machine; yields {name: (url, examples)}."""
    folder = tmp_path_factory.mktemp("archives")
    examples = {name: _write_archive(folder / f"{name}.tar.gz", name) for name in FILES}
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{httpd.server_address[1]}"
        yield {name: (f"{base}/{name}.tar.gz", examples[name]) for name in FILES}
        httpd.shutdown()
        thread.join()


@pytest.fixture
def use_url(monkeypatch):
    """Returns a function that lets TFDS's builder of a name download from another address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def use(name, url):
        builder = {"cifar10": cifar.Cifar10, "cifar100": cifar.Cifar100}[name]
        source = vars(builder)["_cifar_info"].fget
        moved = property(lambda self: source(self)._replace(url=url))
        monkeypatch.setattr(builder, "_cifar_info", moved)

    return use


def _sorted(images, labels):
    order = np.lexsort(images.reshape(len(images), -1).T)
    return images[order], labels[order]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_load_downloads_and_prepares_what_tfds_then_reads(name, server, use_url, tmp_path):
    url, examples = server[name]
    use_url(name, url)
    dataset = load(name, data_dir=str(tmp_path))
    assert dataset.class_names == tuple(list(LABEL_FILES[name].values())[-1])
    for split in ("train", "test"):
        got = getattr(dataset, split)
        want_images = np.stack([image for _, image in examples[split]])
        want_labels = np.array([labels[-1] for labels, _ in examples[split]])
        for a, b in zip(
            _sorted(got.images, got.labels), _sorted(want_images, want_labels), strict=True
        ):
            np.testing.assert_array_equal(a, b)

    again = load(name, data_dir=str(tmp_path), download=False)
    np.testing.assert_array_equal(again.train.images, dataset.train.images)

    builder: Any = tfds.builder(name, data_dir=str(tmp_path))
    assert type(builder).__module__.startswith("tensorflow_datasets.")
    source = builder.as_data_source("train")
    for index in range(len(source)):
        example = source[index]
        labels, image = examples["train"][int(example["id"].decode().removeprefix("train_"))]
        np.testing.assert_array_equal(example["image"], image)
        assert [example[key] for key in ("coarse_label", "label")[-len(labels) :]] == labels
        np.testing.assert_array_equal(dataset.train.images[index], image)


def test_another_archive_than_tfds_knows_is_refused(server, use_url, tmp_path, monkeypatch):
    url, _ = server["cifar10"]
    use_url("cifar10", url)
    known = checksums.UrlInfo(size=Size(1), checksum="0" * 64, filename="x")
    monkeypatch.setitem(checksums.get_all_url_infos(), url, known)
    with pytest.raises(DataError, match="wrong checksum"):
        load("cifar10", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="not prepared"):  # nothing half-made is left
        load("cifar10", data_dir=str(tmp_path), download=False)


def test_no_network_gives_one_message(use_url, tmp_path, monkeypatch):
    monkeypatch.setattr("mixkd_jax.data.tfds_source._DOWNLOAD_RETRIES", 0)
    use_url("cifar100", "http://127.0.0.1:9/cifar100.tar.gz")  # the port of "discard": closed
    with pytest.raises(DataError) as caught:
        load("cifar100", data_dir=str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path / "cifar100" / "3.0.2") in message
    assert "ConnectionError" in message and "configs/digits.py" in message
    assert f"load('cifar100', data_dir='{tmp_path}')" in message
    assert caught.value.__suppress_context__


def test_preparing_and_reading_need_no_tensorflow(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, _ = server["cifar10"]
    script = f"""
import sys
from tensorflow_datasets.image_classification import cifar
from mixkd_jax.data import load
source = cifar.Cifar10._cifar_info.fget
cifar.Cifar10._cifar_info = property(lambda self: source(self)._replace(url={url!r}))
dataset = load("cifar10", data_dir={str(tmp_path)!r})
assert (len(dataset.train), len(dataset.test)) == (15, 4)
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
