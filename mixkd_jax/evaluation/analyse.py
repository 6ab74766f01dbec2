"""The analysis of one model: from its predictions to what `analysis.json` holds.

`analyse` makes numbers of what a model predicts for a `probe.Probe`, of a student beside what its
teacher predicts.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from mixkd_jax import representation
from mixkd_jax.evaluation import between, calibrate, corruptions, examples
from mixkd_jax.evaluation.pairs import Pairs
from mixkd_jax.evaluation.probe import PATH, PairPredictions, Probe, ProbePredictions
from mixkd_jax.training.feeds import Images

_FEWEST_INPUTS = 4  # of an unbiased CKA


def analyse(
    probe: Probe, model: ProbePredictions, teacher: ProbePredictions | None = None
) -> dict[str, Any]:
    """Returns what is known of a model: "splits" by name, "calibration", "corruption", "examples".

    Args:
      probe: what is predicted.
      model: the predictions.
      teacher: those of its teacher; None for a teacher itself.
    """
    splits, shown = {}, []
    for name in probe.splits:
        splits[name], measured = _analyse_split(probe, name, model, teacher)
        if name == "test":
            shown = _examples(probe, measured, model, teacher)
    held_out = corruption = None
    if probe.held_out is not None:
        held_out = model.all_of(probe.held_out), _all_labels(probe.held_out)
    if probe.corrupted is not None:
        logits, labels = model.all_of(probe.corrupted), _all_labels(probe.corrupted)
        corruption = corruptions.robustness(logits, labels, num_bins=probe.num_bins)
    return {
        "splits": splits,
        "calibration": calibrate.calibrate(
            model.all_of(probe.splits["test"]),
            _all_labels(probe.splits["test"]),
            held_out,
            num_bins=probe.num_bins,
            rng=np.random.default_rng([probe.seed, 100]),
        ),
        "corruption": corruption,
        "examples": shown,
    }


class _Measured(NamedTuple):
    """What is measured of pairs.

    Attributes:
      mixed: of each mixture; see `between`.
      real: of each image as it is.
      reference: L_NL of the teacher, of a teacher itself its own.
      cka: with the teacher's features, "real" and "mixed"; None where it isn't known.
    """

    mixed: between.Values
    real: between.Values
    reference: np.ndarray
    cka: dict[str, float | None]


def _examples(
    probe: Probe, measured: _Measured, model: ProbePredictions, teacher: ProbePredictions | None
) -> list[dict[str, Any]]:
    return examples.examples(
        probe.splits["test"],
        probe.pairs["test"],
        measured.reference,
        measured.mixed.get("kl_teacher"),
        functools.partial(model.mixed, "test"),
        None if teacher is None else functools.partial(teacher.mixed, "test"),
    )


def _all_labels(images: Images) -> np.ndarray:
    return images.labels(np.arange(len(images)))


def _analyse_split(
    probe: Probe, name: str, model: ProbePredictions, teacher: ProbePredictions | None
) -> tuple[dict[str, Any], _Measured]:
    """Returns what `analysis.json` holds of a split, and what it was made from."""
    pairs = probe.pairs[name]
    measured = _measure_parts(probe, name, model, teacher)
    along, straight = _measure_paths(probe, name, model, teacher)
    found: dict[str, Any] = {
        "images": len(pairs.images),
        "pairs": len(pairs.i),
        "path_pairs": sum(len(path.i) for path in probe.paths[name]) // len(PATH),
        "mixed": between.summarize(measured.mixed, pairs),
        "path": {"lam": [round(float(lam), 2) for lam in PATH], **along},
        "straightness": straight,
    }
    if teacher is not None:
        found["cka"] = measured.cka
    found["real"] = between.statistics(measured.real, np.zeros(len(pairs.images), int))
    return found, measured


def _measure_parts(
    probe: Probe, name: str, model: ProbePredictions, teacher: ProbePredictions | None
) -> _Measured:
    """Measures all pairs of a split, some at a time; CKA is the mean over these parts."""
    rng = np.random.default_rng([probe.seed, 101])
    parts = []
    for k, part in enumerate(probe.parts[name]):
        others = None if teacher is None else teacher.part(name, k)
        parts.append(_measure(model.part(name, k), others, part.pairs, rng))
        del others  # before the next part is predicted
    real = {measure: np.empty(len(probe.pairs[name].images)) for measure in parts[0].real}
    for part, found in zip(probe.parts[name], parts, strict=True):
        for measure, value in found.real.items():
            real[measure][part.where] = value  # every image is in a pair
    return _Measured(
        _joined([part.mixed for part in parts]),
        real,
        np.concatenate([part.reference for part in parts]),
        {inputs: _mean([part.cka[inputs] for part in parts]) for inputs in ("real", "mixed")},
    )


def _measure(
    own: PairPredictions, others: PairPredictions | None, pairs: Pairs, rng: np.random.Generator
) -> _Measured:
    mixed = _values(own, others, pairs) | between.structure(own.real, own.mixed, pairs, rng)
    real: dict[str, Any] = {"accuracy": own.real.logits.argmax(-1) == pairs.labels}
    cka: dict[str, float | None] = {"real": None, "mixed": None}
    reference = mixed["nonlinearity"]
    if others is not None:
        real |= between.compare(others.real.logits, own.real.logits)
        reference = between.measure(others.real, others.mixed, pairs)["nonlinearity"]
        for inputs in cka:
            cka[inputs] = _cka(getattr(others, inputs).features, getattr(own, inputs).features)
    real = {name: np.asarray(value, np.float64) for name, value in real.items()}
    return _Measured(mixed, real, reference, cka)


def _measure_paths(
    probe: Probe, name: str, model: ProbePredictions, teacher: ProbePredictions | None
) -> tuple[between.Statistics, dict[str, Any] | None]:
    """Returns the measures by λ, and how straight paths are in the features, if these are given."""
    values, points, straight = [], [], []
    for k, path in enumerate(probe.paths[name]):
        own = model.path(name, k)
        values.append(_values(own, None if teacher is None else teacher.path(name, k), path))
        count = len(path.i) // len(PATH)
        points.append(np.repeat(np.arange(len(PATH)), count))
        if own.mixed.features is not None:
            features = own.mixed.features.reshape(len(PATH), count, -1)
            straight.append(between.straightness(features))
    found = between.statistics(_joined(values), np.concatenate(points), len(PATH))
    if not straight:
        return found, None
    measured = {"straightness": np.concatenate(straight)}
    every = np.zeros(len(measured["straightness"]), int)
    return found, between.statistics(measured, every)["straightness"]


def _joined(parts: list[between.Values]) -> between.Values:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _cka(teacher: np.ndarray | None, student: np.ndarray | None) -> float | None:
    """None of a model that doesn't give its features, or whose features are all the same."""
    if teacher is None or student is None or len(teacher) < _FEWEST_INPUTS:
        return None
    found = float(_linear_cka(teacher, student))
    return None if np.isnan(found) else found


_linear_cka = jax.jit(representation.linear_cka)


def _values(own: PairPredictions, others: PairPredictions | None, pairs: Pairs) -> between.Values:
    """The measures of mixtures, beside the teacher's predictions for them if there are any."""
    values = between.measure(own.real, own.mixed, pairs)
    if others is None:
        return values
    compared = between.compare(others.mixed.logits, own.mixed.logits)
    return (
        values
        | {name: np.asarray(value, np.float64) for name, value in compared.items()}
        | between.gains(between.measure(others.real, others.mixed, pairs), values)
    )
