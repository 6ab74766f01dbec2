"""Images a second that training gets from a stream: read, decoded, cropped, mirrored and paired.

    python benchmarks/decode.py --out=decode.json

JPEG images of quality 90 and two sizes, in memory: that of ImageNet's average, and one whose
shorter side is what is cropped from. Each size is timed with one thread and with one for each core,
in turn; the median of the rounds is told. Needs `pip install -e ".[stream]"`.
"""

from __future__ import annotations

import argparse
import datetime
import io
import os
import platform
import time
from typing import Any

import numpy as np
import PIL
import tabulate
from PIL import Image

from mixkd_jax.data import Item
from mixkd_jax.data.stream import Batches, Stream
from mixkd_jax.files import write_json

SIZES = ((500, 375), (341, 256))  # width and height


class Pictures:
    """A source of so many JPEG files in memory: smooth fields with some noise, as photos are."""

    class_names = ("any",)

    def __init__(self, size: tuple[int, int], number: int):
        """Draws and encodes them."""
        rng = np.random.default_rng(0)
        self._files = []
        for _ in range(number):
            coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
            noisy = smooth + rng.normal(0, 12, smooth.shape)
            file = io.BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            self._files.append(file.getvalue())

    def __len__(self) -> int:
        """Returns their number."""
        return len(self._files)

    def __getitem__(self, index: int) -> Item:
        """Returns a file and its class."""
        return Item(self._files[index], 0)

    def item_name(self, index: int) -> str:
        """Returns a name for messages."""
        return f"picture {index}"

    @property
    def kilobytes(self) -> float:
        """Returns the mean size of a file."""
        return float(np.mean([len(file) for file in self._files])) / 1000


def main() -> None:
    """Measures, prints a table, and writes JSON if asked to."""
    options = parse()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores
    sides = {
        (f"{width}x{height}", threads): (Pictures((width, height), options.batch_size), threads)
        for width, height in SIZES
        for threads in sorted({1, cores})
    }
    seconds: dict[Any, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, (source, threads) in sides.items():
            seconds[name].append(_seconds(source, threads, options))
    rows = [
        {
            "stored": name,
            "kB": sides[name, threads][0].kilobytes,
            "threads": threads,
            "images/s": 1 / float(np.median(seconds[name, threads])),
        }
        for name, threads in sides
    ]
    print(tabulate.tabulate(rows, headers="keys", floatfmt=".0f"))
    if options.out:
        found = {
            "rows": rows,
            "options": {name: value for name, value in vars(options).items() if name != "out"},
            "machine": platform.machine(),
            "cores": cores,
            "pillow": PIL.__version__,
            "date": datetime.date.today().isoformat(),
        }
        write_json(options.out, found)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--image-size", type=int, default=224, help="pixels of a crop")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=5, help="that are timed in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


def _seconds(source: Pictures, threads: int, options: argparse.Namespace) -> float:
    """Returns the seconds that an image takes, after a first batch."""
    stream = Stream(source, image_size=options.image_size, workers=threads, prefetch=1)
    batches = Batches(stream, batch_size=options.batch_size, seed=0, pairs=True)
    feed = batches.start(first_step=0)
    try:
        next(feed)
        begin = time.perf_counter()
        for _ in range(options.batches):
            next(feed)
        return (time.perf_counter() - begin) / (options.batches * options.batch_size)
    finally:
        feed.close()


if __name__ == "__main__":
    main()
