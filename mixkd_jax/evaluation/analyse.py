"""The analysis of one model: from its predictions to what `analysis.json` holds.

`Probe` is what every model of a run predicts, `predict_probe` its predictions, which are bounded by
the number of pairs and images, and `analyse` makes numbers of them, of a student beside those of
its teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mixkd_jax import representation
from mixkd_jax.evaluation import between, calibrate, corruptions, examples
from mixkd_jax.evaluation.pairs import Pairs, draw_pairs
from mixkd_jax.evaluation.predict import Predict, Predictions, predict_all
from mixkd_jax.models.network import Variables
from mixkd_jax.training.feeds import Images

_FEWEST_INPUTS = 4  # of an unbiased CKA
PATH = np.linspace(0, 1, 21, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What the models of a run are compared on.

    Attributes:
      splits: the images that are mixed, by name ("train", "test").
      pairs: of each split.
      path_pairs: how many of the pairs are followed along λ = 0, 0.05, ... 1.
      held_out: images to fit a temperature on; None if there are none.
      corrupted: what `corruptions.corrupt_all` made of test images; None leaves them out.
      num_bins: bins of confidence.
      seed: of the resamples and shuffles.
    """

    splits: Mapping[str, Images]
    pairs: Mapping[str, Pairs]
    path_pairs: int
    held_out: Images | None
    corrupted: Images | None
    num_bins: int
    seed: int


class SplitPredictions(NamedTuple):
    """A model's predictions for one split: for its images, for pairs, and along paths."""

    real: Predictions
    mixed: Predictions
    path: Predictions


class ProbePredictions(NamedTuple):
    """A model's predictions for all of a probe.

    Attributes:
      splits: by name.
      test: logits f32[N, C] of all test images.
      held_out: logits of the held-out images, if any.
      corrupted: logits of the corrupted images, if any.
    """

    splits: dict[str, SplitPredictions]
    test: np.ndarray
    held_out: np.ndarray | None
    corrupted: np.ndarray | None


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
    """Draws the pairs of every split; see `Probe`."""
    pairs = {
        name: draw_pairs(np.random.default_rng([seed, k]), len(split), split.labels, num_pairs)
        for k, (name, split) in enumerate(splits.items())
    }
    return Probe(splits, pairs, path_pairs, held_out, corrupted, num_bins, seed)


def predict_probe(predict: Predict, variables: Variables, probe: Probe) -> ProbePredictions:
    """Returns a model's predictions for a probe."""

    def split_predictions(name: str, images: Images) -> SplitPredictions:
        pairs = probe.pairs[name]

        def mixtures(chosen: Pairs) -> Predictions:
            i, j = chosen.images[chosen.i], chosen.images[chosen.j]
            return predict(variables, images, i, j, chosen.lam)

        certain = np.ones(len(pairs.images), np.float32)
        return SplitPredictions(
            predict(variables, images, pairs.images, pairs.images, certain),
            mixtures(pairs),
            mixtures(pairs.on_path(probe.path_pairs, PATH)),
        )

    def if_any(images: Images | None) -> np.ndarray | None:
        return None if images is None else predict_all(predict, variables, images)

    return ProbePredictions(
        {name: split_predictions(name, images) for name, images in probe.splits.items()},
        predict_all(predict, variables, probe.splits["test"]),
        if_any(probe.held_out),
        if_any(probe.corrupted),
    )


def analyse(
    probe: Probe, model: ProbePredictions, teacher: ProbePredictions | None = None
) -> dict[str, Any]:
    """Returns what is known of a model: "splits" by name, "calibration", "corruption", "examples".

    Args:
      probe: what was predicted.
      model: the predictions.
      teacher: those of its teacher; None for a teacher itself.
    """
    held_out = corruption = None
    if model.held_out is not None and probe.held_out is not None:
        held_out = model.held_out, _all_labels(probe.held_out)
    if model.corrupted is not None and probe.corrupted is not None:
        labels = _all_labels(probe.corrupted)
        corruption = corruptions.robustness(model.corrupted, labels, num_bins=probe.num_bins)
    return {
        "splits": {
            name: _analyse_split(
                probe, name, own, None if teacher is None else teacher.splits[name]
            )
            for name, own in model.splits.items()
        },
        "calibration": calibrate.calibrate(
            model.test,
            _all_labels(probe.splits["test"]),
            held_out,
            num_bins=probe.num_bins,
            rng=np.random.default_rng([probe.seed, 100]),
        ),
        "corruption": corruption,
        "examples": examples.examples(
            probe.splits["test"],
            probe.pairs["test"],
            model.splits["test"][:2],
            None if teacher is None else teacher.splits["test"][:2],
        ),
    }


def _all_labels(images: Images) -> np.ndarray:
    return images.labels(np.arange(len(images)))


def _analyse_split(
    probe: Probe, name: str, model: SplitPredictions, teacher: SplitPredictions | None
) -> dict[str, Any]:
    pairs = probe.pairs[name]
    path = pairs.on_path(probe.path_pairs, PATH)
    path_pairs = len(path.i) // len(PATH)
    rng = np.random.default_rng([probe.seed, 101])
    values = _values(model, teacher, "mixed", pairs)
    values |= between.structure(model.real, model.mixed, pairs, rng)
    found: dict[str, Any] = {
        "images": len(pairs.images),
        "pairs": len(pairs.i),
        "path_pairs": path_pairs,
        "mixed": between.summarize(values, pairs),
        "path": {
            "lam": [round(float(lam), 2) for lam in PATH],
            **between.statistics(
                _values(model, teacher, "path", path),
                np.repeat(np.arange(len(PATH)), path_pairs),
                len(PATH),
            ),
        },
        "straightness": _straightness(model.path.features, path_pairs),
    }
    real = {"accuracy": model.real.logits.argmax(-1) == pairs.labels}
    if teacher is not None:
        real |= between.compare(teacher.real.logits, model.real.logits)
        found["cka"] = {
            part: _cka(getattr(teacher, part).features, getattr(model, part).features)
            for part in ("real", "mixed")
        }
    real = {name: np.asarray(value, np.float64) for name, value in real.items()}
    found["real"] = between.statistics(real, np.zeros(len(pairs.images), int))
    return found


def _straightness(features: np.ndarray | None, path_pairs: int) -> dict[str, Any] | None:
    """None of a model that doesn't give its features."""
    if features is None:
        return None
    paths = features.reshape(len(PATH), path_pairs, -1)
    values = {"straightness": between.straightness(paths)}
    return between.statistics(values, np.zeros(path_pairs, int))["straightness"]


def _cka(teacher: np.ndarray | None, student: np.ndarray | None) -> float | None:
    """None of a model that doesn't give its features, or whose features are all the same."""
    if teacher is None or student is None or len(teacher) < _FEWEST_INPUTS:
        return None
    found = float(_linear_cka(teacher, student))
    return None if np.isnan(found) else found


_linear_cka = jax.jit(representation.linear_cka)


def _values(
    model: SplitPredictions, teacher: SplitPredictions | None, part: str, pairs: Pairs
) -> between.Values:
    """The measures of predictions for "mixed" or "path", beside the teacher's if any."""
    own: Predictions = getattr(model, part)
    values = between.measure(model.real, own, pairs)
    if teacher is None:
        return values
    others: Predictions = getattr(teacher, part)
    compared = between.compare(others.logits, own.logits)
    return (
        values
        | {name: np.asarray(value, np.float64) for name, value in compared.items()}
        | between.gains(between.measure(teacher.real, others, pairs), values)
    )
