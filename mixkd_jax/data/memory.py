"""Images of any size, resized to one and read into host memory."""

import collections
import concurrent.futures
import os
import sys
import time

import numpy as np

from mixkd_jax.data import images
from mixkd_jax.data.images import Size
from mixkd_jax.data.types import (
    BrokenImageError,
    Choose,
    DataError,
    Dataset,
    Source,
    Sources,
    Split,
    Subset,
)

MAX_BYTES = 4 * 2**30
_SAMPLE = 1000  # images whose sizes are looked at
_LARGEST = 224  # pixels, of a size that is found for images of several sizes
_MULTIPLE = 8  # of such a size: networks halve it several times
_CHUNK = 1000
_REPORT_SECONDS = 5.0
_CHANNELS = 3


def find_image_size(source: Source, *, broken: str = "stop") -> Size:
    """Returns the height and width in pixels that a source's images are to be brought to.

    Looks at 1,000 images spread evenly over the source, or at all if there are fewer. If they all
    have one size, it is that. Otherwise it is a square of the median of their shorter sides, so
    that half of the images are not enlarged, rounded down to a multiple of 8, and at most 224; a
    line on stderr says so.

    Raises:
        BrokenImageError: If one of them is broken and `broken` is "stop".
        DataError: If all of them are broken.
    """
    check_broken(broken)
    sizes = collections.Counter()
    for index in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int)):
        try:
            sizes[images.read_size(source, int(index))] += 1
        except BrokenImageError:
            if broken == "stop":
                raise
    if not sizes:
        raise DataError(f"{source.item_name(0)}: expected a readable image, got none in the source")
    if len(sizes) == 1:
        return next(iter(sizes))
    median = int(np.median([min(size) for size in sizes.elements()]))
    side = min(_LARGEST, max(_MULTIPLE, median // _MULTIPLE * _MULTIPLE))
    (often, count), total = sizes.most_common(1)[0], sum(sizes.values())
    print(
        f"data: images of {len(sizes):,} sizes, {count:,} of {total:,} that were looked at of "
        f"{often[0]}x{often[1]}: all are brought to {side}x{side}; image_size sets another",
        file=sys.stderr,
    )
    return side, side


def num_bytes(sources: Sources, size: Size) -> int:
    """Returns the memory that both splits take at an image size, in bytes."""
    return (len(sources.train) + len(sources.test)) * size[0] * size[1] * _CHANNELS


def load_sources(
    sources: Sources,
    *,
    size: Size | None = None,
    max_bytes: int = MAX_BYTES,
    broken: str = "stop",
    choose: Choose | None = None,
) -> Dataset:
    """Reads all images into memory, as RGB.

    Each is resized until it covers the image size, keeping its proportions, and cropped in the
    middle; an image of that size already stays as it is.

    Args:
        sources: Training and test images.
        size: Height and width in pixels; None finds them, see `find_image_size`.
        max_bytes: The most memory that the images may take.
        broken: "stop" at an image that can't be read or decoded, or "skip" it and count it.
        choose: See `mixkd_jax.data.load`; the size is found before.

    Raises:
        BrokenImageError: Where `broken` is "stop".
        DataError: If the images take more memory, or none can be read.
    """
    check_broken(broken)
    size = size or find_image_size(sources.train, broken=broken)
    if choose is not None:
        train, test = choose(len(sources.train), len(sources.test))
        chosen = Subset(sources.train, train), Subset(sources.test, test)
        sources = Sources(sources.name, *chosen)
    needed = num_bytes(sources, size)
    if needed > max_bytes:
        raise DataError(
            f"{sources.name}: expected images of at most {max_bytes:,} bytes together, got "
            f"{needed:,} at {size[0]}x{size[1]} pixels; stream them, or choose a smaller image_size"
        )
    train = _read_split(f"{sources.name} train", sources.train, size, broken)
    test = _read_split(f"{sources.name} test", sources.test, size, broken)
    skipped = len(sources.train) + len(sources.test) - len(train) - len(test)
    return Dataset(sources.name, sources.train.class_names, train, test, skipped)


def check_broken(broken: str) -> None:
    """Raises DataError unless `broken` says what to do with a broken image."""
    if broken not in ("stop", "skip"):
        raise DataError(f"broken: expected 'stop' or 'skip', got {broken!r}")


def _read_split(name: str, source: Source, size: Size, broken: str) -> Split:
    pixels = np.empty((len(source), *size, _CHANNELS), np.uint8)
    labels = np.empty(len(source), np.int32)

    def fill(index: int) -> bool:
        try:
            image, labels[index] = images.read(source, index)
        except BrokenImageError as error:
            if broken == "stop":
                raise
            images.tell_skipped(error)
            return False
        pixels[index] = images.center_crop(image, size, size)
        return True

    whole, reported = [], time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow frees the GIL
        for start in range(0, len(source), _CHUNK):
            whole += threads.map(fill, range(start, min(start + _CHUNK, len(source))))
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                print(f"{name}: {len(whole):,} of {len(source):,} images read", file=sys.stderr)
    if not any(whole):
        raise DataError(f"{source.item_name(0)}: expected readable images, got none in this split")
    return Split(pixels, labels) if all(whole) else Split(pixels[whole], labels[whole])
