"""Every measure against NumPy and SciPy in float64."""

import numpy as np
import pytest
from scipy import special, stats

from mixkd_jax.evaluation import between
from mixkd_jax.evaluation.pairs import draw_pairs
from mixkd_jax.evaluation.predict import Predictions

CLASSES = 7
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES, 40)
PAIRS = draw_pairs(RNG, len(LABELS), lambda indices: LABELS[indices], 300)


def predictions(count, scale=2.0):
    logits = (scale * RNG.normal(size=(count, CLASSES))).astype(np.float32)
    return Predictions(logits, np.zeros((count, 1), np.float32))


REAL, MIXED = predictions(40), predictions(300)
TEACHER_REAL, TEACHER_MIXED = predictions(40), predictions(300)


def softmax(own):
    return special.softmax(own.logits.astype(np.float64), -1)


def reference_of(real):
    lam = PAIRS.lam.astype(np.float64)[:, None]
    probs = softmax(real)
    return lam * probs[PAIRS.i] + (1 - lam) * probs[PAIRS.j]


def outside_of(probs):
    rows = np.arange(len(probs))
    own, other = PAIRS.labels[PAIRS.i], PAIRS.labels[PAIRS.j]
    pair = probs[rows, own] + np.where(own == other, 0, probs[rows, other])
    return 1 - pair


