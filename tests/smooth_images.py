"""Images for comparisons of models."""

import numpy as np


def smooth_images(count, size):
    """Returns pixels with structure at every scale: features of plain noise would be all alike."""
    rng = np.random.default_rng(2)
    total = np.zeros((count, size, size, 3))
    for cells in (1, 2, 4, 8, 16):
        coarse = rng.uniform(-1, 1, (count, cells, cells, 3))
        total += coarse.repeat(size // cells, 1).repeat(size // cells, 2)
    return np.clip(128 + 60 * total, 0, 255).astype("float32")
