import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from mixkd_jax.data import BrokenImageError, DataError, load, memory, open_sources
from mixkd_jax.data.folder import open_folder


def _save(path, height=8, width=8, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.fromarray(pixels).convert(mode).save(path, format=kind)
    return path


def _folder(root, **splits):
    """Writes 8x8 images, `splits` as {split: {class: number of images}}."""
    for split, classes in splits.items():
        for name, count in classes.items():
            for index in range(count):
                _save(root / split / name / f"{index}.png", seed=index)
    return root


def _names(source):
    root = pathlib.Path(os.path.commonpath([source.item_name(i) for i in range(len(source))]))
    return root, [source.paths[i] for i in range(len(source))]


def _class_counts(source):
    labels = [source[i].label for i in range(len(source))]
    return np.bincount(labels, minlength=len(source.class_names))


def test_accents_in_two_spellings_are_one_class(tmp_path):
    """Folders that one system has copied, and another one made."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    _folder(tmp_path, train={decomposed: 1, "dog": 1}, test={composed: 1, "dog": 1})
    sources = open_folder(tmp_path)
    assert sources.test.class_names == (composed, "dog")
    assert [sources.train[k].label for k in range(2)] == [0, 1]
    (tmp_path / "test" / decomposed).mkdir()
    with pytest.raises(DataError, match="two that look alike") as caught:
        open_folder(tmp_path)
    assert r"'cafe\u0301'" in str(caught.value) and r"'caf\xe9'" in str(caught.value)


def test_a_class_of_other_files_says_what_they_are(tmp_path):
    _folder(tmp_path, train={"a": 1}, test={"a": 1})
    (tmp_path / "train/b").mkdir()
    for number in range(3):
        (tmp_path / f"train/b/{number}.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"got 3 \.gif; convert them, or remove the folder if"):
        open_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "TIFF"])
def test_other_files_that_pillow_reads_are_images(tmp_path, suffix):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.new("RGB", (8, 8), (10 * k, 0, 200)).save(tmp_path / name / f"{k}.{suffix}")
    dataset = load("folder", data_dir=str(tmp_path))
    assert len(dataset.train) == 8 and len(dataset.test) == 2
    assert abs(int(dataset.train.images[..., 2].min()) - 200) < 12


def test_classes_and_splits_are_found_in_the_order_of_their_names(tmp_path, capsys):
    _folder(tmp_path, train={"dog": 2, "cat": 1, "B": 1}, test={"dog": 1, "B": 2})
    folder = open_folder(tmp_path)
    assert folder.train.class_names == folder.test.class_names == ("B", "cat", "dog")
    assert _names(folder.train)[1] == [
        "train/B/0.png",
        "train/cat/0.png",
        "train/dog/0.png",
        "train/dog/1.png",
    ]
    assert [folder.train[i].label for i in range(4)] == [0, 1, 2, 2]
    assert [folder.test[i].label for i in range(3)] == [0, 0, 2]
    assert folder.test[2].image == (tmp_path / "test" / "dog" / "0.png").read_bytes()
    assert folder.test.item_name(2) == str(tmp_path / "test" / "dog" / "0.png")
    assert folder.name == tmp_path.name
    assert capsys.readouterr().err == ""


def test_names_of_any_case_and_links_are_read_and_the_rest_passed_over(tmp_path, capsys):
    _save(tmp_path / "elsewhere" / "x.JPeG")
    for name in ("1.JPG", "2.jpeg", "3.Png", ".hidden.png"):
        _save(tmp_path / "train" / "a" / name)
    (tmp_path / "train" / "a" / "4.jpeg").symlink_to(tmp_path / "elsewhere" / "x.JPeG")
    (tmp_path / "train" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "a" / "more").mkdir()
    for name in ("notes.txt", "list.TXT", "README", "run.py"):
        (tmp_path / "train" / "a" / name).write_text("raise SystemExit")
    (tmp_path / "train" / "readme.txt").write_text("beside the classes")
    _folder(tmp_path, val={"a": 1})
    folder = open_folder(tmp_path)
    assert _names(folder.train)[1] == [
        *(f"train/a/{name}" for name in ("1.JPG", "2.jpeg", "3.Png", "4.jpeg")),
        "train/b/x.JPeG",
    ]
    told = capsys.readouterr().err
    assert "1 .py, 2 .txt, 1 folder, 1 without suffix" in told and told.count("\n") == 1


def test_test_comes_before_val_and_validation(tmp_path):
    _folder(tmp_path, train={"a": 1}, validation={"a": 3})
    assert len(open_folder(tmp_path).test) == 3
    _folder(tmp_path, val={"a": 2})
    assert len(open_folder(tmp_path).test) == 2
    _folder(tmp_path, test={"a": 1})
    assert len(open_folder(tmp_path).test) == 1


def test_without_test_images_a_fifth_of_each_class_is_held_out(tmp_path, capsys):
    counts = {"a": 14, "b": 2, "c": 1, "d": 5}
    _folder(tmp_path, train=counts)
    folder = open_folder(tmp_path)
    told = capsys.readouterr().err
    assert "there is no test/; 4 of 22 training images are held out as test images" in told
    np.testing.assert_array_equal(_class_counts(folder.test), [2, 1, 0, 1])
    np.testing.assert_array_equal(_class_counts(folder.train), [12, 1, 1, 4])
    train, test = (_names(part)[1] for part in (folder.train, folder.test))
    assert len(set(train + test)) == 22
    assert (train, test) == tuple(_names(p)[1] for p in (open_folder(tmp_path).train, folder.test))
    assert test[:2] != ["train/a/0.png", "train/a/1.png"]  # neighbours often look alike


def test_classes_alone_are_split_as_training_images_without_test_images_are(tmp_path, capsys):
    for name, count in {"b": 10, "a": 5}.items():
        for index in range(count):
            _save(tmp_path / name / f"{index}.png")
    folder = open_folder(tmp_path)
    assert "3 of 15 training images are held out" in capsys.readouterr().err
    assert folder.train.class_names == ("a", "b")
    np.testing.assert_array_equal(_class_counts(folder.test), [1, 2])
    names = _names(folder.train)[1] + _names(folder.test)[1]
    assert sorted(names) == sorted(
        [*(f"a/{i}.png" for i in range(5)), *(f"b/{i}.png" for i in range(10))]
    )
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="got a/, b/, test/ and no train/"):
        open_folder(tmp_path)


def test_a_chosen_part_of_a_folder_is_read_at_the_size_of_all(tmp_path):
    _folder(tmp_path, train={"a": 4}, test={"a": 2})
    whole = load("folder", data_dir=str(tmp_path))
    chosen = load(
        "folder", data_dir=str(tmp_path), choose=lambda *_: (np.array([1, 3]), np.array([0]))
    )
    np.testing.assert_array_equal(chosen.train.images, whole.train.images[[1, 3]])
    np.testing.assert_array_equal(chosen.test.images, whole.test.images[[0]])


def test_what_is_no_such_folder_is_refused(tmp_path):
    def refused(message, folder=tmp_path):
        with pytest.raises(DataError, match=message):
            load("folder", data_dir=str(folder))

    refused("data_dir: expected a folder with train/<class>/.*'', which is empty", "")
    refused("got '.*nowhere', which is not a folder", tmp_path / "nowhere")
    refused("got no folder and no train/")
    (tmp_path / "cats").mkdir()
    refused("got cats/ and no train/")
    (tmp_path / "train").mkdir()
    refused("train: expected a folder for every class, got none")
    (tmp_path / "train" / "cat").mkdir()
    refused(r"cat: expected images \(.jpg, .*\) of this class, got none")
    _folder(tmp_path, train={"cat": 1})
    refused("at least two training images of a class")
    _folder(tmp_path, test={"dog": 1, "cow": 1})
    refused("test: expected classes that train/ has, got also cow/, dog/;")
    _folder(tmp_path, train={"dog": 1, "cow": 1})
    for image in (tmp_path / "test").glob("*/*"):
        image.unlink()
    refused("test: expected images .*, got none")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=f"{tmp_path}: cannot list the folder: .*Permission denied"):
        open_folder(tmp_path)


def test_images_of_one_size_are_loaded_as_they_are(tmp_path):
    sizes = {"train/a/0.png": 1, "train/b/0.png": 2, "test/a/0.png": 3}
    for path, seed in sizes.items():
        _save(tmp_path / path, 6, 10, seed=seed)
    dataset = load("folder", data_dir=str(tmp_path))
    assert dataset.image_shape == (6, 10, 3) and dataset.class_names == ("a", "b")
    assert (dataset.name, dataset.skipped) == (tmp_path.name, 0)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1])
    for got, path in zip([*dataset.train.images, *dataset.test.images], sizes, strict=True):
        np.testing.assert_array_equal(got, np.asarray(Image.open(tmp_path / path)))


def test_images_of_many_sizes_and_modes_get_the_median_side(tmp_path, capsys):
    modes = ["RGB", "L", "P", "RGBA", "1"]
    for index, (mode, height) in enumerate(zip(modes, (20, 30, 41, 60, 90), strict=True)):
        _save(tmp_path / "train" / "a" / f"{index}.png", height, 100, mode, seed=index)
    _save(tmp_path / "test" / "a" / "0.jpg", 300, 200, "CMYK")
    dataset = load("folder", data_dir=str(tmp_path))
    assert dataset.image_shape == (40, 40, 3)  # the median 41, to a multiple of 8
    told = "data: images of 5 sizes, 1 of 5 that were looked at of 20x100: all are brought to 40x40"
    assert told in capsys.readouterr().err
    for index in (1, 4):  # grey stays grey
        assert (dataset.train.images[index].min(-1) == dataset.train.images[index].max(-1)).all()
    assert load("folder", data_dir=str(tmp_path), image_size=7).image_shape == (7, 7, 3)


@pytest.mark.parametrize(("sides", "found"), [((900, 1000), 224), ((3, 5), 8), ((64, 64), 64)])
def test_a_found_size_is_from_8_to_224(tmp_path, sides, found):
    for index, side in enumerate(sides):
        _save(tmp_path / "train" / "a" / f"{index}.jpg", side, side + index)
    _folder(tmp_path, test={"a": 1})
    assert memory.find_image_size(open_folder(tmp_path).train) == (found, found)


def test_a_broken_image_stops_or_is_skipped_and_counted(tmp_path, capsys):
    _folder(tmp_path, train={"a": 3, "b": 2}, test={"a": 1, "b": 1})
    whole = load("folder", data_dir=str(tmp_path))
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"no image")
    (tmp_path / "train" / "b" / "1.png").unlink()
    (tmp_path / "train" / "b" / "1.png").symlink_to(tmp_path / "gone.png")
    half = (tmp_path / "test" / "b" / "0.png").read_bytes()[:-60]
    (tmp_path / "test" / "b" / "0.png").write_bytes(half)
    with pytest.raises(BrokenImageError, match="train/a/1.png: cannot decode .*broken='skip'"):
        load("folder", data_dir=str(tmp_path))
    dataset = load("folder", data_dir=str(tmp_path), broken="skip", image_size=8)
    assert dataset.skipped == 3
    np.testing.assert_array_equal(dataset.train.images, whole.train.images[[0, 2, 3]])
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1])
    np.testing.assert_array_equal(dataset.test.labels, [0])
    told = capsys.readouterr().err
    for name in ("train/a/1.png: cannot decode", "train/b/1.png: cannot read", "test/b/0.png"):
        assert told.count(name) == 1
    assert "broken='skip'" not in told
    (tmp_path / "test" / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="test/a/0.png: expected readable images, got none"):
        load("folder", data_dir=str(tmp_path), broken="skip")


def test_mistaken_arguments_are_refused(tmp_path):
    _folder(tmp_path, train={"a": 2}, test={"a": 1})
    with pytest.raises(DataError, match="broken: expected 'stop' or 'skip', got 'ignore'"):
        load("folder", data_dir=str(tmp_path), broken="ignore")
    with pytest.raises(DataError, match="image_size: expected pixels, or 0 .*got -1"):
        load("folder", data_dir=str(tmp_path), image_size=-1)
    with pytest.raises(DataError, match="image_size: expected 0 for 'digits'"):
        load("digits", image_size=8)
    with pytest.raises(DataError, match="'digits': expected one to stream"):
        open_sources("digits")


def test_long_reading_reports_progress(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "_REPORT_SECONDS", 0.0)
    monkeypatch.setattr(memory, "_CHUNK", 2)
    _folder(tmp_path, train={"a": 3}, test={"a": 1})
    assert len(load("folder", data_dir=str(tmp_path)).train) == 3
    assert f"{tmp_path.name} train: 2 of 3 images read" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path):
    _folder(tmp_path, train={"a": 2}, test={"a": 1})
    folder = open_sources("folder", data_dir=str(tmp_path))
    assert memory.num_bytes(folder, (8, 8)) == 3 * 8 * 8 * 3
    assert len(memory.load_sources(folder, max_bytes=576).train) == 2
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"never read")
    with pytest.raises(DataError, match="at most 575 bytes together, got 576 at 8x8.*stream"):
        memory.load_sources(folder, size=(8, 8), max_bytes=575)


@pytest.fixture(scope="module")
def cifar_folder(tmp_path_factory):
    """A hundred real CIFAR-10 images, as a user's folder."""
    archive = pathlib.Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip(f"needs {archive.name} in {archive.parent}, which is not here")
    root = tmp_path_factory.mktemp("cifar")
    with tarfile.open(archive) as tar:
        for number, member in enumerate(m for m in tar if m.isfile()):
            if number % 600 == 0:
                tar.extract(member, root, filter="data")
    return root


def test_real_images_are_read_as_pillow_reads_them(cifar_folder):
    dataset = load("folder", data_dir=str(cifar_folder))
    assert dataset.image_shape == (32, 32, 3)
    assert len(dataset.train) + len(dataset.test) == 100
    for split, name in ((dataset.train, "train"), (dataset.test, "test")):
        paths = sorted((cifar_folder / name).glob("*/*.jpg"))
        np.testing.assert_array_equal(split.images, [np.asarray(Image.open(p)) for p in paths])
        assert [dataset.class_names[y] for y in split.labels] == [p.parent.name for p in paths]
