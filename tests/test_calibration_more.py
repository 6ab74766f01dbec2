"""Ties, counts, soft labels, and the errors beyond ECE, against NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from scipy import optimize
from test_calibration import draw

from mixkd_jax import calibration


def permuted(error, p, y, **options):
    """Values of an error for several orders of the examples."""
    run = jax.jit(functools.partial(error, **options))
    orders = [np.random.default_rng(k).permutation(len(y)) for k in range(4)]
    return [float(run(p[order], y[order])) for order in orders]


def test_adaptive_errors_keep_ties_together():
    """Groups that are calibrated are so in any order."""
    p = np.repeat([[0.8, 0.2], [0.6, 0.4]], [80, 20], axis=0).astype(np.float32)
    y = np.repeat([0, 1, 0, 1], [64, 16, 12, 8])
    for error in (
        calibration.adaptive_calibration_error,
        calibration.classwise_adaptive_calibration_error,
    ):
        np.testing.assert_allclose(permuted(error, p, y, num_bins=4), 0, atol=1e-6)
    few = calibration.adaptive_calibration_error(p[:3], y[:3], num_bins=15)
    np.testing.assert_allclose(few, 0.2, rtol=1e-6)


def test_classwise_adaptive_error_against_array_split():
    _, p, y = draw(5, 103)
    want = 0.0
    for c in range(5):
        gap = (p[:, c].astype(np.float64) - (y == c))[np.argsort(p[:, c], kind="stable")]
        want += sum(abs(run.sum()) for run in np.array_split(gap, 15)) / 103 / 5
    got = jax.jit(calibration.classwise_adaptive_calibration_error)(p, y)
    assert ref.relative_error(got, want) <= 1e-6


def test_debiased_l2_error_against_float64():
    _, p, y = draw(6, 300)
    n, confidence, correct = ref.bins(p, y, 10)
    some = n > 1
    n, confidence, correct = n[some], confidence[some] / n[some], correct[some] / n[some]
    square = (confidence - correct) ** 2 - correct * (1 - correct) / (n - 1)
    bins = calibration.calibration_bins(p, y, num_bins=10)
    got = jax.jit(calibration.debiased_l2_calibration_error)(bins)
    assert ref.relative_error(got, np.sqrt(np.sum(n * square) / 300)) <= 2e-6


def test_debiased_l2_error_of_calibrated_data_is_smaller_than_the_plain_one():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, size=(200, 100)).astype(np.float32)
    y = (rng.uniform(size=top.shape) > top).astype(int)
    p = np.stack([top, 1 - top], -1)
    debiased = jax.vmap(calibration.debiased_l2_calibration_error)(jnp.asarray(p), jnp.asarray(y))
    bins = jax.vmap(calibration.calibration_bins)(jnp.asarray(p), jnp.asarray(y))
    gap = (bins.confidence - bins.correct) / np.maximum(bins.count, 1)
    plain = np.sqrt(np.sum(bins.count * gap**2, 1) / 100)
    assert np.mean(debiased**2) < 0.25 * np.mean(plain**2)
    one = calibration.calibration_bins(p[0, :1], y[0, :1])
    assert calibration.debiased_l2_calibration_error(one) == 0
    slope = jax.grad(lambda p: calibration.debiased_l2_calibration_error(p, y[0, :1]))(p[0, :1])
    np.testing.assert_array_equal(slope, 0)


def smooth_error(p, y):
    """The definition: a reflected Gaussian on a fine grid, and the width found by Brent."""
    f = p.max(1).astype(np.float64)
    gap = (p.argmax(1) == y) - f
    grid = (np.arange(1000) + 0.5) / 1000

    def above(width):
        images = [f - 2, f, f + 2, -2 - f, -f, 2 - f]
        kernel = sum(np.exp(-((grid[:, None] - x) ** 2) / (2 * width**2)) for x in images)
        smooth = kernel @ gap / (len(f) * width * np.sqrt(2 * np.pi))
        return np.mean(np.abs(smooth)) - width

    return optimize.brentq(above, 1e-3, 1, xtol=1e-10)


@pytest.mark.parametrize(("seed", "examples", "scale"), [(1, 50, 1.0), (2, 200, 3.0)])
def test_smooth_error_against_its_definition(seed, examples, scale):
    logits, p, y = draw(seed, examples, 4, scale)
    y = np.where(np.arange(examples) % 3 > 0, p.argmax(1), y)
    got = jax.jit(calibration.smooth_calibration_error)(p, y)
    np.testing.assert_allclose(got, smooth_error(p, y), rtol=2e-4)

    def error(logits):
        return calibration.smooth_calibration_error(jax.nn.softmax(logits), y)

    direction = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(error))(logits)
    run = jax.jit(error)
    slope = (run(logits + 1e-2 * direction) - run(logits - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-2)


def test_smooth_error_of_one_confidence_is_its_gap():
    """All mass at one point: the smoothed gap integrates to |accuracy - confidence|."""
    p = np.tile(np.array([[0.75, 0.25]], np.float32), (8, 1))
    for right in range(9):
        y = (np.arange(8) >= right).astype(int)
        got = calibration.smooth_calibration_error(p, y)
        np.testing.assert_allclose(got, abs(right / 8 - 0.75), atol=2e-6)


def test_area_under_risk_coverage_in_any_order():
    rng = np.random.default_rng(0)
    top = rng.choice([0.6, 0.7, 0.8, 0.9], size=60).astype(np.float32)
    p, y = np.stack([top, 1 - top], -1), rng.integers(2, size=60)
    wrong = (y == 1).astype(np.float64)
    for value in np.unique(top):
        wrong[top == value] = wrong[top == value].mean()
    ordered = wrong[np.argsort(-top, kind="stable")]
    risks = np.cumsum(ordered) / np.arange(1, 61)
    found = permuted(calibration.area_under_risk_coverage, p, y)
    np.testing.assert_allclose(found, risks.mean(), rtol=1e-6)
    assert calibration.area_under_risk_coverage(p, np.zeros(60, int)) == 0
    np.testing.assert_allclose(calibration.area_under_risk_coverage(p, np.ones(60, int)), 1, 1e-6)


def test_errors_of_no_example_or_nan_are_nan():
    none = np.zeros((0, 3), np.float32), np.zeros(0, int)
    bad = jnp.full((4, 3), jnp.nan), jnp.zeros(4, int)
    for error in (
        calibration.adaptive_calibration_error,
        calibration.classwise_adaptive_calibration_error,
        calibration.area_under_risk_coverage,
        calibration.smooth_calibration_error,
        calibration.debiased_l2_calibration_error,
    ):
        assert np.isnan(error(*none)), error
        if error is not calibration.debiased_l2_calibration_error:
            assert np.isnan(jax.jit(error)(*bad)), error


def test_errors_of_probabilities_and_labels_are_those_of_their_bins():
    _, p, y = draw(7)
    bins = calibration.calibration_bins(p, y)
    for error in (
        calibration.expected_calibration_error,
        calibration.maximum_calibration_error,
        calibration.overconfidence,
        calibration.overconfidence_error,
        calibration.debiased_l2_calibration_error,
    ):
        assert error(p, y) == error(bins)
        with pytest.raises(TypeError, match="labels: expected None with CalibrationBins"):
            error(bins, y)


def test_counts_beyond_31_bits_are_refused_or_seen():
    many = calibration.CalibrationBins(
        jnp.array([2**31 - 2, 0]), jnp.array([1.5e9, 0.0]), jnp.array([2**30, 0])
    )
    with pytest.raises(OverflowError, match=r"np.asarray\(x, np.float64\), bins"):
        many + many
    total = jax.jit(lambda a: a + a + a + a)(many)
    assert np.isnan(calibration.expected_calibration_error(total))
    assert np.isnan(calibration.maximum_calibration_error(total))
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), many)
    for error in (calibration.expected_calibration_error, calibration.maximum_calibration_error):
        np.testing.assert_allclose(error(wide + wide + wide), error(many), rtol=1e-6)


def test_temperature_for_soft_labels():
    logits, _, y = draw(8, 200, 4)
    hard = calibration.fit_temperature(logits, y)
    one_hot = calibration.fit_temperature(logits, np.eye(4, dtype=np.float32)[y])
    np.testing.assert_allclose(one_hot, hard, rtol=1e-5)
    # Labels that are the softmax at a temperature: that is it.
    for true in (0.5, 3.0):
        soft = jax.nn.softmax(logits / true)
        got = jax.jit(calibration.fit_temperature)(logits, soft)
        np.testing.assert_allclose(got, true, rtol=1e-4)


def test_temperature_of_logits_that_say_nothing_is_nan():
    logits, _, y = draw(9, 20, 3)
    soft = np.eye(3, dtype=np.float32)[y]
    for value in (np.nan, np.inf):
        bad = logits.copy()
        bad[3, 1] = value
        assert np.isnan(calibration.fit_temperature(bad, y))
        assert np.isnan(jax.jit(calibration.fit_temperature)(bad, soft))
    for label in (-1, 3):
        wrong = y.copy()
        wrong[0] = label
        assert np.isnan(jax.jit(calibration.fit_temperature)(logits, wrong))
    assert np.isfinite(jax.jit(calibration.fit_temperature)(logits, y))
    gone = logits.copy()
    gone[3] = -np.inf  # all classes of an example, or the one that it is of
    own = logits.copy()
    own[3, y[3]] = -np.inf
    other = logits.copy()
    other[3, (y[3] + 1) % 3] = -np.inf
    for fit in (calibration.fit_temperature, jax.jit(calibration.fit_temperature)):
        for labels in (y, soft):
            assert np.isnan(fit(gone, labels)) and np.isnan(fit(own, labels))
            assert np.isfinite(fit(other, labels))


COLUMN = np.array([[0.3], [0.9]], np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.calibration_bins(COLUMN, [0, 0]), r"stack \[1 - p, p\]: jnp.concat"),
        (lambda: calibration.brier_score(COLUMN[:, 0], [0, 0]), r"jnp.stack\(\[1 - p, p\], -1\)"),
        (lambda: calibration.expected_calibration_error(COLUMN), "bins: .*or pass both"),
        (
            lambda: calibration.fit_temperature(np.zeros((2, 3)), np.ones(2)),
            "labels: .*cast class indices to int32",
        ),
    ],
)
def test_hints(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
