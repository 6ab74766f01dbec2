import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from mixkd_jax import models
from mixkd_jax.data import Split
from mixkd_jax.evaluation import analyse
from mixkd_jax.evaluation.predict import create_predict
from mixkd_jax.models.network import Network
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice

RNG = np.random.default_rng(0)
NETWORK = Network(models.create_model("cnn", num_classes=4, width=4), (0.3,), (0.4,))
MESH = sharding.data_mesh()


def examples(count):
    images = RNG.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
    labels = RNG.integers(0, 4, count).astype(np.int32)
    return OnDevice.put(Split(images, labels), MESH)


@pytest.fixture(scope="module")
def probe():
    splits = {"train": examples(20), "test": examples(30)}
    return analyse.create_probe(
        splits, examples(10), None, num_pairs=60, path_pairs=5, num_bins=15, seed=3
    )


@pytest.fixture(scope="module")
def predictions(probe):
    """Of a teacher and a student: two random networks; and their variables."""
    variables = [
        jax.device_put(
            jax.jit(NETWORK.init, static_argnums=1)(jax.random.key(k), (8, 8, 1)),
            sharding.replicated(MESH),
        )
        for k in range(2)
    ]
    predict = create_predict(NETWORK, mesh=MESH, batch_size=16)
    return [analyse.predict_probe(predict, own, probe) for own in variables], variables


def test_predictions_are_those_of_the_probe(probe, predictions):
    (teacher, _), (variables, _) = predictions
    images = np.asarray(probe.splits["test"].examples.images, np.float32)
    own = np.asarray(jax.jit(NETWORK.logits)(jax.device_get(variables), jnp.asarray(images)))
    np.testing.assert_allclose(teacher.test, own, rtol=1e-4, atol=1e-5)
    pairs, own_split = probe.pairs["test"], teacher.splits["test"]
    np.testing.assert_allclose(own_split.real.logits, own[pairs.images], rtol=1e-4, atol=1e-5)
    assert teacher.held_out.shape == (10, 4)
    assert own_split.mixed.logits.shape == (60, 4)
    # A path begins at x_j (λ = 0) and ends at x_i.
    path = own_split.path.logits.reshape(21, 5, 4)
    ends = [own[pairs.images[side[:5]]] for side in (pairs.j, pairs.i)]
    np.testing.assert_allclose(path[[0, -1]], ends, rtol=1e-4, atol=1e-5)


def test_a_model_is_its_own_perfect_student(probe, predictions):
    (teacher, _), _ = predictions
    found = analyse.analyse(probe, teacher, teacher)
    for split in found["splits"].values():
        overall = split["mixed"]["all"]["overall"]
        for name in ("kl_teacher", "linearity_gain", "entropy_gap"):
            assert overall[name]["mean"] == pytest.approx(0, abs=1e-6)
        assert overall["agreement"]["mean"] == split["real"]["agreement"]["mean"] == 1
        assert split["cka"] == pytest.approx({"real": 1, "mixed": 1}, abs=1e-5)


def test_numbers_are_those_of_numpy(probe, predictions):
    (teacher, student), _ = predictions
    found = analyse.analyse(probe, student, teacher)["splits"]["train"]
    pairs, own = probe.pairs["train"], student.splits["train"]
    p_t, p_s = (
        special.softmax(model.splits["train"].mixed.logits.astype(float), -1)
        for model in (teacher, student)
    )
    overall = found["mixed"]["all"]["overall"]
    kl = np.asarray(stats.entropy(p_t, p_s, axis=-1))
    assert overall["kl_teacher"]["mean"] == pytest.approx(kl.mean(), rel=1e-4)
    assert overall["kl_teacher"]["stderr"] == pytest.approx(stats.sem(kl), rel=1e-4)
    gap = np.asarray(stats.entropy(p_t, axis=-1)) - stats.entropy(p_s, axis=-1)
    assert overall["entropy_gap"]["mean"] == pytest.approx(gap.mean(), rel=1e-3)
    different = pairs.labels[pairs.i] != pairs.labels[pairs.j]
    kinds = {kind: found["mixed"][kind]["overall"]["kl_teacher"] for kind in ("same", "different")}
    assert kinds["different"]["mean"] == pytest.approx(kl[different].mean(), rel=1e-4)
    assert kinds["same"]["count"] == (~different).sum()
    path = special.softmax(own.path.logits.astype(float), -1).reshape(21, 5, 4)
    entropy = np.asarray(stats.entropy(path, axis=-1)).mean(1)
    np.testing.assert_allclose(found["path"]["entropy"]["mean"], entropy, rtol=1e-4)
    correct = own.real.logits.argmax(-1) == pairs.labels
    assert found["real"]["accuracy"]["mean"] == pytest.approx(correct.mean())
    assert found["path"]["lam"] == [round(k / 20, 2) for k in range(21)]
    # At both ends of a path a mixture is an image itself.
    ends = np.array(found["path"]["nonlinearity"]["mean"])[[0, -1]]
    np.testing.assert_allclose(ends, 0, atol=1e-5)


def test_analysing_twice_gives_the_same_strict_json(probe, predictions):
    (teacher, student), (_, variables) = predictions
    first, again = (analyse.analyse(probe, student, teacher) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(again, allow_nan=False)
    for batch_size in (24, 64):
        predict = create_predict(NETWORK, mesh=MESH, batch_size=batch_size)
        own = analyse.predict_probe(predict, variables, probe)
        other = analyse.analyse(probe, own, teacher)["splits"]["test"]
        mean = first["splits"]["test"]["mixed"]["all"]["peak"]["nonlinearity"]["mean"]
        found = other["mixed"]["all"]["peak"]["nonlinearity"]["mean"]
        assert found == pytest.approx(mean, rel=1e-4)


def test_a_teacher_is_compared_with_nobody(probe, predictions):
    (teacher, _), _ = predictions
    split = analyse.analyse(probe, teacher)["splits"]["test"]
    assert "cka" not in split and "kl_teacher" not in split["mixed"]["all"]["overall"]
    assert set(split["real"]) == {"accuracy"}
