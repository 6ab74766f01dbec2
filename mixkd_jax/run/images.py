"""The images of a run, from its config: on the devices if they fit, streamed if not."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

from mixkd_jax import config, data
from mixkd_jax.config import ConfigError
from mixkd_jax.data.parts import Parts, add_noise, divide, needed
from mixkd_jax.data.types import Source, Sources, Subset
from mixkd_jax.training.feeds import Images, OnDevice, Streamed


@dataclasses.dataclass(frozen=True)
class RunImages:
    """What a run's models learn from and are measured on.

    Attributes:
      name: of the data set.
      class_names: of the C classes, in the order of the labels.
      teacher: what the teacher learns from.
      student: what the students learn from.
      validation: held-out training images; None if there are none.
      test: what results are measured on.
      resize: height and width that a test image of any size is resized to cover before its middle
        is taken, so that a file is measured as a model sees it elsewhere.
      skipped: broken images that were left out; streams find theirs while training.
    """

    name: str
    class_names: tuple[str, ...]
    teacher: Images
    student: Images
    validation: Images | None
    test: Images
    resize: tuple[int, int]
    skipped: int = 0

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def about(self) -> dict[str, Any]:
        """Returns what a run's folder tells of them: names and numbers."""
        parts = ("teacher", "student", "validation", "test")
        sizes = {part: len(getattr(self, part) or ()) for part in parts}
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "image_shape": list(self.test.image_shape),
            "resize": list(self.resize),
            **sizes,
            "skipped": self.skipped,
        }


def load_images(
    settings: config.Data, seed: int, mesh: Mesh, dataset: data.Dataset | None = None
) -> RunImages:
    """Loads or opens the data of a config.

    Args:
      settings: which data, and what is done to them.
      seed: decides which images are in which part.
      mesh: the devices that get them.
      dataset: used instead of the one that `settings` name.

    Raises:
      ConfigError: for settings that don't fit the images.
      data.DataError: if the data can't be had.
    """
    if dataset is not None:
        parts = divide(dataset.name, len(dataset.train), len(dataset.test), settings, seed)
        return _put(dataset, parts, settings, seed, mesh)
    with _named_as_fields():
        return _load(settings, seed, mesh)


@contextlib.contextmanager
def _named_as_fields() -> Iterator[None]:
    """Lets an error that names an argument of `mixkd_jax.data` name the field that it is from."""
    try:
        yield
    except data.DataError as error:
        if not str(error).startswith("data_dir: "):
            raise
        raise data.DataError(f"config.data.dir{str(error).removeprefix('data_dir')}") from None


def _load(settings: config.Data, seed: int, mesh: Mesh) -> RunImages:
    sources, size = None, (0, 0)
    if settings.name == "folder" or settings.pipeline == "stream":
        sources = data.open_sources(
            settings.name, data_dir=settings.dir, download=settings.download
        )
        size = _size(settings, sources)
        if _is_streamed(settings, sources, size):
            return _stream(sources, size, settings, seed, mesh)
    return _put(*_read(sources, size, settings, seed), settings, seed, mesh)


def _read(
    sources: Sources | None, size: tuple[int, int], settings: config.Data, seed: int
) -> tuple[data.Dataset, Parts]:
    """Reads those images of a data set that are in any of its parts, and returns the parts."""
    read: list[Parts] = []
    name = settings.name if sources is None else sources.name

    def choose(num_train: int, num_test: int) -> tuple[np.ndarray, np.ndarray]:
        train, parts = needed(divide(name, num_train, num_test, settings, seed))
        read.append(parts)
        return train, parts.test

    if sources is None:
        options = {"data_dir": settings.dir, "download": settings.download}
        return data.load(settings.name, choose=choose, **options), read[0]
    from mixkd_jax.data import memory  # imports Pillow

    # Which images are broken is known once all are read, and only the others are divided.
    skips = settings.broken == "skip"
    dataset = memory.load_sources(
        sources,
        size=size,
        broken=settings.broken,
        choose=None if skips else choose,
    )
    if skips:
        read = [divide(name, len(dataset.train), len(dataset.test), settings, seed)]
    return dataset, read[0]


def _is_streamed(settings: config.Data, sources: Sources, size: tuple[int, int]) -> bool:
    """Whether to stream; with "auto", a folder that doesn't fit into memory is."""
    if settings.pipeline != "auto":
        return settings.pipeline == "stream"
    from mixkd_jax.data import memory  # imports Pillow

    return memory.num_bytes(sources, size) > memory.MAX_BYTES


