"""Calibration: bins, errors, scores and temperature against NumPy float64."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from scipy import optimize

from mixkd_jax import calibration


def draw(seed, examples=200, classes=5, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(examples, classes)).astype(np.float32)
    return logits, np.array(jax.nn.softmax(logits)), rng.integers(classes, size=examples)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_bins_and_errors_against_float64(num_bins):
    _, p, y = draw(num_bins)
    bins = jax.jit(functools.partial(calibration.calibration_bins, num_bins=num_bins))(p, y)
    n, confidence, correct = ref.bins(p, y, num_bins)
    np.testing.assert_array_equal(bins.count, n)
    np.testing.assert_array_equal(bins.correct, correct)
    assert ref.relative_error(bins.confidence, confidence) <= 1e-6
    gap = (confidence - correct) / np.maximum(n, 1)
    for error, want in (
        (calibration.expected_calibration_error, np.sum(n * np.abs(gap)) / n.sum()),
        (calibration.maximum_calibration_error, np.abs(gap)[n > 0].max()),
        (calibration.overconfidence, np.sum(n * gap) / n.sum()),
        (
            calibration.overconfidence_error,
            np.sum(confidence * np.maximum(gap, 0)) / n.sum(),
        ),
    ):
        assert ref.relative_error(jax.jit(error)(bins), want) <= 1e-6


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, jnp.float16])
def test_probabilities_on_an_edge_belong_to_the_bin_on_its_right(dtype):
    for num_bins in (2, 3, 7, 10, 15, 20):
        edges = (np.arange(num_bins + 1) / num_bins).astype(dtype)
        confident = edges[edges >= 0.5]
        p = np.stack([confident, np.asarray(1 - confident.astype(np.float64), dtype)], -1)
        bins = calibration.calibration_bins(p, np.zeros(len(p), int), num_bins=num_bins)
        want = np.zeros(num_bins)
        for k in range(num_bins + 1):
            if edges[k] >= 0.5:
                want[min(k, num_bins - 1)] += 1
        np.testing.assert_array_equal(bins.count, want)
        below = np.nextafter(np.float32(edges[-2]), np.float32(0))
        if dtype == np.float32 and below >= 0.5:
            p = np.array([[below, 1 - below]])
            bins = calibration.calibration_bins(p, np.array([0]), num_bins=num_bins)
            assert bins.count[num_bins - 2] == 1


def test_hand_made_bins():
    p = np.array([[0.75, 0.25], [0.75, 0.25], [1.0, 0.0], [0.5, 0.5]])
    bins = calibration.calibration_bins(p, np.array([0, 1, 0, 1]), num_bins=4)
    np.testing.assert_array_equal(bins.count, [0, 0, 1, 3])
    np.testing.assert_allclose(bins.confidence, [0, 0, 0.5, 2.5])
    np.testing.assert_array_equal(bins.correct, [0, 0, 0, 2])
    np.testing.assert_allclose(calibration.expected_calibration_error(bins), 0.25)
    np.testing.assert_allclose(calibration.maximum_calibration_error(bins), 0.5)
    np.testing.assert_allclose(calibration.overconfidence(bins), 0.25)
    np.testing.assert_allclose(
        calibration.overconfidence_error(bins), (0.5 * 0.5 + 2.5 / 3 * 0.5) / 4, rtol=1e-6
    )


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_bins_of_the_parts_add_up_to_the_whole(seed, cuts):
    _, p, y = draw(seed, 60)
    parts = [
        calibration.calibration_bins(p[i:j], y[i:j])
        for i, j in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True)
    ]
    merged = functools.reduce(operator.add, parts)
    whole = calibration.calibration_bins(p, y)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_array_equal(merged.correct, whole.correct)
    np.testing.assert_allclose(merged.confidence, whole.confidence, rtol=1e-6)


def test_where_equals_subsetting_and_hides_padding():
    _, p, y = draw(0, 30)
    keep = np.arange(30) % 3 > 0
    p[0], y[3] = np.nan, 99
    got = calibration.calibration_bins(p, y, where=keep)
    want = calibration.calibration_bins(p[keep], y[keep])
    jitted = jax.jit(lambda p, y, w: calibration.calibration_bins(p, y, where=w))(p, y, keep)
    for bins in (got, jitted):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), bins, want)


def test_bins_merge_across_devices_and_batch_axes():
    _, p, y = draw(1, 64)
    want = calibration.calibration_bins(p, y)

    def local(p, y):
        return jax.lax.psum(calibration.calibration_bins(p, y), "data")

    split = jax.shard_map(local, mesh=ref.data_mesh(), in_specs=P("data"), out_specs=P())
    by_batch = jax.vmap(calibration.calibration_bins)(p.reshape(4, 16, 5), y.reshape(4, 16))
    summed = jax.tree.map(lambda x: x.sum(0), by_batch)
    leading = calibration.calibration_bins(p.reshape(4, 16, 5), y.reshape(4, 16))
    for bins in (jax.jit(split)(p, y), summed, leading):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), bins, want)


def test_no_examples_give_nan():
    bins = calibration.calibration_bins(np.zeros((0, 3), np.float32), np.zeros(0, int))
    for error in (
        calibration.expected_calibration_error,
        calibration.maximum_calibration_error,
        calibration.overconfidence,
        calibration.overconfidence_error,
    ):
        assert np.isnan(error(bins))


@pytest.mark.parametrize("examples", [5, 100, 151])
def test_adaptive_error_against_array_split(examples):
    _, p, y = draw(2, examples)
    confidence = p.max(1).astype(np.float64)
    order = np.argsort(confidence, kind="stable")
    gap = (confidence - (p.argmax(1) == y))[order]
    want = sum(abs(run.sum()) for run in np.array_split(gap, 15)) / examples
    got = jax.jit(calibration.adaptive_calibration_error)(p, y)
    assert ref.relative_error(got, want) <= 1e-6


def test_classwise_error_is_the_mean_binary_error():
    _, p, y = draw(3)
    want = 0.0
    for c in range(5):
        index = np.digitize(p[:, c], (np.arange(1, 10) / 10).astype(np.float32))
        for b in range(10):
            here = index == b
            want += abs(np.sum(p[here, c].astype(np.float64)) - np.sum(y[here] == c)) / 200 / 5
    got = jax.jit(functools.partial(calibration.classwise_calibration_error, num_bins=10))(p, y)
    assert ref.relative_error(got, want) <= 1e-6


@pytest.mark.parametrize("classes", [2, 1000])
def test_scores_against_float64(classes):
    logits, p, y = draw(4, 50, classes)
    brier = np.sum((p.astype(np.float64) - np.eye(classes)[y]) ** 2, 1)
    assert ref.relative_error(jax.jit(calibration.brier_score)(p, y), brier) <= 1e-6
    got = jax.jit(calibration.negative_log_likelihood)(logits, y)
    assert ref.relative_error(got, ref.cross_entropy(logits, y)) <= 1e-6
    gradient = jax.grad(lambda p: calibration.brier_score(p, y).sum())(p)
    assert ref.relative_error(gradient, 2 * (p.astype(np.float64) - np.eye(classes)[y])) <= 1e-6
    assert np.isnan(jax.jit(calibration.brier_score)(p, np.full(50, classes))).all()


def nll(t, logits, y):
    return np.mean(ref.cross_entropy(logits.astype(np.float64) / t, y))


@pytest.mark.parametrize(
    ("classes", "scale", "true"), [(2, 3.0, 1.0), (10, 2.0, 3.0), (10, 50.0, 0.5)]
)
def test_fitted_temperature_minimises_the_nll(classes, scale, true):
    rng = np.random.default_rng(classes)
    logits = rng.normal(scale=scale, size=(300, classes)).astype(np.float32)
    noise = rng.gumbel(size=logits.shape)
    y = np.argmax(logits / true + noise, 1)
    got = float(jax.jit(calibration.fit_temperature)(logits, y))
    best: Any = optimize.minimize_scalar(
        lambda x: nll(np.exp(x), logits, y),
        bounds=(-4, 6),
        method="bounded",
        options={"xatol": 1e-9},
    )
    np.testing.assert_allclose(got, np.exp(best.x), rtol=2e-5)
    np.testing.assert_allclose(calibration.fit_temperature(64 * logits, y), 64 * got, rtol=1e-4)


def test_temperature_of_separable_hopeless_and_constant_data():
    logits = np.array([[2.0, 0.0], [0.0, 2.0]], np.float32)
    right, wrong = np.array([0, 1]), np.array([1, 0])
    np.testing.assert_allclose(calibration.fit_temperature(logits, right), 2e-4, rtol=1e-4)
    np.testing.assert_allclose(calibration.fit_temperature(logits, wrong), 2e4, rtol=1e-4)
    assert calibration.fit_temperature(np.zeros((2, 3), np.float32), right) == 1
    gradient = jax.grad(lambda z: calibration.fit_temperature(z, right))(logits)
    assert np.isfinite(gradient).all()


def test_temperature_ignores_removed_classes():
    logits, _, y = draw(5, 100, 4)
    removed = np.concatenate([logits, np.full((100, 1), -np.inf, np.float32)], 1)
    np.testing.assert_allclose(
        calibration.fit_temperature(removed, y), calibration.fit_temperature(logits, y), rtol=1e-4
    )


def test_temperature_gradient_vmap_and_shard_map():
    logits, _, _ = draw(6, 40, 3)
    noise = np.random.default_rng(1).gumbel(size=logits.shape)
    y = np.argmax(logits + noise, 1)
    gradient = jax.jit(jax.grad(lambda z: calibration.fit_temperature(z, y)))(logits)
    direction = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)
    fit = jax.jit(calibration.fit_temperature)
    slope = (fit(logits + 1e-2 * direction, y) - fit(logits - 1e-2 * direction, y)) / 2e-2
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=5e-3)
    stacked = jax.vmap(calibration.fit_temperature, (0, None))(np.stack([logits, 3 * logits]), y)
    np.testing.assert_allclose(stacked, [fit(logits, y), 3 * fit(logits, y)], rtol=1e-4)
    split = jax.shard_map(
        lambda z, y: calibration.fit_temperature(z, y)[None],
        mesh=ref.data_mesh(),
        in_specs=P("data"),
        out_specs=P("data"),
    )
    assert np.isfinite(jax.jit(split)(logits, y)).all()


Z, ROW, Y = np.zeros((2, 2), np.float32), np.full((2, 2), 0.5, np.float32), np.array([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.calibration_bins(3 * ROW, Y), "probs: .*sum 1.*got sum 3"),
        (lambda: calibration.calibration_bins(ROW, Y, num_bins=0), "num_bins: .*got 0"),
        (lambda: calibration.calibration_bins(ROW, Y[:1]), r"labels: .*\(2,\), .*got \(1,\)"),
        (lambda: calibration.calibration_bins(ROW, Y + 1), "labels: .*from 0 to 1, got 1 to 2"),
        (lambda: calibration.calibration_bins(ROW, ROW), "labels: .*integer.*float32"),
        (lambda: calibration.calibration_bins(ROW, Y, where=np.ones(3, bool)), r"where: .*\(3,\)"),
        (
            lambda: (
                calibration.calibration_bins(ROW, Y)
                + calibration.calibration_bins(ROW, Y, num_bins=2)
            ),
            r"bins: .*\(15,\) and \(2,\)",
        ),
        (lambda: calibration.adaptive_calibration_error(Z, Y), "probs: .*got sum 0"),
        (lambda: calibration.classwise_calibration_error(Z, Y), "probs: .*got sum 0"),
        (lambda: calibration.brier_score(Z, Y), "probs: .*got sum 0"),
        (lambda: calibration.negative_log_likelihood(Z, ROW), "labels: .*integer"),
        (lambda: calibration.fit_temperature(Z, Y + 5), "labels: .*got 5 to 6"),
        (lambda: calibration.fit_temperature(Z[:0], Y[:0]), "logits: .*at least one example"),
    ],
)
def test_errors_name_the_argument_and_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
