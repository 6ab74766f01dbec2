import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as reference
import pytest
import small

from mixkd_jax import data
from mixkd_jax.evaluation.evaluate import evaluate
from mixkd_jax.evaluation.predict import create_predict
from mixkd_jax.training import sharding

NETWORK = small.cnn()
TOTAL = 45
KEY = jax.random.key(9)


@pytest.fixture(scope="module")
def split():
    return small.dataset(test=TOTAL).test


@pytest.fixture(scope="module")
def variables():
    """Confident on purpose, so that confidences fill several bins."""
    return jax.tree.map(lambda leaf: np.asarray(2 * leaf), small.teacher(network=NETWORK).variables)


def _evaluation(split, variables, *, devices=1, batch_size=TOTAL, num_bins=5, **more):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    variables = jax.device_put(variables, sharding.replicated(mesh))
    predict = create_predict(NETWORK, mesh=mesh, batch_size=batch_size)
    return evaluate(
        predict, variables, small.images(mesh, split), num_bins=num_bins, key=KEY, **more
    )


@pytest.fixture(scope="module")
def found(split, variables):
    return _evaluation(split, variables)


def _probs(variables, images):
    logits = np.asarray(
        jax.jit(NETWORK.logits)(variables, jnp.asarray(images, jnp.float32)), np.float64
    )
    return logits, np.exp(np.array([reference.log_softmax(row) for row in logits]))


def test_metrics_are_those_of_numpy_on_the_whole_split(split, variables, found):
    logits, probs = _probs(variables, split.images)
    labels = split.labels
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    count, in_bin, right = reference.bins(probs.astype(np.float32), labels, 5)
    want = {
        "accuracy": correct.mean(),
        "ece": np.abs(in_bin - right).sum() / TOTAL,
        "overconfidence": confidence.mean() - correct.mean(),
        "nll": reference.cross_entropy(logits, labels).mean(),
        "brier": ((probs - np.eye(3)[labels]) ** 2).sum(1).mean(),
    }
    assert 0.2 < want["accuracy"] < 0.95 and np.count_nonzero(count) > 2
    for name, value in want.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-5), name
    assert found.bins["count"] == list(count) and found.bins["correct"] == list(right)
    np.testing.assert_allclose(found.bins["confidence"], in_bin, rtol=1e-5)
    assert sum(found.bins["count"]) == TOTAL


def test_nonlinearity_is_that_of_numpy_on_one_pair_an_example(split, variables, found):
    order_key, lam_key = jax.random.split(KEY)
    order = np.asarray(jax.random.permutation(order_key, TOTAL))
    lam = np.asarray(jax.random.uniform(lam_key, (TOTAL,)), np.float64)
    images, partners = split.images[order].astype(np.float64), np.roll(np.arange(TOTAL), -1)
    weight = lam[:, None, None, None]
    _, mixed = _probs(variables, weight * images + (1 - weight) * images[partners])
    _, probs = _probs(variables, images)
    line = lam[:, None] * probs + (1 - lam[:, None]) * probs[partners]
    want = reference.kl_divergence(line, mixed).mean()
    assert want > 0.01
    assert found.metrics["nonlinearity"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {"batch_size": 1},
        {"batch_size": 44},
        {"batch_size": 1000},
        {"devices": 8, "batch_size": 13},
        {"devices": 2, "batch_size": 45},
    ],
    ids=str,
)
def test_no_result_depends_on_batches_or_devices(split, variables, found, how):
    other = _evaluation(split, variables, **how)
    assert other.metrics.keys() == found.metrics.keys()
    for name, value in found.metrics.items():
        assert other.metrics[name] == pytest.approx(value, rel=2e-5, abs=1e-7), name
    assert other.bins["count"] == found.bins["count"]
    assert other.bins["correct"] == found.bins["correct"]


def test_a_split_of_one_image_is_measured(split, variables):
    one = _evaluation(data.Split(split.images[:1], split.labels[:1]), variables, devices=8)
    assert one.metrics["accuracy"] in (0.0, 1.0) and sum(one.bins["count"]) == 1
    assert one.metrics["nonlinearity"] == pytest.approx(0, abs=1e-6)  # mixed with itself


def test_agreement_with_a_teacher_is_the_share_of_equal_predictions(split, variables):
    logits, _ = _probs(variables, split.images)
    teacher = logits.copy()
    teacher[:7] = -teacher[:7]  # the least likely class becomes the most likely one
    found = _evaluation(split, variables, batch_size=16, teacher_logits=teacher)
    assert found.metrics["agreement"] == pytest.approx((TOTAL - 7) / TOTAL)


def test_results_are_plain_numbers(found):
    assert list(found.metrics) == [
        "accuracy",
        "ece",
        "overconfidence",
        "nll",
        "brier",
        "nonlinearity",
    ]
    assert all(type(value) is float for value in found.metrics.values())
    assert all(type(x) is float for values in found.bins.values() for x in values)
    assert all(len(values) == 5 for values in found.bins.values())
