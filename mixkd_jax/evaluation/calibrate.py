"""Calibration of one model beyond its ECE: intervals, curves, and a fitted temperature."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from scipy import special

from mixkd_jax import calibration
from mixkd_jax.evaluation.scores import fit_temperature, score

RESAMPLES = 1000
COVERAGES = np.arange(1, 21) / 20
_CHUNK = 50  # resamples at once: 50 · N numbers in memory


def calibrate(
    logits: np.ndarray,
    labels: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    *,
    num_bins: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """All of a model's calibration on the test images.

    Args:
      logits: f32[N, C].
      labels: i32[N].
      held_out: logits and labels that were not trained on, to fit a temperature; None if there
        are none.
      num_bins: bins of confidence.
      rng: draws the resamples.

    Returns:
      "scores": ece, adaptive_ece, classwise_ece, overconfidence, nll, brier, aurc.
      "scaled": the same after dividing logits by "temperature"; both None without `held_out`.
      "held_out": how many examples the temperature was fitted on.
      "intervals": of ece and overconfidence, 95 %.
      "reliability", "risk_coverage": see `bootstrap` and `risk_coverage`.
    """
    temperature = None if held_out is None else float(fit_temperature(*held_out))
    probs = _softmax(logits)
    reliability, intervals = bootstrap(probs, labels, num_bins=num_bins, rng=rng)
    return {
        "scores": scores(logits, labels, num_bins=num_bins),
        "intervals": intervals,
        "held_out": 0 if held_out is None else len(held_out[1]),
        "temperature": temperature,
        "scaled": temperature and scores(logits / temperature, labels, num_bins=num_bins),
        "reliability": reliability,
        "risk_coverage": risk_coverage(probs, labels),
    }


def scores(logits: np.ndarray, labels: np.ndarray, *, num_bins: int) -> dict[str, float]:
    """Returns each calibration score of logits f[N, C]."""
    found, _ = score(logits, labels, num_bins=num_bins)
    del found["accuracy"]
    found |= {name: float(value) for name, value in _more(logits, labels, num_bins).items()}
    return found


@functools.partial(jax.jit, static_argnums=2)
def _more(logits, labels, num_bins):
    probs = jax.nn.softmax(logits)
    return {
        "adaptive_ece": calibration.adaptive_calibration_error(probs, labels, num_bins=num_bins),
        "classwise_ece": calibration.classwise_calibration_error(probs, labels, num_bins=num_bins),
        "aurc": calibration.area_under_risk_coverage(probs, labels),
    }


def bootstrap(
    probs: np.ndarray, labels: np.ndarray, *, num_bins: int, rng: np.random.Generator
) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """Percentile intervals (95 %) from examples drawn again with replacement.

    Args:
      probs: f[N, C].
      labels: i[N].
      num_bins: equal-width bins of confidence, as `calibration.calibration_bins` has them.
      rng: draws `RESAMPLES` sets of N examples.

    Returns:
      The diagram, a list over bins of "count", "confidence", "accuracy", "low" and "high" (of the
      accuracy), None in empty bins; and [low, high] of "ece" and "overconfidence". The ECE of a
      resample is larger on average than that of the data: noise adds to an absolute value.
    """
    confidence, correct = probs.max(-1).astype(np.float64), probs.argmax(-1) == labels
    edges = (np.arange(1, num_bins) / num_bins).astype(probs.dtype)
    member = np.searchsorted(edges, probs.max(-1), side="right")[:, None] == np.arange(num_bins)
    columns = np.concatenate(
        [member, member * confidence[:, None], member * correct[:, None]], 1
    ).astype(np.float64)
    total = len(labels)
    drawn = []
    for start in range(0, RESAMPLES, _CHUNK):
        sets = min(_CHUNK, RESAMPLES - start)
        # How often each example is in each set. Faster by far than drawing these multinomially.
        places = rng.integers(total, size=(sets, total)) + total * np.arange(sets)[:, None]
        times = np.bincount(places.ravel(), minlength=sets * total).reshape(sets, total)
        drawn.append(times @ columns)
    sums = np.concatenate(drawn).reshape(RESAMPLES, 3, num_bins)
    gap = sums[:, 1] - sums[:, 2]
    with np.errstate(invalid="ignore"):  # a resample that leaves a bin empty says nothing of it
        accuracy = sums[:, 2] / sums[:, 0]
    count, confidences, hits = columns.sum(0).reshape(3, num_bins)
    used = count > 0
    low, high = np.full((2, num_bins), np.nan)
    low[used], high[used] = np.nanpercentile(accuracy[:, used], (2.5, 97.5), axis=0)
    safe = np.where(used, count, np.nan)
    curves = {"confidence": confidences / safe, "accuracy": hits / safe, "low": low, "high": high}
    diagram = {"count": count.astype(int).tolist()}
    diagram |= {name: [_known(x) for x in values] for name, values in curves.items()}
    measures = {"ece": np.abs(gap).sum(1) / total, "overconfidence": gap.sum(1) / total}
    intervals = {
        name: np.percentile(values, (2.5, 97.5)).tolist() for name, values in measures.items()
    }
    return diagram, intervals


def risk_coverage(probs: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Error among the most confident examples, against their share.

    Examples of equal confidence share their mean error, so that their order doesn't matter.

    Args:
      probs: f[N, C].
      labels: i[N].

    Returns:
      "coverage" and "risk" at 20 coverages; `calibration.area_under_risk_coverage` is the mean of
      the risk over all of them.
    """
    wrong = (probs.argmax(-1) != labels).astype(np.float64)
    _, group, size = np.unique(-probs.max(-1), return_inverse=True, return_counts=True)
    shared = np.repeat(np.bincount(group, wrong) / size, size)
    total = len(labels)
    risk = np.cumsum(shared) / np.arange(1, total + 1)
    at = np.maximum(np.rint(COVERAGES * total).astype(int), 1)
    return {"coverage": (at / total).tolist(), "risk": risk[at - 1].tolist()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    return special.softmax(logits, -1).astype(np.float32)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
