"""Mixing: the draws, their distribution, and what is made of them."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from jax.sharding import PartitionSpec as P
from scipy.stats import beta, ks_2samp, kstest

from mixkd_jax import mixup, vicinal

KEY = jax.random.key(0)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lam_is_beta_distributed(alpha):
    lam = np.asarray(mixup.sample_mixup(KEY, 20_000, alpha=alpha).lam, np.float64)
    assert lam.min() >= 0 and lam.max() <= 1
    # Four standard errors of the mean and of the variance.
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(lam.mean() - 0.5) < 4 * np.sqrt(variance / 20_000)
    assert abs(lam.var() - variance) < 4 * variance * np.sqrt(2 / 20_000)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 3.0, 50.0, 1e4])
def test_both_halves_of_lam_follow_the_beta_distribution(alpha):
    lam = np.asarray(mixup.sample_mixup(jax.random.key(7), 50_000, alpha=alpha).lam)
    lower, upper = lam[lam < 0.5].astype(np.float64), lam[lam > 0.5]
    assert abs(len(lower) - len(upper)) < 0.02 * len(lam)
    assert kstest(lower, lambda x: 2 * beta(alpha, alpha).cdf(np.minimum(x, 0.5))).pvalue > 1e-3
    # Rounded as it is close to 1, where float32 has no room for the tail of a small alpha.
    assert ks_2samp(upper, np.float32(1) - lower.astype(np.float32)).pvalue > 1e-3


def test_drawing_needs_no_loop():
    # In which a GPU would wait for the host. These keys have none of their own.
    key = jax.random.key(0, impl="unsafe_rbg")
    lowered = jax.jit(lambda key, alpha: mixup.sample_mixup(key, 8, alpha=alpha)).lower(key, 0.3)
    assert "while" not in lowered.as_text()
    assert "while" in jax.jit(lambda key: jax.random.beta(key, 0.3, 0.3)).lower(key).as_text()


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 1e3])
def test_extreme_alpha_gives_weights(alpha):
    lam = np.asarray(mixup.sample_mixup(KEY, 1000, alpha=alpha).lam)
    assert np.isfinite(lam).all() and lam.min() >= 0 and lam.max() <= 1
    middle = np.mean((lam > 0.1) & (lam < 0.9))
    assert middle == 1 if alpha > 1 else middle < 0.1


def test_partner_is_a_uniform_permutation():
    keys = jax.random.split(KEY, 6000)
    partners = np.asarray(jax.vmap(lambda k: mixup.sample_mixup(k, 4).partner)(keys))
    np.testing.assert_array_equal(np.sort(partners, 1), np.tile(np.arange(4), (6000, 1)))
    kinds, counts = np.unique(partners, axis=0, return_counts=True)
    assert len(kinds) == 24
    chi2 = np.sum((counts - 250) ** 2 / 250)
    assert chi2 < 50  # 23 degrees of freedom: p = 0.001


@pytest.mark.parametrize("make", [float, jnp.float32])
def test_alpha_zero_and_partial_zero_mix_nothing(make):
    for options in ({"alpha": make(0)}, {"partial": make(0)}):
        for run in (mixup.sample_mixup, jax.jit(mixup.sample_mixup, static_argnums=1)):
            np.testing.assert_array_equal(run(KEY, 16, **options).lam, 1)


def test_partial_is_the_share_of_mixed_examples():
    lam = np.asarray(mixup.sample_mixup(KEY, 10_000, partial=0.3).lam)
    assert abs(np.mean(lam < 1) - 0.3) < 4 * np.sqrt(0.21 / 10_000)


def test_one_lam_for_the_whole_batch():
    keys = jax.random.split(KEY, 2000)
    draw = jax.vmap(lambda k: mixup.sample_mixup(k, 5, per_example=False, partial=0.5).lam)
    lam = np.asarray(draw(keys))
    assert lam.shape == (2000, 5)
    np.testing.assert_array_equal(lam, lam[:, :1].repeat(5, 1))
    assert abs(np.mean(lam[:, 0] < 1) - 0.5) < 0.05


def test_plan_has_its_dtypes_and_depends_on_the_key_alone():
    plan, again = (mixup.sample_mixup(KEY, 8) for _ in range(2))
    other = mixup.sample_mixup(jax.random.key(1), 8)
    assert plan.lam.dtype == jnp.float32 and plan.partner.dtype == jnp.int32
    np.testing.assert_array_equal(plan.lam, again.lam)
    np.testing.assert_array_equal(plan.partner, again.partner)
    assert not np.array_equal(plan.lam, other.lam)


def test_changing_alpha_or_partial_recompiles_nothing():
    traces = []

    @jax.jit
    def run(alpha, partial):
        traces.append(1)
        return mixup.sample_mixup(KEY, 8, alpha=alpha, partial=partial)

    for alpha, partial in ((1.0, 1.0), (0.3, 0.5), (0.0, 1.0)):
        got, want = run(alpha, partial), mixup.sample_mixup(KEY, 8, alpha=alpha, partial=partial)
        np.testing.assert_allclose(got.lam, want.lam, rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, jnp.bfloat16, jnp.float16])
def test_apply_mixup_against_float64(dtype):
    rng = np.random.default_rng(0)
    plan = mixup.sample_mixup(KEY, 6)
    x = rng.integers(0, 256, size=(6, 4, 4, 3)).astype(dtype)
    mixed = mixup.apply_mixup(plan, x)
    lam = np.asarray(plan.lam, np.float64).reshape(-1, 1, 1, 1)
    wide = x.astype(np.float64)
    want = lam * wide + (1 - lam) * wide[np.asarray(plan.partner)]
    low = dtype in (jnp.bfloat16, jnp.float16)
    assert mixed.dtype == (dtype if low else jnp.float32)
    np.testing.assert_allclose(
        np.asarray(mixed, np.float64), want, rtol=8e-3 if low else 1e-6, atol=1e-4
    )
    np.testing.assert_array_equal(
        mixed, mixup.interpolate(plan.lam, x, x[np.asarray(plan.partner)])
    )


def test_a_weight_of_one_leaves_the_example_exactly():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    plan = mixup.sample_mixup(KEY, 5, alpha=0.0)
    np.testing.assert_array_equal(mixup.apply_mixup(plan, x), x)


def test_mixed_one_hot_labels_sum_to_one_and_float64_stays():
    plan = mixup.sample_mixup(KEY, 6)
    mixed = mixup.apply_mixup(plan, np.eye(10)[[0, 3, 3, 9, 1, 2]])
    np.testing.assert_allclose(mixed.sum(-1), 1, rtol=1e-6)
    with jax.enable_x64(True):
        assert (
            mixup.interpolate(jnp.ones(2), np.zeros((2, 3)), np.zeros((2, 3))).dtype == jnp.float64
        )


def test_gradient_vmap_and_shard_map():
    rng = np.random.default_rng(0)
    x_i, x_j = rng.normal(size=(2, 8, 3)).astype(np.float32)
    lam = rng.uniform(size=8).astype(np.float32)
    by_lam, by_x = jax.grad(lambda lam, x: mixup.interpolate(lam, x, x_j).sum(), (0, 1))(lam, x_i)
    np.testing.assert_allclose(by_lam, (x_i - x_j).sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_x, np.tile(lam[:, None], (1, 3)))
    want = mixup.interpolate(lam, x_i, x_j)
    np.testing.assert_allclose(jax.vmap(mixup.interpolate)(lam, x_i, x_j), want, rtol=1e-6)
    split = jax.shard_map(
        mixup.interpolate, mesh=ref.data_mesh(), in_specs=P("data"), out_specs=P("data")
    )
    np.testing.assert_allclose(jax.jit(split)(lam, x_i, x_j), want, rtol=1e-6)


def test_trees_are_mixed_leaf_by_leaf():
    plan = mixup.sample_mixup(KEY, 4)
    x = {"image": np.ones((4, 2, 2), np.uint8), "labels": (np.eye(4, 3), np.arange(4.0))}
    got = mixup.apply_mixup(plan, x)
    want = {
        "image": mixup.apply_mixup(plan, x["image"]),
        "labels": tuple(mixup.apply_mixup(plan, part) for part in x["labels"]),
    }
    jax.tree.map(np.testing.assert_array_equal, got, want)
    with pytest.raises(ValueError, match=r"x\['labels'\]: expected 4 examples"):
        mixup.apply_mixup(plan, {"labels": np.eye(3)})
    with pytest.raises(TypeError, match="x: expected an array or a tree of arrays, got None"):
        mixup.apply_mixup(plan, None)


class Foreign:
    """An array that only DLPack can hand over, as PyTorch's bfloat16."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array__(self, *_, **__):
        raise TypeError("Got unsupported ScalarType BFloat16")


