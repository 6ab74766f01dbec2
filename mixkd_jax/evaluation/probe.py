"""What the models of a run are compared on, and a model's predictions for it.

Predictions for pairs are made some pairs at a time, when they are asked for. So the memory that an
analysis takes doesn't grow with the number of pairs; what the teacher predicts, which is asked for
beside each student, is kept as far as there is room, and made again beyond.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mixkd_jax.evaluation.pairs import Pairs, draw_pairs
from mixkd_jax.evaluation.predict import Predict, Predictions, predict_all
from mixkd_jax.models.network import Variables
from mixkd_jax.training.feeds import Images

PATH = np.linspace(0, 1, 21, dtype=np.float32)
_PAIRS_AT_ONCE = 2000
_PATHS_AT_ONCE = 200
_KEPT_BYTES = 2**29


class Part(NamedTuple):
    """Some of a split's pairs.

    Attributes:
      where: i32[m], places of their images among those of all pairs of the split.
      pairs: these pairs, whose `images` are theirs alone.
    """

    where: np.ndarray
    pairs: Pairs


@dataclasses.dataclass(frozen=True)
class Probe:
    """What the models of a run are compared on.

    Attributes:
      splits: the images that are mixed, by name ("train", "test").
      pairs: of each split.
      parts: the same pairs, some at a time.
      paths: the first pairs, followed along λ = 0, 0.05, ... 1, some at a time.
      held_out: images to fit a temperature on; None if there are none.
      corrupted: what `corruptions.corrupt_all` made of test images; None leaves them out.
      num_bins: bins of confidence.
      seed: of the resamples and shuffles.
    """

    splits: Mapping[str, Images]
    pairs: Mapping[str, Pairs]
    parts: Mapping[str, tuple[Part, ...]]
    paths: Mapping[str, tuple[Pairs, ...]]
    held_out: Images | None
    corrupted: Images | None
    num_bins: int
    seed: int


def create_probe(
    splits: Mapping[str, Images],
    held_out: Images | None,
    corrupted: Images | None,
    *,
    num_pairs: int,
    path_pairs: int,
    num_bins: int,
    seed: int,
) -> Probe:
    """Draws the pairs of every split; see `Probe`. `path_pairs` of them are followed."""
    pairs = {
        name: draw_pairs(np.random.default_rng([seed, k]), len(split), split.labels, num_pairs)
        for k, (name, split) in enumerate(splits.items())
    }
    parts = {name: _parts(own, len(own.i), _PAIRS_AT_ONCE) for name, own in pairs.items()}
    paths = {
        name: tuple(
            part.pairs.on_path(PATH)
            for part in _parts(own, min(path_pairs, len(own.i)), _PATHS_AT_ONCE)
        )
        for name, own in pairs.items()
    }
    return Probe(splits, pairs, parts, paths, held_out, corrupted, num_bins, seed)


def _parts(pairs: Pairs, count: int, at_once: int) -> tuple[Part, ...]:
    """Divides the first `count` pairs into as few parts as it takes, of nearly one size."""
    number = -(-count // at_once)
    bounds = np.linspace(0, count, number + 1).round().astype(int)
    return tuple(Part(*pairs.part(*own)) for own in zip(bounds, bounds[1:], strict=False))


class PairPredictions(NamedTuple):
    """A model's predictions for pairs: for `pairs.images` and for the n mixtures."""

    real: Predictions
    mixed: Predictions


class ProbePredictions:
    """A model's predictions for a probe."""

    def __init__(self, predict: Predict, variables: Variables, probe: Probe, *, keep: bool):
        """Predicts nothing yet.

        Args:
          predict: from variables and images to predictions.
          variables: of the model; they are held.
          probe: what is predicted.
          keep: whether predictions for pairs are kept, for a model whose are needed repeatedly; at
            most 512 MiB are.
        """
        self._predict = predict
        self._variables = variables
        self._probe = probe
        self._room = _KEPT_BYTES if keep else 0
        self._kept: dict[tuple[str, str, int], PairPredictions] = {}

    def part(self, split: str, k: int) -> PairPredictions:
        """Returns the predictions for `probe.parts[split][k]`."""
        return self._once(("part", split, k), self._probe.parts[split][k].pairs)

    def path(self, split: str, k: int) -> PairPredictions:
        """Returns the predictions for `probe.paths[split][k]`."""
        return self._once(("path", split, k), self._probe.paths[split][k])

    def mixed(self, split: str, which: np.ndarray) -> np.ndarray:
        """Returns the logits f32[m, C] for some of the mixtures, i[m], of `probe.pairs[split]`."""
        pairs = self._probe.pairs[split]
        chosen = pairs._replace(i=pairs.i[which], j=pairs.j[which], lam=pairs.lam[which])
        return self._mixtures(split, chosen).logits

    def all_of(self, images: Images) -> np.ndarray:
        """Returns the logits f32[N, C] of all of `images`."""
        return predict_all(self._predict, self._variables, images)

    def _once(self, key: tuple[str, str, int], pairs: Pairs) -> PairPredictions:
        """Predicts for pairs of the split key[1], or returns what was kept under that key."""
        if key in self._kept:
            return self._kept[key]
        ones = np.ones(len(pairs.images), np.float32)
        images = self._probe.splits[key[1]]
        real = self._predict(self._variables, images, pairs.images, pairs.images, ones)
        found = PairPredictions(real, self._mixtures(key[1], pairs))
        size = sum(array.nbytes for own in found for array in own if array is not None)
        if size <= self._room:
            self._room -= size
            self._kept[key] = found
        return found

    def _mixtures(self, split: str, pairs: Pairs) -> Predictions:
        i, j = pairs.images[pairs.i], pairs.images[pairs.j]
        return self._predict(self._variables, self._probe.splits[split], i, j, pairs.lam)
