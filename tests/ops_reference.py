"""The ops once more, in NumPy float64, row by row, straight from the papers' formulas."""

import math
from typing import Any

import jax
import numpy as np


def relative_error(got, want):
    """Largest error over the size of the largest value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    return np.max(np.abs(got - want)) / max(np.max(np.abs(want)), np.finfo(np.float32).tiny)


def gradient(function, x, step=1e-5):
    """Central differences of a scalar function of a float64 array."""
    x = np.array(x, np.float64)
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        for sign in (1, -1):
            moved = x.copy()
            moved[i] += sign * step
            out[i] += sign * function(moved) / (2 * step)
    return out


def log_softmax(row):
    shifted = row - row.max()
    return shifted - math.log(np.exp(shifted).sum())


def row_kl(student, teacher):
    """KL between the softmaxes of two rows; a class at -inf in both is no class."""
    kept = ~(np.isneginf(student) & np.isneginf(teacher))
    if not kept.any():
        return 0.0
    log_s, log_t = log_softmax(student[kept]), log_softmax(teacher[kept])
    return sum(math.exp(t) * (t - s) for s, t in zip(log_s, log_t, strict=True) if t > -math.inf)


def _rows(function, *arrays):
    return np.array([function(*(a[i] for a in arrays)) for i in range(len(arrays[0]))])


def f64(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def distillation_kl(s, t, temperature: Any = 1.0):
    s, t = f64(s, t)
    if temperature == "std":

        def scaled(row):
            return row / (np.std(row[row > -np.inf]) + 1e-8)

        return _rows(lambda a, b: row_kl(scaled(a), scaled(b)), s, t)
    return temperature**2 * _rows(row_kl, s / temperature, t / temperature)


def logit_standardization_kl(s, t, temperature=2.0, ddof=0):
    def zscore(row):
        return (row - row.mean()) / (row.std(ddof=ddof) + 1e-7)

    s, t = f64(s, t)
    return temperature**2 * _rows(
        lambda a, b: row_kl(zscore(a) / temperature, zscore(b) / temperature), s, t
    )


def cross_entropy(z, y):
    (z,) = f64(z)
    if np.ndim(y) == 1:
        return _rows(_label_loss, z, np.asarray(y))
    return _rows(lambda a, b: -np.sum(b * log_softmax(a)), z, *f64(y))


def _label_loss(row, y):
    odds = row - row[y]
    rest = np.delete(odds, y)
    if not rest.size:
        return 0.0
    top = rest.max()
    return np.logaddexp(0, top + math.log(np.exp(rest - top).sum()))


def _binary_logits(row, y):
    rest = np.delete(row, y)
    return np.array([row[y], rest.max() + math.log(np.exp(rest - rest.max()).sum())])


def decoupled_kl(s, t, y, temperature=4.0, target_weight=1.0, nontarget_weight=8.0):
    def one(a, b, k):
        target = row_kl(_binary_logits(a, k), _binary_logits(b, k))
        return target_weight * target + nontarget_weight * row_kl(np.delete(a, k), np.delete(b, k))

    s, t = f64(s, t)
    return temperature**2 * _rows(one, s / temperature, t / temperature, np.asarray(y))


def sample_confidence_kl(s, t, y, temperature=1.0):
    def one(a, b, k):
        return row_kl(_binary_logits(a, k), _binary_logits(b, np.argmax(b)))

    s, t = f64(s, t)
    return temperature**2 * _rows(one, s / temperature, t / temperature, np.asarray(y))


def masked_correlation_kl(s, t, y, temperature=4.0):
    def one(a, b, k):
        below = b < b[k]
        return row_kl(a[below] / temperature, b[below] / temperature)

    return temperature**2 * _rows(one, *f64(s, t), np.asarray(y))


def relational_loss(s, t, temperature=1.0, inter_weight=1.0, intra_weight=1.0):
    def one_minus_rho(a, b):
        a, b = a - a.mean(), b - b.mean()
        size = math.sqrt((a @ a) * (b @ b))
        return 1 - (a @ b) / size if size > 0 else 1.0

    s, t = f64(s, t)
    p = np.exp(_rows(log_softmax, s / temperature))
    q = np.exp(_rows(log_softmax, t / temperature))
    inter, intra = _rows(one_minus_rho, p, q).mean(), _rows(one_minus_rho, p.T, q.T).mean()
    return np.asarray(inter_weight * inter + intra_weight * intra)


def entropy(p):
    return _rows(lambda row: -sum(x * math.log(x) for x in row if x > 0), *f64(p))


def kl_divergence(p, q):
    def one(a, b):
        return sum(x * math.log(x / max(y, 2.0**-126)) for x, y in zip(a, b, strict=True) if x > 0)

    return _rows(one, *f64(p, q))


def bins(p, y, num_bins):
    """Counts, summed confidence and hits by a loop over float32 edges."""
    edges = [np.float32(k / num_bins) for k in range(num_bins + 1)]
    count, confidence, correct = np.zeros((3, num_bins))
    for row, label in zip(p, y, strict=True):
        top = row.max()
        k = max(i for i in range(num_bins) if top >= edges[i])
        count[k] += 1
        confidence[k] += float(top)
        correct[k] += np.argmax(row) == label
    return count, confidence, correct


def data_mesh():
    """A mesh over as many devices as divide a batch of 8."""
    count = max(n for n in (1, 2, 4, 8) if n <= jax.device_count())
    return jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
