"""A user's own folder of images: ``train/<class>/*.jpg``, or ``<class>/*.jpg`` alone."""

import collections
import dataclasses
import os
import pathlib
import sys
import unicodedata
from collections.abc import Iterable

import numpy as np

from mixkd_jax.data.types import SUFFIXES, DataError, Item, Sources

_TEST_NAMES = ("test", "val", "validation")  # the first one that is there
_HELD_OUT = 0.2  # of each class's training images, if there are no test images
_LAYOUT = (
    "train/<class>/*.jpg (or .png, ...) and test/<class>/*.jpg, or <class>/*.jpg of two classes "
    "or more"
)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files and their labels; a `Source`.

    Attributes:
        root: Folder that `paths` start from.
        class_names: One a class, in the order of the labels.
        paths: One a file.
        labels: int32 [N].
    """

    root: pathlib.Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        """Returns the number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        """Returns a file's bytes and its label."""
        return Item((self.root / self.paths[index]).read_bytes(), int(self.labels[index]))

    def item_name(self, index: int) -> str:
        """Returns the file's path."""
        return str(self.root / self.paths[index])

    def subset(self, indices: np.ndarray) -> "ImageFiles":
        """Returns the files at ``indices`` [M], in that order."""
        paths = tuple(self.paths[index] for index in indices)
        return dataclasses.replace(self, paths=paths, labels=self.labels[indices])


def open_folder(path: str | os.PathLike[str]) -> Sources:
    """Lists a folder's images; opens none of them.

    The classes are the folders in ``train``, in the order of their names; if there is neither
    such a folder nor one of test images, they are the folders of the root. The test images are in
    ``test``, or else ``val`` or ``validation``; a class may have none there. Without any of these,
    a fifth of each class's training images, rounded down but at least one if there are two, is
    held out for testing: a shuffle of the sorted file names with a fixed seed chooses them, the
    same in every run, and stderr tells so. Links are followed, names that start with a dot are
    passed over, and stderr tells how many files of other kinds are.

    Raises:
        DataError: If the folder is not laid out like this or can't be read.
    """
    root = pathlib.Path(path).expanduser()
    if not os.fspath(path) or not root.is_dir():
        raise DataError(
            f"data_dir: expected a folder with {_LAYOUT}, got {os.fspath(path)!r}, "
            f"which is {'not a folder' if os.fspath(path) else 'empty'}"
        )
    try:
        names = _folders(root)
        test_name = next((name for name in _TEST_NAMES if name in names), None)
        if "train" not in names and (test_name or len(names) < 2):
            raise DataError(f"{root}: expected {_LAYOUT}, got {_found(names)} and no train/")
        train = _list_split(root, "train" if "train" in names else "", None)
        if test_name:
            test = _list_split(root, test_name, train.class_names)
        else:
            train, test = _hold_out(train)
    except OSError as error:
        raise DataError(f"{root}: cannot list the folder: {error}") from None
    return Sources(root.resolve().name, train, test)


def _list_split(root: pathlib.Path, split: str, class_names: tuple[str, ...] | None) -> ImageFiles:
    """Lists a split; `class_names` are those it may have, or None to find them."""
    folder = root / split
    found = _class_folders(folder)
    if not found:
        raise DataError(f"{folder}: expected a folder for every class, got none; see {_LAYOUT}")
    names = tuple(found) if class_names is None else class_names
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise DataError(
            f"{folder}: expected classes that train/ has, got also {_found(unknown)}; "
            f"add training images of them, or remove them here"
        )
    paths, labels, others = [], [], collections.Counter()
    for name, own in found.items():
        own_others = collections.Counter()
        files = _list_images(folder / own, own_others)
        if not files and class_names is None:
            raise DataError(
                f"{folder / own}: expected images ({', '.join(SUFFIXES)}) of this class, got "
                f"{_kinds(own_others) or 'none'}; convert them, or remove the folder if it is no "
                "class"
            )
        others += own_others
        paths += [str(pathlib.PurePosixPath(split, own, file)) for file in files]
        labels += [names.index(name)] * len(files)
    if not paths:
        raise DataError(f"{folder}: expected images ({', '.join(SUFFIXES)}), got none")
    if others:
        print(f"{folder}: passed over what is no image: {_kinds(others)}", file=sys.stderr)
    return ImageFiles(root, tuple(names), tuple(paths), np.array(labels, np.int32))


def _kinds(others: collections.Counter) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(others.items()))


def _folders(folder: pathlib.Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def _class_folders(folder: pathlib.Path) -> dict[str, str]:
    """Returns the folders by the names of their classes, sorted.

    Systems write one accented letter in two ways (Unicode's NFC and NFD), which look alike.
    """
    found: dict[str, str] = {}
    for name in _folders(folder):
        shown = unicodedata.normalize("NFC", name)
        if shown in found:
            raise DataError(
                f"{folder}: expected classes of different names, got two that look alike, "
                f"{ascii(found[shown])} and {ascii(name)}; put the images of both into one"
            )
        found[shown] = name
    return dict(sorted(found.items()))


def _list_images(folder: pathlib.Path, others: collections.Counter) -> list[str]:
    """Returns the names of the image files, sorted, and counts the others by their kind."""
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if suffix in SUFFIXES and not entry.is_dir():
                images.append(entry.name)
            else:
                others["folder" if entry.is_dir() else suffix or "without suffix"] += 1
    return sorted(images)


def _hold_out(files: ImageFiles) -> tuple[ImageFiles, ImageFiles]:
    """Divides into training and test images, class by class."""
    test = []
    for label in range(len(files.class_names)):
        members = np.flatnonzero(files.labels == label)
        count = max(int(_HELD_OUT * len(members)), min(1, len(members) - 1))
        test.append(np.sort(np.random.default_rng(0).permutation(members)[:count]))
    held_out = np.concatenate(test)
    if not len(held_out):
        raise DataError(
            f"{files.root}: expected test images in test/<class>, or at least two training images "
            f"of a class to hold one out, got one of each class"
        )
    print(
        f"{files.root}: there is no test/; {len(held_out):,} of {len(files):,} training images are "
        f"held out as test images, {_HELD_OUT:.0%} of each class, the same in every run",
        file=sys.stderr,
    )
    rest = np.setdiff1d(np.arange(len(files)), held_out)
    return files.subset(rest), files.subset(held_out)


def _found(names: Iterable[str]) -> str:
    """Returns the first few names, or that there are none."""
    names = list(names)
    if not names:
        return "no folder"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"{name}/" for name in names[:5]) + more