def test_measures_of_one_model():
    p, r = softmax(MIXED), reference_of(REAL)
    expected = {
        "nonlinearity": stats.entropy(r, p, axis=-1),
        "entropy": stats.entropy(p, axis=-1),
        "kl_reference": stats.entropy(p, r, axis=-1),
        "outside": outside_of(p),
        "outside_reference": outside_of(r),
        "outside_excess": outside_of(p) - outside_of(r),
    }
    found = between.measure(REAL, MIXED, PAIRS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_comparison_with_the_teacher():
    found = between.compare(TEACHER_MIXED.logits, MIXED.logits)
    t, s = softmax(TEACHER_MIXED), softmax(MIXED)
    np.testing.assert_allclose(found["kl_teacher"], stats.entropy(t, s, axis=-1), rtol=1e-4)
    np.testing.assert_array_equal(found["agreement"], t.argmax(-1) == s.argmax(-1))


def test_gains_are_teacher_minus_student():
    teacher = between.measure(TEACHER_REAL, TEACHER_MIXED, PAIRS)
    student = between.measure(REAL, MIXED, PAIRS)
    found = between.gains(teacher, student)
    t, s = softmax(TEACHER_MIXED), softmax(MIXED)
    gain = stats.entropy(reference_of(TEACHER_REAL), t, axis=-1)
    gain -= stats.entropy(reference_of(REAL), s, axis=-1)
    gap = stats.entropy(t, axis=-1) - stats.entropy(s, axis=-1)
    np.testing.assert_allclose(found["linearity_gain"], gain, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["entropy_gap"], gap, rtol=1e-3, atol=1e-5)


def outside_classes(k):
    own = [int(PAIRS.labels[side[k]]) for side in (PAIRS.i, PAIRS.j)]
    return [c for c in range(CLASSES) if c not in own]


def test_structure_is_spearman_s_correlation_outside_the_pair():
    found = between.structure(REAL, MIXED, PAIRS, np.random.default_rng(1))
    p, r = softmax(MIXED), reference_of(REAL)
    for k in range(60):
        outside = outside_classes(k)
        expected = stats.spearmanr(p[k, outside], r[k, outside])[0]
        assert found["structure"][k] == pytest.approx(expected, abs=1e-9)
        m = between._others(PAIRS)[0][k]
        outside = [c for c in outside if c in outside_classes(m)]
        if len(outside) < 3:
            assert np.isnan(found["structure_other"][k])
            continue
        expected = stats.spearmanr(p[k, outside], r[m, outside])[0]
        assert found["structure_other"][k] == pytest.approx(expected, abs=1e-9)


def test_another_pair_has_other_images():
    labels = RNG.integers(0, CLASSES, 500)
    for images, count in ((500, 300), (40, 300), (5, 20), (4, 12)):
        drawn = draw_pairs(np.random.default_rng(3), images, lambda k: labels[k], count)
        other, apart = between._others(drawn)
        assert apart.all()
        for k, m in enumerate(other):
            assert not {drawn.i[k], drawn.j[k]} & {drawn.i[m], drawn.j[m]}
    few = draw_pairs(np.random.default_rng(3), 3, lambda k: labels[k], 6)
    assert not between._others(few)[1].any()


def test_the_reference_of_another_pair_tells_nothing_of_a_linear_model():
    labels = RNG.integers(0, 10, 2000)
    drawn = draw_pairs(np.random.default_rng(4), 2000, lambda k: labels[k], 1000)
    real = Predictions(RNG.normal(size=(len(drawn.images), 10)).astype(np.float32), None)
    probs, lam = softmax(real), drawn.lam[:, None]
    mixed = Predictions(np.log(lam * probs[drawn.i] + (1 - lam) * probs[drawn.j]), None)
    found = between.structure(real, mixed, drawn, np.random.default_rng(5))["structure_other"]
    assert abs(np.nanmean(found)) < 4 * stats.sem(found, nan_policy="omit")


def test_structure_that_is_there_is_found_and_gone_when_shuffled():
    r = reference_of(REAL)
    mixed = MIXED._replace(logits=np.log(r).astype(np.float32))
    found = between.structure(REAL, mixed, PAIRS, np.random.default_rng(1))
    np.testing.assert_allclose(found["structure"], 1)
    shuffled = found["structure_shuffled"]
    assert abs(shuffled.mean()) < 4 * stats.sem(shuffled) and shuffled.std() > 0.2


def test_shuffling_moves_only_what_is_outside():
    values, where = RNG.random((50, 9)), RNG.random((50, 9)) < 0.7
    moved = between._shuffled(values, where, np.random.default_rng(2))
    np.testing.assert_array_equal(moved[~where], values[~where])
    for row, other, mask in zip(values, moved, where, strict=True):
        np.testing.assert_array_equal(np.sort(row[mask]), np.sort(other[mask]))
    assert (moved != values).mean() > 0.4


def test_rank_correlation_shares_ranks_and_knows_its_limits():
    x = np.array([[1.0, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 0]])
    y = np.array([[4.0, 4, 5, 1], [4, 3, 2, 1], [1, 2, 0, 0], [1, 2, 3, 4]])
    where = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    expected = [stats.spearmanr(x[0], y[0])[0], -1, np.nan, np.nan]
    np.testing.assert_allclose(between.rank_correlation(x, y, where), expected)


def test_statistics_are_those_of_numpy_and_leave_nan_out():
    values = RNG.normal(size=200)
    values[::9] = np.nan
    group = RNG.integers(-1, 4, 200)
    found = between.statistics({"a": values}, group, 5)["a"]
    for k in range(4):
        rows = values[(group == k) & np.isfinite(values)]
        assert found["count"][k] == len(rows)
        assert found["mean"][k] == pytest.approx(rows.mean(), rel=1e-12)
        assert found["stderr"][k] == pytest.approx(stats.sem(rows), rel=1e-12)
    assert [found[key][4] for key in ("count", "mean", "stderr")] == [0, None, None]
    one = between.statistics({"a": np.array([3.0])}, np.zeros(1, int))["a"]
    assert one == {"count": 1, "mean": 3.0, "stderr": None}


def test_summary_divides_pairs_by_lambda_and_kind():
    values = {"a": RNG.normal(size=300)}
    found = between.summarize(values, PAIRS)
    same = PAIRS.labels[PAIRS.i] == PAIRS.labels[PAIRS.j]
    for kind, chosen in (("all", same | ~same), ("same", same), ("different", ~same)):
        own = found[kind]
        assert own["overall"]["a"]["mean"] == pytest.approx(values["a"][chosen].mean())
        peak = chosen & (PAIRS.lam > 0.45) & (PAIRS.lam < 0.55)
        assert own["peak"]["a"]["count"] == peak.sum()
        for k in range(20):
            inside = values["a"][chosen & (PAIRS.lam >= k / 20) & (PAIRS.lam < (k + 1) / 20)]
            mean = pytest.approx(inside.mean()) if len(inside) else None
            assert own["bins"]["a"]["count"][k] == len(inside)
            assert own["bins"]["a"]["mean"][k] == mean
        assert len(own["bins"]["a"]["mean"]) == 20
