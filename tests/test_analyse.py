import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from mixkd_jax import models
from mixkd_jax.data import Split
from mixkd_jax.evaluation import analyse
from mixkd_jax.evaluation import probe as probe_module
from mixkd_jax.evaluation.predict import create_predict
from mixkd_jax.evaluation.probe import ProbePredictions, create_probe
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


TRAIN, TEST, HELD_OUT = examples(20), examples(30), examples(10)


def create(num_pairs=60, path_pairs=5):
    splits = {"train": TRAIN, "test": TEST}
    numbers = {"num_pairs": num_pairs, "path_pairs": path_pairs, "num_bins": 15, "seed": 3}
    return create_probe(splits, HELD_OUT, None, **numbers)


@pytest.fixture(scope="module")
def probe():
    return create()


@pytest.fixture(scope="module")
def variables():
    """Of a teacher and a student: two random networks."""
    init = jax.jit(NETWORK.init, static_argnums=1)
    return [
        jax.device_put(init(jax.random.key(k), (8, 8, 1)), sharding.replicated(MESH))
        for k in range(2)
    ]


PREDICT = create_predict(NETWORK, mesh=MESH, batch_size=16)


@pytest.fixture(scope="module")
def predictions(probe, variables):
    return [ProbePredictions(PREDICT, own, probe, keep=True) for own in variables]


def test_predictions_are_those_of_the_probe(probe, predictions, variables):
    images = np.asarray(TEST.examples.images, np.float32)
    own = np.asarray(jax.jit(NETWORK.logits)(jax.device_get(variables[0]), jnp.asarray(images)))
    np.testing.assert_allclose(predictions[0].all_of(TEST), own, rtol=1e-4, atol=1e-5)
    ((where, pairs),) = probe.parts["test"]
    np.testing.assert_array_equal(where, np.arange(30))
    part = predictions[0].part("test", 0)
    np.testing.assert_allclose(part.real.logits, own[pairs.images], rtol=1e-4, atol=1e-5)
    assert part.mixed.logits.shape == (60, 4)
    which = np.array([3, 0, 59])
    found = predictions[0].mixed("test", which)
    np.testing.assert_allclose(found, part.mixed.logits[which], rtol=1e-4, atol=1e-5)
    # A path begins at x_j (λ = 0) and ends at x_i.
    path = predictions[0].path("test", 0).mixed.logits.reshape(21, 5, 4)
    ends = [own[pairs.images[side[:5]]] for side in (pairs.j, pairs.i)]
    np.testing.assert_allclose(path[[0, -1]], ends, rtol=1e-4, atol=1e-5)


def without(found, *names):
    """What was found as numbers by name, but for some names."""
    leaves = jax.tree_util.tree_leaves_with_path(found)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return {name: leaf for name, leaf in named.items() if not any(n in name for n in names)}


@pytest.mark.parametrize("at_once", [1, 7, 59])
def test_any_number_of_pairs_at_once_gives_the_same(monkeypatch, variables, at_once):
    def analysed(probe, keep):
        teacher, student = (ProbePredictions(PREDICT, own, probe, keep=keep) for own in variables)
        return analyse.analyse(probe, student, teacher)

    whole = analysed(create(path_pairs=50), keep=True)
    monkeypatch.setattr(probe_module, "_PAIRS_AT_ONCE", at_once)
    monkeypatch.setattr(probe_module, "_PATHS_AT_ONCE", at_once)
    found = analysed(create(path_pairs=50), keep=False)
    # These two are of neighbours and of all inputs at once.
    own, other = (without(each, "structure_other", "cka") for each in (whole, found))
    assert own.keys() == other.keys() and len(own) > 500
    for name, value in own.items():
        near = value if isinstance(value, str) else pytest.approx(value, rel=1e-3, abs=2e-4)
        assert other[name] == near, name
    for split in ("train", "test"):
        if at_once > 1:
            cka = found["splits"][split]["cka"], whole["splits"][split]["cka"]
            assert cka[0] == pytest.approx(cka[1], abs=0.3)
        else:
            assert found["splits"][split]["cka"] == {"real": None, "mixed": None}


