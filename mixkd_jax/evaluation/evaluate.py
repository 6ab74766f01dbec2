"""Measures a model on a whole split that lies on the device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixkd_jax import calibration, mixup, vicinal
from mixkd_jax.data.device import Examples
from mixkd_jax.models.network import Network, Variables
from mixkd_jax.training import sharding


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
    network: Network,
    variables: Variables,
    examples: Examples,
    *,
    mesh: Mesh,
    batch_size: int,
    num_bins: int,
    key: jax.Array,
) -> Callable[[Variables], Evaluation]:
    """Compiles the evaluation of `network` on `examples`, and returns it as a function.

    The last batch is padded and the padding masked, so that every example counts once; no result
    depends on `batch_size` or the number of devices but by rounding.

    Args:
      network: what is measured.
      variables: of the network, or their shapes.
      examples: the whole split, on every device of `mesh`.
      mesh: the devices that share a batch.
      batch_size: examples at once; rounded up to a multiple of the devices.
      num_bins: equal-width confidence bins.
      key: chooses the pairs, and each pair's λ, for the nonlinearity.
    """
    on_all = sharding.replicated(mesh)
    total = examples.labels.shape[0]
    batch_size = -(-min(batch_size, total) // mesh.size) * mesh.size
    partner_key, lam_key = jax.random.split(key)
    partners = np.asarray(jax.random.permutation(partner_key, total))
    lam = np.asarray(jax.random.uniform(lam_key, (total,)))
    predict = (
        jax.jit(functools.partial(_predict, network, mesh), out_shardings=on_all)
        .lower(variables, examples, *_batch(np.zeros(batch_size, int), partners, lam))
        .compile()
    )
    clean = jax.jit(functools.partial(_clean_sums, num_bins=num_bins))
    mixed = jax.jit(_mixed_sum)

    def evaluate(variables: Variables) -> Evaluation:
        sums: Any = 0.0
        batches = list(_batches(total, batch_size))
        logits = []
        for indices, valid in batches:
            # λ = 1: each example mixed with its partner is the example itself.
            own = _batch(indices, partners, np.ones_like(lam))
            logits.append(predict(variables, examples, *own))
            sums = _add(sums, clean(logits[-1], examples.labels[indices], valid))
        probs = jax.nn.softmax(jnp.concatenate(logits))[:total]
        nonlinearity = 0.0
        for indices, valid in batches:
            pair = _batch(indices, partners, lam)
            answer = predict(variables, examples, *pair)
            nonlinearity += float(mixed(probs, answer, *pair, valid))
        return _summary(sums, nonlinearity, total)

    return evaluate


def _batches(total: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (indices i32[B], valid bool[B]); padding is example 0, not valid."""
    for start in range(0, total, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.where(indices < total, indices, 0), indices < total


def _batch(indices: np.ndarray, partners: np.ndarray, lam: np.ndarray) -> tuple[Any, Any, Any]:
    return indices.astype(np.int32), partners[indices].astype(np.int32), lam[indices]


def _predict(network: Network, mesh: Mesh, variables, examples: Examples, i, j, lam):
    """Logits f32[B, C] of examples i mixed with examples j."""
    i, j, lam = sharding.over_data(mesh, (i, j, lam))
    return network.logits(variables, mixup.interpolate(lam, examples.images[i], examples.images[j]))


def _clean_sums(logits, labels, valid, *, num_bins: int):
    probs = jax.nn.softmax(logits)
    nll = calibration.negative_log_likelihood(logits, labels)
    brier = calibration.brier_score(probs, labels)
    return {
        "bins": calibration.calibration_bins(probs, labels, num_bins=num_bins, where=valid),
        "nll": jnp.sum(jnp.where(valid, nll, 0)),
        "brier": jnp.sum(jnp.where(valid, brier, 0)),
    }


def _mixed_sum(probs, logits, i, j, lam, valid):
    loss = vicinal.nonlinearity(probs[i], probs[j], jax.nn.softmax(logits), lam)
    return jnp.sum(jnp.where(valid, loss, 0))


def _add(sums: Any, more: Any) -> Any:
    """Adds in float64 on the host: float32 would lose small addends of a large split."""
    more = jax.tree.map(lambda value: np.asarray(value, np.float64), more)
    return more if isinstance(sums, float) else jax.tree.map(np.add, sums, more)


def _summary(sums: Any, nonlinearity: float, total: int) -> Evaluation:
    bins = sums["bins"]
    metrics = {
        "accuracy": bins.correct.sum() / total,
        "ece": calibration.expected_calibration_error(bins),
        "overconfidence": calibration.overconfidence(bins),
        "nll": sums["nll"] / total,
        "brier": sums["brier"] / total,
        "nonlinearity": nonlinearity / total,
    }
    return Evaluation(
        metrics={name: float(value) for name, value in metrics.items()},
        bins={field.name: getattr(bins, field.name).tolist() for field in dataclasses.fields(bins)},
    )
