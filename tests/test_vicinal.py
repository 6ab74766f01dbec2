"""Vicinal measures against NumPy float64, at the edges, under transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from mixkd_jax import vicinal


def draw(seed, batch=16, classes=10, count=2, concentration=0.5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, concentration), (count, batch)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_values_are_within_1e_6_of_float64(classes):
    p, q, r = draw(classes, 32, classes, 3)
    assert ref.relative_error(jax.jit(vicinal.entropy)(p), ref.entropy(p)) <= 1e-6
    assert ref.relative_error(jax.jit(vicinal.kl_divergence)(p, q), ref.kl_divergence(p, q)) <= 1e-6
    lam = np.random.default_rng(0).uniform(size=32).astype(np.float32)
    mixed = lam[:, None].astype(np.float64) * p + (1 - lam[:, None].astype(np.float64)) * q
    got = jax.jit(vicinal.nonlinearity)(p, q, r, lam)
    assert ref.relative_error(got, ref.kl_divergence(mixed, r)) <= 1e-6


def test_gradients_are_within_1e_6_of_float64_differences():
    p, q = draw(0, 3, 4, concentration=5.0)
    got = jax.grad(lambda p: vicinal.entropy(p).sum())(p)
    assert ref.relative_error(got, ref.gradient(lambda x: ref.entropy(x).sum(), p)) <= 1e-6
    got_p, got_q = jax.grad(lambda p, q: vicinal.kl_divergence(p, q).sum(), (0, 1))(p, q)
    want_p = ref.gradient(lambda x: ref.kl_divergence(x, q).sum(), p)
    want_q = ref.gradient(lambda x: ref.kl_divergence(p, x).sum(), q)
    assert ref.relative_error(got_p, want_p) <= 1e-6
    assert ref.relative_error(got_q, want_q) <= 1e-6


def test_closed_forms():
    np.testing.assert_allclose(vicinal.entropy(jnp.full((1, 8), 1 / 8)), np.log(8), rtol=1e-6)
    np.testing.assert_array_equal(vicinal.entropy(jnp.eye(3)), 0)
    p = draw(1, count=1)[0]
    np.testing.assert_array_equal(vicinal.kl_divergence(p, p), 0)
    uniform = np.full_like(p, 0.1)
    np.testing.assert_allclose(
        vicinal.kl_divergence(p, uniform), np.log(10) - vicinal.entropy(p), rtol=1e-5
    )


def test_kl_of_nearly_equal_rows_keeps_its_digits():
    p = np.full((1, 4), 0.25, np.float32)
    q = p + np.array([[1, -1, 2, -2]], np.float32) * 2**-12
    assert ref.relative_error(vicinal.kl_divergence(p, q), ref.kl_divergence(p, q)) <= 1e-4


def test_zeros_are_finite_with_finite_gradients():
    rows = jnp.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    value, gradient = jax.value_and_grad(lambda p: vicinal.entropy(p).sum())(rows)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert np.isfinite(gradient).all() and np.all(gradient[rows == 0] == 0)
    for p in rows:
        for q in rows:
            value, gradients = jax.value_and_grad(vicinal.kl_divergence, (0, 1))(p, q)
            assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
    # A class that q rules out costs log(1 / 2^-126) = 87.3 nats times its probability.
    value = vicinal.kl_divergence(rows[1], rows[0])
    np.testing.assert_allclose(value, 0.5 * np.log(0.5) * 2 + 0.5 * 126 * np.log(2), rtol=1e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), spread=st.floats(0.0, 200.0, width=32))
def test_bounds(seed, spread):
    logits = spread * np.random.default_rng(seed).normal(size=(2, 4, 6)).astype(np.float32)
    p, q = jax.nn.softmax(logits)
    entropy = vicinal.entropy(p)
    assert np.all(entropy >= 0) and np.all(entropy <= np.log(6) + 1e-6)
    divergence = vicinal.kl_divergence(p, q)
    assert np.isfinite(divergence).all() and np.all(divergence >= -1e-6)
    assert np.all(vicinal.pair_mass(p, np.zeros(4, int), np.ones(4, int)) <= 1 + 1e-6)


def test_pair_mass_counts_one_class_once():
    p = draw(2, 3, 5, 1)[0]
    i, j = np.array([0, 1, 4]), np.array([3, 1, 2])
    want = [p[0, 0] + p[0, 3], p[1, 1], p[2, 4] + p[2, 2]]
    np.testing.assert_allclose(vicinal.pair_mass(p, i, j), want, rtol=1e-6)


def test_a_linear_model_has_no_nonlinearity():
    p, q = draw(3)
    lam = np.linspace(0, 1, 16, dtype=np.float32)
    mixed = lam[:, None] * p + (1 - lam[:, None]) * q
    np.testing.assert_allclose(vicinal.nonlinearity(p, q, mixed, lam), 0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32(dtype):
    p, q = (jnp.asarray(x, dtype) for x in draw(4, classes=4))
    for got, want in (
        (jax.jit(vicinal.entropy)(p), jax.jit(vicinal.entropy)(p.astype(jnp.float32))),
        (
            jax.jit(vicinal.kl_divergence)(p, q),
            jax.jit(vicinal.kl_divergence)(p.astype(jnp.float32), q.astype(jnp.float32)),
        ),
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_nan_rows_give_nan_under_jit():
    bad = jnp.full((1, 3), jnp.nan)
    good = jnp.full((1, 3), 1 / 3)
    assert np.isnan(jax.jit(vicinal.entropy)(bad)).all()
    assert np.isnan(jax.jit(vicinal.kl_divergence)(bad, good)).all()
    assert np.isnan(jax.jit(vicinal.kl_divergence)(good, bad)).all()


def test_transformations():
    p, q, r = draw(5, 8, count=3)
    lam = np.linspace(0, 1, 8, dtype=np.float32)
    want = vicinal.nonlinearity(p, q, r, lam)
    for function in (
        jax.jit(vicinal.nonlinearity),
        jax.vmap(vicinal.nonlinearity),
        jax.checkpoint(vicinal.nonlinearity),
        jax.shard_map(
            vicinal.nonlinearity, mesh=ref.data_mesh(), in_specs=P("data"), out_specs=P("data")
        ),
    ):
        np.testing.assert_allclose(function(p, q, r, lam), want, rtol=1e-5)
    with jax.enable_x64(True):
        assert vicinal.entropy(np.full((1, 4), 0.25)).dtype == jnp.float64


ROW = np.array([[0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vicinal.entropy(3 * ROW), "probs: .*sum 1.*got sum 3"),
        (lambda: vicinal.entropy(np.array([[1.5, -0.5]])), "probs: .*minimum -0.5"),
        (lambda: vicinal.entropy(np.array([[np.nan, 0.5]])), "probs: .*got sum nan"),
        (lambda: vicinal.entropy(np.float32(1)), r"probs: .*shape \(\)"),
        (lambda: vicinal.kl_divergence(ROW, np.ones((1, 3)) / 3), r"q: .*\(1, 2\), got \(1, 3\)"),
        (lambda: vicinal.kl_divergence(ROW, 2 * ROW), "q: .*got sum 2"),
        (lambda: vicinal.nonlinearity(ROW, ROW, ROW, np.array([1.5])), "lam: .*got 1.5"),
        (lambda: vicinal.nonlinearity(ROW, ROW, ROW, np.ones(3)), r"lam: .*shape \(3,\)"),
        (lambda: vicinal.pair_mass(ROW, np.array([2]), np.array([0])), "labels_i: .*got 2 to 2"),
        (lambda: vicinal.pair_mass(ROW, np.array([0]), np.array([0.0])), "labels_j: .*dtype float"),
    ],
)
def test_errors_name_the_argument_and_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
