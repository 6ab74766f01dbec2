import numpy as np
import pytest
from scipy import optimize, special, stats

from mixkd_jax.evaluation import calibrate

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(400, 5))).astype(np.float32)
LABELS = np.where(RNG.random(400) < 0.6, LOGITS.argmax(-1), RNG.integers(0, 5, 400))
PROBS = special.softmax(LOGITS, -1)


def test_temperature_minimises_the_nll_and_scales_the_scores():
    held_out = LOGITS[:200], LABELS[:200]
    found = calibrate.calibrate(LOGITS, LABELS, held_out, num_bins=10, rng=np.random.default_rng(1))

    def nll(temperature):
        logp = special.log_softmax(LOGITS[:200].astype(np.float64) / temperature, -1)
        return -logp[np.arange(200), LABELS[:200]].mean()

    best = optimize.fminbound(nll, 0.1, 20)
    assert found["temperature"] == pytest.approx(best, rel=1e-3)
    assert found["held_out"] == 200
    scaled = calibrate.scores(LOGITS / found["temperature"], LABELS, num_bins=10)
    assert found["scaled"] == pytest.approx(scaled)
    assert scaled["nll"] < found["scores"]["nll"]


def test_without_held_out_images_no_temperature_is_fitted():
    found = calibrate.calibrate(LOGITS, LABELS, None, num_bins=10, rng=np.random.default_rng(1))
    assert found["temperature"] is None and found["scaled"] is None and found["held_out"] == 0


def test_scores():
    found = calibrate.scores(LOGITS, LABELS, num_bins=15)
    p = special.softmax(LOGITS.astype(np.float64), -1)
    confidence, correct = p.max(-1), p.argmax(-1) == LABELS
    order = np.argsort(confidence)
    runs = np.array_split(order, 15)
    adaptive = sum(abs((confidence[r] - correct[r]).sum()) for r in runs) / 400
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs((confidence - correct)[bins == b].sum()) for b in range(15)) / 400
    hits = np.eye(5)[LABELS]
    class_bins = np.minimum((p * 15).astype(int), 14)
    classwise = np.mean(
        [
            sum(abs((p - hits)[class_bins[:, c] == b, c].sum()) for b in range(15)) / 400
            for c in range(5)
        ]
    )
    expected = {
        "ece": ece,
        "adaptive_ece": adaptive,
        "classwise_ece": classwise,
        "overconfidence": (confidence - correct).mean(),
        "nll": -np.log(p[np.arange(400), LABELS]).mean(),
        "brier": ((p - hits) ** 2).sum(-1).mean(),
        "aurc": np.mean(np.cumsum(~correct[order[::-1]]) / np.arange(1, 401)),
    }
    assert found == pytest.approx(expected, rel=1e-4)


def test_reliability_diagram_and_intervals():
    diagram, intervals = calibrate.bootstrap(
        PROBS, LABELS, num_bins=10, rng=np.random.default_rng(1)
    )
    confidence, correct = PROBS.max(-1), PROBS.argmax(-1) == LABELS
    for b in range(10):
        own = (confidence >= b / 10) & (confidence < (b + 1) / 10)
        assert diagram["count"][b] == own.sum()
        if not own.any():
            assert all(diagram[k][b] is None for k in ("confidence", "accuracy", "low", "high"))
            continue
        assert diagram["confidence"][b] == pytest.approx(confidence[own].mean(), rel=1e-5)
        assert diagram["accuracy"][b] == pytest.approx(correct[own].mean())
        if own.sum() > 30:  # many enough for the normal approximation to be near
            half = 1.96 * np.sqrt(correct[own].mean() * (1 - correct[own].mean()) / own.sum())
            assert diagram["high"][b] - diagram["low"][b] == pytest.approx(2 * half, rel=0.2)
    gap = confidence - correct
    low, high = intervals["overconfidence"]
    assert (low + high) / 2 == pytest.approx(gap.mean(), abs=0.005)
    assert high - low == pytest.approx(2 * 1.96 * stats.sem(gap), rel=0.1)
    assert intervals["ece"][0] < calibrate.scores(LOGITS, LABELS, num_bins=10)["ece"] < 1


def test_the_seed_decides_the_intervals():
    def found(seed):
        return calibrate.bootstrap(PROBS, LABELS, num_bins=10, rng=np.random.default_rng(seed))

    assert found(1) == found(1) != found(2)


def test_risk_coverage():
    curve = calibrate.risk_coverage(PROBS, LABELS)
    order = np.argsort(-PROBS.max(-1))
    wrong = (PROBS.argmax(-1) != LABELS)[order]
    risk = [wrong[: k + 1].mean() for k in range(400)]
    np.testing.assert_allclose(curve["coverage"], np.arange(1, 21) / 20)
    np.testing.assert_allclose(curve["risk"], risk[19::20])


def test_equal_confidences_share_their_errors():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    for labels in ([0, 1, 0, 0], [0, 0, 1, 0]):
        curve = calibrate.risk_coverage(probs, np.array(labels))
        assert curve["risk"][4::5] == pytest.approx([0, 0.5 / 2, 1 / 3, 1 / 4])
