"""Which images the vicinal analysis mixes; the same seed gives the same pairs to every model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Pairs(NamedTuple):
    """Pairs of images of one split: x̃ = lam · x_i + (1 - lam) · x_j.

    Attributes:
      images: i32[M], the images that occur, as indices of the split.
      labels: i32[M], their classes.
      i: i32[n], positions in `images`.
      j: i32[n], likewise; never that of i.
      lam: f32[n], from 0 to 1.
    """

    images: np.ndarray
    labels: np.ndarray
    i: np.ndarray
    j: np.ndarray
    lam: np.ndarray

    @property
    def same(self) -> np.ndarray:
        """bool[n], whether both images of a pair are of one class."""
        return self.labels[self.i] == self.labels[self.j]

    def part(self, start: int, stop: int) -> tuple[np.ndarray, Pairs]:
        """Returns some of the pairs by themselves, and where their images are in `images`.

        Args:
          start: the first of these pairs.
          stop: the one after the last.

        Returns:
          i32[m], rising, and the pairs, with m images.
        """
        i, j = self.i[start:stop], self.j[start:stop]
        where = np.unique(np.concatenate([i, j]))
        return where, Pairs(
            images=self.images[where],
            labels=self.labels[where],
            i=np.searchsorted(where, i).astype(np.int32),
            j=np.searchsorted(where, j).astype(np.int32),
            lam=self.lam[start:stop],
        )

    def on_path(self, lam: np.ndarray) -> Pairs:
        """Returns each pair at every `lam` f32[G]: all pairs at the first λ, then at the next."""
        times = len(lam)
        return self._replace(
            i=np.tile(self.i, times),
            j=np.tile(self.j, times),
            lam=np.repeat(lam, len(self.i)).astype(np.float32),
        )


def draw_pairs(
    rng: np.random.Generator,
    total: int,
    labels: Callable[[np.ndarray], np.ndarray],
    num_pairs: int,
) -> Pairs:
    """Draws distinct ordered pairs of different images, with λ ~ U(0, 1).

    Images are put in a random order on a circle; each is paired with the next one, then with the
    one after that, and so on until there are enough pairs. So every image is in as many pairs as
    any other, give or take two, and a split that is smaller than `num_pairs` is used up evenly.

    Args:
      rng: decides everything.
      total: N, images of the split.
      labels: from indices to classes i32.
      num_pairs: n; fewer if the split has fewer than that, N (N - 1).

    Raises:
      ValueError: if there are fewer than two images.
    """
    if total < 2:
        raise ValueError(f"total: expected at least two images to mix, got {total}")
    images = rng.permutation(total)[:num_pairs].astype(np.int32)
    if len(images) < 2:
        raise ValueError(f"num_pairs: expected at least 2, got {num_pairs}")
    count = len(images)
    k = np.arange(min(num_pairs, count * (count - 1)))
    return Pairs(
        images=images,
        labels=np.asarray(labels(images), np.int32),
        i=(k % count).astype(np.int32),
        j=((k + 1 + k // count) % count).astype(np.int32),
        lam=rng.random(len(k), np.float32),
    )
