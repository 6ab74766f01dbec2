"""Digits that are kept for nearly equal logits and for large offsets; derivatives of values."""

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from test_losses import LOSSES, draw

from mixkd_jax import losses

L = np.longdouble


def softmax(row):
    e = np.exp(row - row.max())
    return e / e.sum()


def kl_and_slope(s, t):
    """KL of two rows with its derivative in the student's."""
    p, q = softmax(s), softmax(t)
    return np.sum(q * (np.log(q) - np.log(p))), p - q


def kl(s, t, y, temperature):
    value, slope = kl_and_slope(s.astype(L) / temperature, t.astype(L) / temperature)
    return temperature**2 * value, temperature * slope


def dkd(s, t, y, temperature):
    s, t = s.astype(L) / temperature, t.astype(L) / temperature
    rest = np.arange(len(s)) != y
    value, inner = kl_and_slope(s[rest], t[rest])

    def binary(row):
        top = row[rest].max()
        return np.array([row[y], top + np.log(np.sum(np.exp(row[rest] - top)))])

    target, outer = kl_and_slope(binary(s), binary(t))
    slope = np.zeros(len(s), L)
    slope[rest] = outer[1] * softmax(s[rest]) + 8 * inner
    slope[y] = outer[0]
    return temperature**2 * (target + 8 * value), temperature * slope


EXACT = {
    "kl": (lambda s, t, y, k: losses.distillation_kl(s, t, temperature=k), kl),
    "dkd": (lambda s, t, y, k: losses.decoupled_kl(s, t, y, temperature=k), dkd),
}


@pytest.mark.parametrize("name", EXACT)
def test_nearly_equal_logits_and_opposite_offsets_keep_all_digits(name):
    loss, reference = EXACT[name]
    values, slopes = jax.jit(loss), jax.jit(jax.grad(lambda *given: loss(*given).sum()))
    rng = np.random.default_rng(0)
    for temperature in (1.0, 3.0):
        for offset, noise in ((0, 1e-5), (0, 1e-3), (1e4, 1e-2), (1e4, 1.0)):
            t = (2 * rng.normal(size=(16, 10)) - offset).astype(np.float32)
            s = (t + 2 * offset + noise * rng.normal(size=t.shape)).astype(np.float32)
            y = rng.integers(10, size=16)
            rows = [reference(*row, temperature) for row in zip(s, t, y, strict=True)]
            want, slope = (np.array(part, np.float64) for part in zip(*rows, strict=True))
            assert ref.relative_error(values(s, t, y, temperature), want) <= 1e-6
            assert ref.relative_error(slopes(s, t, y, temperature), slope) <= 1e-6


def unit(x):
    x = x - x.mean()
    return x / np.sqrt(x @ x)


def dist(s, t, temperature):
    p, q = (np.stack([softmax(row) for row in z / temperature]) for z in (s, t))
    pairs = [(p, q), (p.T, q.T)]
    apart = [
        [np.sum((unit(x) - unit(y)) ** 2) / 2 for x, y in zip(*pair, strict=True)] for pair in pairs
    ]
    return sum(np.mean(rows) for rows in apart)


@pytest.mark.parametrize("offset", [0, 1e4])
@pytest.mark.parametrize("spread", [1.0, 0.1, 1e-2, 1e-4, 1e-6])
def test_correlations_of_nearly_equal_probabilities_keep_all_digits(spread, offset):
    rng = np.random.default_rng(int(1 / spread))
    for temperature in (1.0, 3.0):
        if offset:  # multiples of what float32 tells apart there
            s, t = (np.float32(offset) + rng.integers(-9, 9, (2, 6, 5)) / 1024).astype(np.float32)
        else:
            s, t = (spread * rng.normal(size=(2, 6, 5))).astype(np.float32)
        value, slope = jax.jit(jax.value_and_grad(losses.relational_loss))(
            s, t, temperature=temperature
        )
        wide_s, wide_t = s.astype(L), t.astype(L)
        np.testing.assert_allclose(value, float(dist(wide_s, wide_t, temperature)), rtol=2e-6)
        want = np.zeros(s.shape)
        for place in np.ndindex(*s.shape):
            step = np.zeros(s.shape, L)
            step[place] = 1e-6 * np.ptp(s)
            ahead, behind = (dist(wide_s + k * step, wide_t, temperature) for k in (1, -1))
            want[place] = (ahead - behind) / (2 * step[place])
        np.testing.assert_allclose(slope, want, atol=1e-5 * np.abs(want).max())


def test_the_value_of_value_and_grad_has_the_derivative_of_the_loss():
    z = jnp.array([2.0, 1.0, 0.0])
    value = jax.grad(lambda z: jax.value_and_grad(lambda z: losses.cross_entropy(z, 0))(z)[0])
    np.testing.assert_allclose(value(z), [-0.3348, 0.2447, 0.0900], atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_of_values_are_those_of_the_loss(name):
    """Through `value_and_grad` too, by student and teacher, and with a removed class."""
    s, t, y = draw(9, 4, 5, 1.0)
    y = y % 4
    if "soft" not in name and "relational" not in name:
        s[:, 4] = t[:, 4] = -np.inf

    def total(s, t):
        return jnp.sum(LOSSES[name][0](s, t, y))

    def again(s, t):
        return jax.value_and_grad(total, argnums=(0, 1))(s, t)[0]

    want = jax.jit(jax.grad(total, argnums=(0, 1)))(s, t)
    got = jax.jit(jax.grad(again, argnums=(0, 1)))(s, t)
    for a, b in zip(got, want, strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_in_the_temperature_with_offsets_and_removed_classes():
    s, t, y = draw(4, 4, 6)
    s, t = s + 100, t - 100
    s[:, 5] = t[:, 5] = -np.inf
    y = y % 5
    for loss in (
        lambda k: losses.distillation_kl(s, t, temperature=k),
        lambda k: losses.decoupled_kl(s, t, y, temperature=k),
        lambda k: losses.sample_confidence_kl(s, t, y, temperature=k),
        lambda k: losses.masked_correlation_kl(s, t, y, temperature=k),
    ):
        with jax.enable_x64(True):
            slope = (loss(2.0 + 1e-2).sum() - loss(2.0 - 1e-2).sum()) / 2e-2
        np.testing.assert_allclose(jax.grad(lambda k, f=loss: f(k).sum())(2.0), slope, rtol=2e-3)