def _size(settings: config.Data, sources: Sources) -> tuple[int, int]:
    from mixkd_jax.data import memory

    if settings.image_size:
        return settings.image_size, settings.image_size
    return memory.find_image_size(sources.train, broken=settings.broken)


def _put(
    dataset: data.Dataset, parts: Parts, settings: config.Data, seed: int, mesh: Mesh
) -> RunImages:
    """Copies a data set's parts to the devices."""
    _check_images(settings, dataset.name, dataset.image_shape[-1])
    side = min(dataset.image_shape[:2])
    if settings.crop_padding >= side:
        raise ConfigError(
            f"config.data.crop_padding: expected less than the {side} pixels of a side of the "
            f"images, got {settings.crop_padding}"
        )

    def noisy(split: data.Split, stream: int) -> OnDevice:
        rng = np.random.default_rng([seed, stream])
        return OnDevice.put(add_noise(split, settings.noise, rng), mesh)

    train, test = dataset.train, dataset.test
    return RunImages(
        name=dataset.name,
        class_names=dataset.class_names,
        teacher=OnDevice.put(train.subset(parts.teacher), mesh),
        student=noisy(train.subset(parts.student), 1),
        validation=noisy(train.subset(parts.validation), 2) if len(parts.validation) else None,
        test=noisy(test.subset(parts.test), 3),
        resize=dataset.image_shape[:2],
        skipped=dataset.skipped,
    )


def _stream(
    sources: Sources, size: tuple[int, int], settings: config.Data, seed: int, mesh: Mesh
) -> RunImages:
    """Opens a data set's parts, to be read batch by batch."""
    from mixkd_jax.data.stream import Stream  # imports Pillow

    if settings.noise:
        raise ConfigError(
            f"config.data.noise: expected 0 for streamed images, got {settings.noise:g}"
        )
    if settings.crop_padding:
        raise ConfigError(
            "config.data.crop_padding: expected 0 for streamed images, which config.data.crop "
            f"crops, got {settings.crop_padding}"
        )
    _check_images(settings, sources.name, 3)
    parts: Parts = divide(sources.name, len(sources.train), len(sources.test), settings, seed)
    stream = functools.partial(
        Stream,
        image_size=size,
        augmentation=settings.crop,
        resize=settings.resize or min(size),
        flip=settings.flip,
        workers=settings.workers,
        prefetch=settings.prefetch,
        broken=settings.broken,
    )

    def streamed(source: Source, indices: np.ndarray) -> Streamed:
        return Streamed(stream(Subset(source, indices)), mesh)

    return RunImages(
        name=sources.name,
        class_names=tuple(sources.train.class_names),
        teacher=streamed(sources.train, parts.teacher),
        student=streamed(sources.train, parts.student),
        validation=streamed(sources.train, parts.validation) if len(parts.validation) else None,
        test=(test := streamed(sources.test, parts.test)),
        resize=test.stream.resized,
    )


def check_counts(images: RunImages, analysis: config.Analysis) -> None:
    """Raises ConfigError for too few classes, or too few images for what is to be measured."""
    if images.num_classes < 2:
        raise ConfigError(
            f"config.data: expected images of two classes or more, got {images.num_classes} in "
            f"{images.name}"
        )
    parts = {"test": images.test, "training": images.student}
    for name, part in parts.items() if analysis.pairs else ():
        if len(part) < 2:
            raise ConfigError(
                f"config.analysis.pairs: expected 0 (no analysis) for {len(part)} {name} image, "
                f"which makes no pair, got {analysis.pairs}"
            )


def _check_images(settings: config.Data, name: str, channels: int) -> None:
    """Raises ConfigError for what doesn't fit the images."""
    for field in ("mean", "std"):
        numbers = getattr(settings, field)
        if len(numbers) not in (1, channels):
            raise ConfigError(
                f"config.data.{field}: expected 1 number or {channels}, one per channel of "
                f"{name}, got {len(numbers)}"
            )
    if settings.resize and not 0 < settings.image_size <= settings.resize:
        raise ConfigError(
            f"config.data.resize: expected at least config.data.image_size, the size of a crop, "
            f"and that above 0; got {settings.resize} and {settings.image_size}"
        )
    if settings.resize and settings.crop_padding:
        raise ConfigError(
            "config.data.crop_padding: expected 0 with config.data.resize, which crops already, "
            f"got {settings.crop_padding}"
        )
