"""What a model does between two images: one value per pair, then statistics over pairs.

Names of the measures (nats unless said otherwise):

    nonlinearity         L_NL = KL(r ‖ p(x̃)), with r = λ p(x_i) + (1-λ) p(x_j)
    entropy              of p(x̃)
    kl_reference         KL(p(x̃) ‖ r)
    outside              probability that p(x̃) puts on classes other than the two mixed ones
    outside_reference    the same of r
    outside_excess       outside - outside_reference
    structure            rank correlation of p(x̃) with r over the classes outside the pair
    structure_shuffled   the same with the classes of r shuffled: what chance gives
    structure_other      the same with r of a pair of two other images, over the classes outside
                         of both pairs: what classes that are likely everywhere give
    kl_teacher           KL(teacher ‖ student) on x̃
    agreement            share of x̃ to which both give the same most probable class
    linearity_gain       nonlinearity of the teacher minus that of the student
    entropy_gap          entropy of the teacher minus that of the student
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from mixkd_jax import losses, mixup, vicinal
from mixkd_jax.evaluation.pairs import Pairs
from mixkd_jax.evaluation.predict import Predictions

NUM_BINS = 20
PEAK = (0.45, 0.55)
_FEWEST_CLASSES = 3  # a rank correlation of two is 1 or -1

Values = dict[str, np.ndarray]  # by measure, f[n]; NaN where it is not defined
Statistics = dict[str, dict[str, Any]]  # by measure: count, mean, stderr


def measure(real: Predictions, mixed: Predictions, pairs: Pairs) -> Values:
    """Measures a model by itself.

    Args:
      real: predictions for `pairs.images`.
      mixed: predictions for the n mixtures of `pairs`.
      pairs: what was mixed.
    """
    # Rows are gathered here, so that splits with as many pairs share one program.
    ends = [(real.logits[side], pairs.labels[side]) for side in (pairs.i, pairs.j)]
    values = _jitted(*ends, mixed.logits, pairs.lam)
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


@jax.jit
def _jitted(first, second, mixed, lam):
    (logits_i, label_i), (logits_j, label_j) = first, second
    p_i, p_j, p = (jax.nn.softmax(logits) for logits in (logits_i, logits_j, mixed))
    reference = mixup.interpolate(lam, p_i, p_j)
    outside = 1 - vicinal.pair_mass(p, label_i, label_j)
    outside_reference = 1 - vicinal.pair_mass(reference, label_i, label_j)
    return {
        "nonlinearity": vicinal.nonlinearity(p_i, p_j, p, lam),
        "entropy": vicinal.entropy(p),
        "kl_reference": vicinal.kl_divergence(p, reference),
        "outside": outside,
        "outside_reference": outside_reference,
        "outside_excess": outside - outside_reference,
    }


@jax.jit
def compare(teacher_logits: Any, student_logits: Any) -> dict[str, jax.Array]:
    """Compares a student with its teacher on the same inputs, f[n, C] each."""
    same = jnp.argmax(teacher_logits, -1) == jnp.argmax(student_logits, -1)
    return {
        "kl_teacher": losses.distillation_kl(student_logits, teacher_logits),
        "agreement": same.astype(jnp.float32),
    }


def gains(teacher: Values, student: Values) -> Values:
    """How much more linear and how much surer than its teacher a student is, pair by pair."""
    return {
        "linearity_gain": teacher["nonlinearity"] - student["nonlinearity"],
        "entropy_gap": teacher["entropy"] - student["entropy"],
    }


def structure(
    real: Predictions, mixed: Predictions, pairs: Pairs, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Whether the probability outside the pair follows that of r, with two controls.

    Args:
      real: predictions for `pairs.images`.
      mixed: predictions for the n mixtures.
      pairs: what was mixed.
      rng: shuffles classes.

    Returns:
      "structure", "structure_shuffled" and "structure_other", f64[n]: Spearman's rank correlations;
      NaN for fewer than three classes, where one side is constant, or where no other pair is of
      two other images.
    """
    probs = special.softmax(real.logits.astype(np.float64), -1)
    p = special.softmax(mixed.logits.astype(np.float64), -1)
    lam = pairs.lam[:, None].astype(np.float64)
    reference = lam * probs[pairs.i] + (1 - lam) * probs[pairs.j]
    classes = np.arange(p.shape[-1])
    own = np.stack([pairs.labels[pairs.i], pairs.labels[pairs.j]], 1)
    outside = (own[:, :, None] != classes).all(1)
    other, apart = _others(pairs)
    beyond = outside & outside[other] & apart[:, None]
    return {
        "structure": rank_correlation(p, reference, outside),
        "structure_shuffled": rank_correlation(p, _shuffled(reference, outside, rng), outside),
        "structure_other": rank_correlation(p, reference[other], beyond),
    }


