"""Linear CKA against the estimates of Song et al. with whole kernels, in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest

from mixkd_jax import representation


def hsic(k, m, unbiased):
    n = len(k)
    if not unbiased:
        h = np.eye(n) - 1 / n
        return np.trace(k @ h @ m @ h)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    means = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return np.trace(k @ m) + means - 2 / (n - 2) * (one @ k @ m @ one)


def cka(x, y, unbiased):
    k, m = x @ x.T, y @ y.T
    return hsic(k, m, unbiased) / np.sqrt(hsic(k, k, unbiased) * hsic(m, m, unbiased))


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("shape", [(30, 5, 7), (10, 40, 3), (10, 40, 30), (4, 2, 2)])
def test_against_whole_kernels(shape, unbiased):
    n, d1, d2 = shape
    rng = np.random.default_rng(n + d1)
    x = rng.normal(size=(n, d1)) + 3
    y = np.tanh(x @ rng.normal(size=(d1, d2))) + 0.5 * rng.normal(size=(n, d2))
    x, y = x.astype(np.float32), y.astype(np.float32)
    got = jax.jit(lambda x, y: representation.linear_cka(x, y, unbiased=unbiased))(x, y)
    want = cka(x.astype(np.float64), y.astype(np.float64), unbiased)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_unrelated_features_are_unlike_only_without_bias():
    x, y = np.random.default_rng(0).normal(size=(2, 40, 20, 100)).astype(np.float32)
    unbiased = jax.vmap(representation.linear_cka)(x, y)
    biased = jax.vmap(lambda x, y: representation.linear_cka(x, y, unbiased=False))(x, y)
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(40)
    assert np.mean(biased) > 0.7


def test_invariances_scale_and_gradient():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 12, 4)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    want = representation.linear_cka(x, y)
    np.testing.assert_allclose(
        representation.linear_cka(1e15 * (x @ turn.astype(np.float32)) + 1, 1e-15 * y),
        want, rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    got = jax.grad(representation.linear_cka)(x, y)
    slope = ref.gradient(lambda a: cka(a, y.astype(np.float64), True), x)
    assert ref.relative_error(got, slope) <= 1e-5
    assert np.isnan(representation.linear_cka(np.ones((5, 2)), x[:5]))
    assert representation.linear_cka(jnp.asarray(x, jnp.bfloat16), x).dtype == jnp.float32


@pytest.mark.parametrize("shapes", [((3, 2), (3, 2)), ((5, 2), (4, 2)), ((5,), (5, 2))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="x, y: expected features .* n >= 4 inputs, got"):
        representation.linear_cka(np.ones(shapes[0]), np.ones(shapes[1]))