def test_a_teachers_predictions_are_kept_as_far_as_there_is_room(monkeypatch, variables):
    monkeypatch.setattr(probe_module, "_PAIRS_AT_ONCE", 20)
    probe, asked = create(), []

    def predict(variables, images, i, j, lam):
        asked.append(len(i))
        return PREDICT(variables, images, i, j, lam)

    def ask_twice(keep):
        asked.clear()
        model = ProbePredictions(predict, variables[0], probe, keep=keep)
        first, again = ([model.part("test", k) for k in range(3)] for _ in range(2))
        jax.tree.map(np.testing.assert_array_equal, first, again)
        return len(asked), sum(array.nbytes for array in jax.tree.leaves(first))

    times, size = ask_twice(keep=True)
    assert times == 6
    assert ask_twice(keep=False)[0] == 12
    monkeypatch.setattr(probe_module, "_KEPT_BYTES", size - 1)
    assert ask_twice(keep=True)[0] == 8


def test_a_model_is_its_own_perfect_student(probe, predictions):
    teacher, _ = predictions
    found = analyse.analyse(probe, teacher, teacher)
    for split in found["splits"].values():
        overall = split["mixed"]["all"]["overall"]
        for name in ("kl_teacher", "linearity_gain", "entropy_gap"):
            assert overall[name]["mean"] == pytest.approx(0, abs=1e-6)
        assert overall["agreement"]["mean"] == split["real"]["agreement"]["mean"] == 1
        assert split["cka"] == pytest.approx({"real": 1, "mixed": 1}, abs=1e-5)


def test_numbers_are_those_of_numpy(probe, predictions):
    teacher, student = predictions
    found = analyse.analyse(probe, student, teacher)["splits"]["train"]
    pairs = probe.pairs["train"]
    p_t, p_s = (
        special.softmax(model.part("train", 0).mixed.logits.astype(float), -1)
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
    path = special.softmax(student.path("train", 0).mixed.logits.astype(float), -1).reshape(
        21, 5, 4
    )
    entropy = np.asarray(stats.entropy(path, axis=-1)).mean(1)
    np.testing.assert_allclose(found["path"]["entropy"]["mean"], entropy, rtol=1e-4)
    correct = student.part("train", 0).real.logits.argmax(-1) == pairs.labels
    assert found["real"]["accuracy"]["mean"] == pytest.approx(correct.mean())
    assert found["path"]["lam"] == [round(k / 20, 2) for k in range(21)]
    # At both ends of a path a mixture is an image itself.
    ends = np.array(found["path"]["nonlinearity"]["mean"])[[0, -1]]
    np.testing.assert_allclose(ends, 0, atol=1e-5)


def test_analysing_twice_gives_the_same_strict_json(probe, predictions, variables):
    teacher, student = predictions
    first, again = (analyse.analyse(probe, student, teacher) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(again, allow_nan=False)
    for batch_size in (24, 64):
        predict = create_predict(NETWORK, mesh=MESH, batch_size=batch_size)
        own = ProbePredictions(predict, variables[1], probe, keep=False)
        other = analyse.analyse(probe, own, teacher)["splits"]["test"]
        mean = first["splits"]["test"]["mixed"]["all"]["peak"]["nonlinearity"]["mean"]
        found = other["mixed"]["all"]["peak"]["nonlinearity"]["mean"]
        assert found == pytest.approx(mean, rel=1e-4)


def test_a_teacher_is_compared_with_nobody(probe, predictions):
    teacher, _ = predictions
    split = analyse.analyse(probe, teacher)["splits"]["test"]
    assert "cka" not in split and "kl_teacher" not in split["mixed"]["all"]["overall"]
    assert set(split["real"]) == {"accuracy"}