def rank_correlation(x: np.ndarray, y: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row over the entries where `where` holds; ties share ranks.

    Args:
      x: f[n, C].
      y: f[n, C].
      where: bool[n, C].

    Returns:
      f64[n]; NaN for fewer than three entries, or if those of one side are all equal.
    """
    from scipy import stats  # here, for it takes half a second before any training

    def centred(values):
        ranks = stats.rankdata(np.where(where, values, -np.inf), axis=-1)
        mean = np.sum(ranks, -1, where=where, keepdims=True) / np.maximum(count, 1)[:, None]
        return np.where(where, ranks - mean, 0)

    count = where.sum(-1)
    x, y = centred(x), centred(y)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    known = (norms > 0) & (count >= _FEWEST_CLASSES)
    return np.divide(np.sum(x * y, -1), norms, out=np.full(len(x), np.nan), where=known)


def _others(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Returns another pair, with neither of its images, for each pair.

    Returns:
      Their places, i64[n], and whether there is such a pair, bool[n].
    """
    total = len(pairs.i)
    own, other = np.stack([pairs.i, pairs.j]), np.roll(np.arange(total), total // 2)

    def shared() -> np.ndarray:
        return (own[:, None] == own[:, other]).any((0, 1))

    for _ in range(total):
        if not (near := shared()).any():
            break
        other[near] = (other[near] + 1) % total
    return other, ~shared()


def _shuffled(values: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns each row with the entries where `where` holds in a random order."""
    # Both orders list the entries of `where` first: the one by class, the other by chance.
    by_class = np.argsort(~where, -1, kind="stable")
    by_chance = np.argsort(np.where(where, rng.random(where.shape), 2), -1, kind="stable")
    shuffled = np.empty_like(values)
    np.put_along_axis(shuffled, by_class, np.take_along_axis(values, by_chance, -1), -1)
    return shuffled


def straightness(path: np.ndarray) -> np.ndarray:
    """Distance between both ends of each path over its length: 1 for a straight line.

    Args:
      path: f[G, m, D], m paths at G points.

    Returns:
      f64[m], from 0 to 1; NaN where a path has no length.
    """
    path = path.astype(np.float64)
    chord = np.linalg.norm(path[-1] - path[0], axis=-1)
    length = np.linalg.norm(np.diff(path, axis=0), axis=-1).sum(0)
    return np.divide(chord, length, out=np.full(chord.shape, np.nan), where=length > 0)


def summarize(values: Values, pairs: Pairs) -> dict[str, Any]:
    """Statistics in 20 bins of λ, overall and at the peak; for all pairs and by kind of pair."""
    bins = np.minimum((pairs.lam * NUM_BINS).astype(int), NUM_BINS - 1)
    peak = (pairs.lam > PEAK[0]) & (pairs.lam < PEAK[1])
    kinds = {"all": np.ones_like(pairs.same), "same": pairs.same, "different": ~pairs.same}
    return {
        kind: {
            "overall": statistics(values, np.where(chosen, 0, -1)),
            "peak": statistics(values, np.where(chosen & peak, 0, -1)),
            "bins": statistics(values, np.where(chosen, bins, -1), NUM_BINS),
        }
        for kind, chosen in kinds.items()
    }


def statistics(values: Values, group: np.ndarray, groups: int | None = None) -> Statistics:
    """Count, mean and standard error of each measure over the known values of each group.

    The standard error is that of independent values: s / √n, with s over n - 1.

    Args:
      values: f[n] each; NaN is left out.
      group: i[n]; -1 is left out.
      groups: their number, for a list with an entry for each; None for group 0 alone.

    Returns:
      {measure: {"count", "mean", "stderr"}}; None where there are too few values.
    """
    found = {}
    for name, value in values.items():
        known = (group >= 0) & ~np.isnan(value)
        index, x = group[known], value[known]
        count = np.bincount(index, minlength=groups or 1)
        mean = np.bincount(index, x, count.size) / np.maximum(count, 1)
        squares = np.bincount(index, (x - mean[index]) ** 2, count.size)
        stderr = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
        columns = {
            "count": count.tolist(),
            "mean": _where(count > 0, mean),
            "stderr": _where(count > 1, stderr),
        }
        found[name] = columns if groups else {key: column[0] for key, column in columns.items()}
    return found


def _where(known: np.ndarray, values: np.ndarray) -> list[float | None]:
    return [x if is_known else None for is_known, x in zip(known, values.tolist(), strict=True)]
