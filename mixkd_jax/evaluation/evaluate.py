"""Measures a model on a whole split."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import vicinal
from mixkd_jax.evaluation.predict import Predict, predict_all
from mixkd_jax.evaluation.scores import Bins, fit_temperature, score
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
    order, partners, lam = _circle(key, len(images))
    own, between = _predict_with_partners(predict, variables, images, order, partners, lam)
    labels = images.labels(np.arange(len(images)))
    metrics, bins = score(own, labels, num_bins=num_bins)
    metrics["nonlinearity"] = float(_nonlinearity(own, order, partners, between, lam))
    if teacher_logits is not None:
        metrics["agreement"] = float(np.mean(own.argmax(-1) == teacher_logits.argmax(-1)))
    calibrated = None
    if held_out is not None:
        known = held_out.labels(np.arange(len(held_out)))
        temperature = fit_temperature(predict_all(predict, variables, held_out), known)
        scaled, _ = score(own / temperature, labels, num_bins=num_bins)
        calibrated = {"temperature": float(temperature), **scaled}
    return Evaluation(metrics, bins, calibrated)


def _circle(key: jax.Array, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns all indices in a random order i32[N], the one after each, and λ ~ U(0, 1) f32[N]."""
    order_key, lam_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, count)).astype(np.int32)
    return order, np.roll(order, -1), np.asarray(jax.random.uniform(lam_key, (count,)))


def _predict_with_partners(
    predict: Predict,
    variables: Variables,
    images: Images,
    order: np.ndarray,
    partners: np.ndarray,
    lam: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits of all images f32[N, C], as they are stored, and of mixtures, in `order`.

    Both in one go, image by image, so that a stream decodes each image once.
    """
    i, j = np.repeat(order, 2), np.stack([order, partners], 1).ravel()
    weight = np.stack([np.ones_like(lam), lam], 1).ravel()
    logits = predict(variables, images, i, j, weight).logits
    own = np.empty_like(logits[::2])
    own[order] = logits[::2]
    return own, logits[1::2]


@jax.jit
def _nonlinearity(own, order, partners, between, lam):
    p_i, p_j = jax.nn.softmax(own[order]), jax.nn.softmax(own[partners])
    return jnp.mean(vicinal.nonlinearity(p_i, p_j, jax.nn.softmax(between), lam))
