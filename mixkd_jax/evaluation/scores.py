"""The scores of predictions: accuracy, calibration and proper scores, computed in one place."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import calibration

Bins = dict[str, list[float]]
fit_temperature = jax.jit(calibration.fit_temperature)
SCORES = ("accuracy", "ece", "overconfidence", "nll", "brier")


def score(
    logits: np.ndarray, labels: np.ndarray, *, num_bins: int
) -> tuple[dict[str, float], Bins]:
    """Scores logits against labels.

    Args:
      logits: f32[N, C].
      labels: i32[N].
      num_bins: equal-width confidence bins.

    Returns:
      accuracy, ece, overconfidence, nll (nats) and brier (summed over classes); and the sums
      count, confidence and correct of each bin.
    """
    scores, bins = jax.device_get(_score(logits, labels, num_bins))
    return (
        {name: float(scores[name]) for name in SCORES},  # a jit sorts them
        {name: sums.astype(float).tolist() for name, sums in bins.items()},
    )


@functools.partial(jax.jit, static_argnums=2)
def _score(logits: jax.Array, labels: jax.Array, num_bins: int) -> Any:
    probs = jax.nn.softmax(logits)
    bins = calibration.calibration_bins(probs, labels, num_bins=num_bins)
    scores = {
        "accuracy": jnp.mean(jnp.argmax(logits, -1) == labels),
        "ece": calibration.expected_calibration_error(bins),
        "overconfidence": calibration.overconfidence(bins),
        "nll": calibration.negative_log_likelihood(logits, labels).mean(),
        "brier": calibration.brier_score(probs, labels).mean(),
    }
    sums = {"count": bins.count, "confidence": bins.confidence, "correct": bins.correct}
    return scores, sums
