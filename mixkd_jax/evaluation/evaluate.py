"""Measures a model on a whole split."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import calibration, vicinal
from mixkd_jax.evaluation.predict import Predict, predict_all
from mixkd_jax.evaluation.scores import Bins, score
from mixkd_jax.models.network import Variables
from mixkd_jax.training.feeds import Images


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluation.json` holds beside the step.

    Attributes:
      metrics: those of `scores.score`, and nonlinearity: L_NL in nats, over one pair per example
        with λ ~ U(0, 1).
      bins: count, confidence and correct of each confidence bin, as sums.
      calibrated: the "temperature" that minimises the NLL of held-out images, and the scores after
        dividing logits by it; None without such images.
    """

    metrics: dict[str, float]
    bins: Bins
    calibrated: dict[str, float] | None = None


def evaluate(
    predict: Predict,
    variables: Variables,
    images: Images,
    *,
    num_bins: int,
    key: jax.Array,
    teacher_logits: np.ndarray | None = None,
    held_out: Images | None = None,
) -> Evaluation:
    """Evaluates a model on a whole split, every example once.

    Args:
      predict: of the model.
      variables: of the model.
      images: the split.
      num_bins: equal-width confidence bins.
      key: chooses the pairs, and each pair's λ, for the nonlinearity.
      teacher_logits: f32[N, C] of a teacher; with them "agreement" is measured too, the share of
        images for which both predict the same class.
      held_out: images that weren't learned from, to fit a temperature on.
    """
    every = np.arange(len(images), dtype=np.int32)
    partner_key, lam_key = jax.random.split(key)
    partners = np.asarray(jax.random.permutation(partner_key, len(every))).astype(np.int32)
    lam = np.asarray(jax.random.uniform(lam_key, every.shape))
    own = predict(variables, images, every, every, np.ones_like(lam)).logits
    between = predict(variables, images, every, partners, lam).logits
    metrics, bins = score(own, images.labels(every), num_bins=num_bins)
    metrics["nonlinearity"] = float(_nonlinearity(own, partners, between, lam))
    if teacher_logits is not None:
        metrics["agreement"] = float(np.mean(own.argmax(-1) == teacher_logits.argmax(-1)))
    calibrated = None
    if held_out is not None:
        labels = held_out.labels(np.arange(len(held_out)))
        temperature = _fit_temperature(predict_all(predict, variables, held_out), labels)
        scaled, _ = score(own / temperature, images.labels(every), num_bins=num_bins)
        calibrated = {"temperature": float(temperature), **scaled}
    return Evaluation(metrics, bins, calibrated)


_fit_temperature = jax.jit(calibration.fit_temperature)


@jax.jit
def _nonlinearity(own, partners, between, lam):
    probs = jax.nn.softmax(own)
    return jnp.mean(vicinal.nonlinearity(probs, probs[partners], jax.nn.softmax(between), lam))