def test_arrays_that_only_dlpack_hands_over():
    x = jnp.eye(4, dtype=jnp.bfloat16)
    plan = mixup.sample_mixup(KEY, 4)
    foreign: Any = Foreign(x)
    np.testing.assert_array_equal(mixup.interpolate(plan.lam, foreign, x), x)
    np.testing.assert_array_equal(vicinal.entropy(foreign), vicinal.entropy(x))
    assert vicinal.entropy(foreign).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixup.sample_mixup(KEY, 4, alpha=-0.1), "alpha: .*at least 0, got -0.1"),
        (lambda: mixup.sample_mixup(KEY, 4, alpha="1"), "alpha: .*number, got '1'"),
        (lambda: mixup.sample_mixup(KEY, 4, partial=1.5), "partial: .*at most 1, got 1.5"),
        (lambda: mixup.sample_mixup(KEY, 0), "batch_size: .*at least 1.*got 0"),
        (lambda: mixup.sample_mixup(KEY, cast(Any, 4.0)), "batch_size: .*got 4.0"),
        (lambda: mixup.apply_mixup(mixup.sample_mixup(KEY, 4), np.ones((3, 2))), "x: .*4 examples"),
        (lambda: mixup.apply_mixup(mixup.sample_mixup(KEY, 4), np.arange(4)), "x: .*one-hot first"),
        (lambda: mixup.interpolate(np.ones(2), np.arange(2), np.arange(2)), "x_i: .*one-hot first"),
        (
            lambda: mixup.interpolate(np.ones(2), np.ones((2, 3)), np.ones((2, 4))),
            r"x_j: .*\(2, 4\)",
        ),
        (lambda: mixup.interpolate(np.ones(3), np.ones((2, 3)), np.ones((2, 3))), r"lam: .*\(3,\)"),
        (
            lambda: mixup.interpolate(np.array([2.0]), np.ones((1, 3)), np.ones((1, 3))),
            "lam: .*to 2",
        ),
    ],
)
def test_errors_name_the_argument_and_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
