"""Measures a model on a whole split."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax import calibration, vicinal
from mixkd_jax.evaluation.answers import Ask
from mixkd_jax.models.network import Variables
from mixkd_jax.training.feeds import Images


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluation.json` holds beside the step.

    Attributes:
      metrics: accuracy, ece, overconfidence, nll (nats), brier (summed over classes), nonlinearity
        (L_NL in nats, over one pair per example with λ ~ U(0, 1)).
      bins: count, confidence and correct of each confidence bin, as sums.
    """

    metrics: dict[str, float]
    bins: dict[str, list[float]]


def create_evaluator(
    ask: Ask,
    images: Images,
    *,
    batch_size: int,
    num_bins: int,
    key: jax.Array,
    teacher_logits: np.ndarray | None = None,
) -> Callable[[Variables], Evaluation]:
    """Returns the evaluation of a network on a whole split, as a function of its variables.

    The last batch is padded and the padding masked, so that every example counts once; no result
    depends on `batch_size` or the number of devices but by rounding.

    Args:
      ask: from `answers.create_ask`.
      images: the split.
      batch_size: answers that are summed at once.
      num_bins: equal-width confidence bins.
      key: chooses the pairs, and each pair's λ, for the nonlinearity.
      teacher_logits: f32[N, C] of a teacher; with them "agreement" is measured too, the share of
        images of which both say the same.
    """
    total = len(images)
    every = np.arange(total, dtype=np.int32)
    partner_key, lam_key = jax.random.split(key)
    partners = np.asarray(jax.random.permutation(partner_key, total)).astype(np.int32)
    lam = np.asarray(jax.random.uniform(lam_key, (total,)))
    labels = images.labels(every)
    batches = list(_batches(total, min(batch_size, total)))
    clean = jax.jit(functools.partial(_clean_sums, num_bins=num_bins))
    mixed = jax.jit(_mixed_sum)

    def evaluate(variables: Variables) -> Evaluation:
        own = ask(variables, images, every, every, np.ones_like(lam)).logits
        between = ask(variables, images, every, partners, lam).logits
        sums: Any = 0.0
        for i, valid in batches:
            found = clean(own[i], labels[i], valid)
            found["nonlinearity"] = mixed(own[i], own[partners[i]], between[i], lam[i], valid)
            sums = _add(sums, found)
        found = _summary(sums, total)
        if teacher_logits is not None:
            found.metrics["agreement"] = np.mean(own.argmax(-1) == teacher_logits.argmax(-1)).item()
        return found

    return evaluate


def _batches(total: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices i32[B], valid bool[B]); padding is example 0, not valid."""
    for start in range(0, total, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.where(indices < total, indices, 0), indices < total


def _clean_sums(logits, labels, valid, *, num_bins: int):
    probs = jax.nn.softmax(logits)
    nll = calibration.negative_log_likelihood(logits, labels)
    brier = calibration.brier_score(probs, labels)
    return {
        "bins": calibration.calibration_bins(probs, labels, num_bins=num_bins, where=valid),
        "nll": jnp.sum(jnp.where(valid, nll, 0)),
        "brier": jnp.sum(jnp.where(valid, brier, 0)),
    }


def _mixed_sum(logits_i, logits_j, logits_mixed, lam, valid):
    p_i, p_j, p = (jax.nn.softmax(logits) for logits in (logits_i, logits_j, logits_mixed))
    return jnp.sum(jnp.where(valid, vicinal.nonlinearity(p_i, p_j, p, lam), 0))


def _add(sums: Any, more: Any) -> Any:
    """Adds in float64 on the host: float32 would lose small addends of a large split."""
    more = jax.tree.map(lambda value: np.asarray(value, np.float64), more)
    return more if isinstance(sums, float) else jax.tree.map(np.add, sums, more)


def _summary(sums: Any, total: int) -> Evaluation:
    bins = sums["bins"]
    metrics = {
        "accuracy": bins.correct.sum() / total,
        "ece": calibration.expected_calibration_error(bins),
        "overconfidence": calibration.overconfidence(bins),
        "nll": sums["nll"] / total,
        "brier": sums["brier"] / total,
        "nonlinearity": sums["nonlinearity"] / total,
    }
    return Evaluation(
        metrics={name: float(value) for name, value in metrics.items()},
        bins={field.name: getattr(bins, field.name).tolist() for field in dataclasses.fields(bins)},
    )
