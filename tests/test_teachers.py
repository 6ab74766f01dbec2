"""Teachers from anywhere: an earlier run, a function, one on the host, several at once."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_nets
import trained
from jax.sharding import NamedSharding, PartitionSpec

import mixkd_jax
from mixkd_jax import config, experiment
from mixkd_jax.config import ConfigError
from mixkd_jax.models import TeacherError, host_teacher, own, teachers
from mixkd_jax.models.network import Network
from mixkd_jax.training import sharding

pytestmark = pytest.mark.slow  # whole runs of teachers of every kind

FEATURES = 16 * 16 * 3


def weights(seed=0, scale=1e-3):
    rng = np.random.default_rng(seed)
    return {"w": scale * rng.standard_normal((FEATURES, 3)).astype(np.float32)}


def linear(variables, images):
    return images.reshape(images.shape[0], -1) @ variables["w"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return trained.photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    trained.run(photos, folder, arms=("ce",))
    return folder


def taught(photos, folder, teacher=None, **changes):
    return experiment.run(trained.values(photos, **changes), folder, teacher=teacher)


def read(path):
    return json.loads(path.read_text())


def student_bits(folder, name="arms/mixkd/0"):
    model = mixkd_jax.load_model(folder / name)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model._variables)]


# An earlier run


def test_a_teacher_is_taken_from_an_earlier_run(run, photos, tmp_path):
    before = (run / "teacher/evaluation.json").read_text()
    found = taught(photos, tmp_path / "b", teacher__weights=str(run))
    values = read(tmp_path / "b/config.json")["config"]["teacher"]
    assert (values["model"], values["duration"]) == ("trained:small", "0 epochs")
    assert values["image_size"] == trained.SIDE
    ours, theirs = (mixkd_jax.load_model(folder / "teacher") for folder in (tmp_path / "b", run))
    for a, b in zip(*(jax.tree.leaves(m._variables) for m in (ours, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)
    # Not measured again: the very numbers of the earlier run.
    steps = {"step": 6, "total_steps": 6}
    assert {**read(tmp_path / "b/teacher/evaluation.json"), **steps} == json.loads(before)
    assert found["teacher"]["nll"] == read(run / "results.json")["teacher"]["nll"]
    again = taught(photos, tmp_path / "b", teacher__weights=str(run))
    assert again["arms"] == found["arms"]


def test_a_student_is_a_teacher_and_other_images_are_measured_anew(run, photos, tmp_path):
    path = str(run / "arms/ce/0")
    found = taught(photos, tmp_path / "b", teacher__weights=path, data__test_examples=10)
    there = read(run / "arms/ce/0/evaluation.json")["metrics"]
    assert found["teacher"]["nll"] != there["nll"]
    ours = mixkd_jax.load_model(tmp_path / "b/teacher")
    files = sorted((photos / "test").rglob("*.*"))[:10]
    labels = [trained.CLASSES.index(file.parent.name) for file in files]
    own_accuracy = np.mean(np.asarray(ours.logits(ours.read(files))).argmax(-1) == labels)
    assert found["teacher"]["accuracy"] == pytest.approx(own_accuracy)


def test_what_differs_from_the_earlier_run_is_told(run, photos, tmp_path):
    def refused(message, **changes):
        folder = tmp_path / "refused"
        with pytest.raises(ConfigError, match=message):
            taught(photos, folder, **{"teacher__weights": str(run), **changes})
        assert not folder.exists()

    refused(
        'config.teacher.model: expected "trained:small", as .* has it', teacher__model="wrn-16-1"
    )
    refused("config.teacher.image_size: expected 16, .*got 8", teacher__image_size=8)
    refused(r"config.data.mean: expected \(0.5, 0.4, 0.3\)", data__mean=(0.1, 0.2, 0.3))
    other = trained.photos(tmp_path / "other", train=6)
    refused("expected a model .* got a path that is none", teacher__weights=str(other))
    for split in ("train", "test"):
        (other / split / "eel").rename(other / split / "ant")
    refused("lacks 'ant' and has 'eel' besides", data__dir=str(other))
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    about = read(copy / "config.json")
    about["data"]["class_names"] = ["dog", "cat", "eel"]
    (copy / "config.json").write_text(json.dumps(about))
    refused("number 0 is 'cat' here and 'dog' there", teacher__weights=str(copy))
    about["data"] |= {"class_names": list(trained.CLASSES), "image_shape": [16, 16, 1]}
    (copy / "config.json").write_text(json.dumps(about))
    refused("expected a model of images with 3 channels, got 1", teacher__weights=str(copy))


# Functions


def test_a_function_teaches_as_the_same_one_with_its_variables(photos, tmp_path):
    given = weights()
    with_variables = (linear, given)
    closure = lambda images: linear(given, images)  # noqa: E731
    host = host_teacher(lambda images: linear(given, images), 3)
    bits = []
    for name, teacher in (("a", with_variables), ("b", closure), ("c", host)):
        found = taught(photos, tmp_path / name, teacher)
        bits.append(found)
    assert "features" not in read(tmp_path / "a/teacher/evaluation.json")
    values = read(tmp_path / "a/config.json")["config"]["teacher"]
    assert (values["model"], values["duration"]) == ("given", "0 epochs")
    for other in bits[1:]:
        for metric in ("accuracy", "nll", "ece"):
            assert other["teacher"][metric] == pytest.approx(bits[0]["teacher"][metric], abs=1e-5)
            mine, first = (found["arms"]["mixkd"][metric]["mean"] for found in (other, bits[0]))
            assert mine == pytest.approx(first, abs=1e-3)
    with pytest.raises(mixkd_jax.model.ModelError, match="function that was given from Python"):
        mixkd_jax.load_model(tmp_path / "a/teacher")
    # Continued with another function, with none, and with the same.
    with pytest.raises(TeacherError, match="expected the one that this run began with"):
        taught(photos, tmp_path / "a", (linear, weights(1, 1.0)), seeds=(0, 1))
    with pytest.raises(ConfigError, match='config.teacher.model is "given" there'):
        taught(photos, tmp_path / "a")
    again = taught(photos, tmp_path / "a", with_variables, seeds=(0, 1))["arms"]["mixkd"]
    for metric, known in bits[0]["arms"]["mixkd"].items():
        assert (
            again[metric]["values"][0] == known["values"][0] and len(again[metric]["values"]) == 2
        )


def test_a_teacher_that_guesses_is_doubted(run, photos, tmp_path, capfd):
    taught(photos, tmp_path / "a", (linear, weights(scale=0)))
    assert "teacher: no better than chance on " in capfd.readouterr().err
    taught(photos, tmp_path / "b", teacher__weights=str(run))
    assert "chance" not in capfd.readouterr().err


def test_several_teachers_are_averaged_as_probabilities():
    first, second = weights(0), weights(1)
    host = host_teacher(lambda images: linear(second, images), 3)
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)), jnp.float32)
    for other in ((linear, second), host):
        teacher = teachers.as_teacher([(linear, first), other])
        teachers.check(teacher, (16, 16, 3), 3)
        logits = np.asarray(teacher.network.logits(teacher.variables, images))
        exact = []
        for given in (first, second):
            z = np.asarray(images, np.float64).reshape(4, -1) @ given["w"].astype(np.float64)
            p = np.exp(z - z.max(-1, keepdims=True))
            exact.append(p / p.sum(-1, keepdims=True))
        np.testing.assert_allclose(np.exp(logits), np.mean(exact, 0), rtol=1e-4)
    far = [lambda x, s=s: jnp.full((len(x), 2), 0.0).at[:, 0].set(s * 200.0) for s in (1, -1)]
    teacher = teachers.as_teacher(far)
    found = teacher.network.logits(teacher.variables, images)
    np.testing.assert_allclose(found, np.log(0.5), rtol=1e-5)  # finite where one is saturated


def test_a_host_teacher_answers_for_shards_and_inside_a_jit():
    given = weights()
    calls = []

    def host(images):
        calls.append(images.shape)
        assert type(images) is np.ndarray and images.dtype == np.float32
        return linear(given, images)

    teacher = host_teacher(host, 3)
    images = np.random.default_rng(0).uniform(0, 255, (16, 16, 16, 3)).astype(np.float32)
    mesh = sharding.data_mesh()
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    want = linear(given, images)
    found = teacher(split)
    assert calls == [(16, 16, 16, 3)]  # once, for all eight devices
    assert found.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("data")), 2)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(teacher(jax.device_put(images, sharding.replicated(mesh))), want)
    np.testing.assert_array_equal(teacher(images), want)
    within = jax.jit(lambda x: 2 * teacher(x))(images)
    np.testing.assert_allclose(within, 2 * want, rtol=1e-6)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (3, "expected a function from images to logits, .*got 3"),
        ([], "at least one"),
        (Network(small_nets.Plain(3), (0.0,), (1.0,)), "a Network without its variables"),
        (lambda x: x.reshape(x.shape[0], -1), r"expected logits \[2, 3\] .*got float32\[2, 768\]"),
        (lambda x: x @ jnp.ones(7), "can't be asked about images .*TypeError"),
        ((linear, {"w": np.full((768, 3), np.nan, np.float32)}), "finite variables, got NaN .*'w'"),
        ((linear, {"w": "text"}), "expected arrays as variables, got str"),
        (
            host_teacher(lambda x: np.ones((len(x), 4), np.float32), 3),
            r"\[2, 3\].*got float32\[2, 4\]",
        ),
        (host_teacher(lambda x: np.full((len(x), 3), np.nan), 3), "finite logits, got NaN"),
        (
            lambda x: x.reshape(x.shape[0], -1)[:, :3] * jnp.nan,
            "finite logits, got NaN .* for 15 of 15",
        ),
    ],
)
def test_what_is_no_teacher_is_told(photos, tmp_path, teacher, message):
    with pytest.raises(TeacherError, match=message):
        taught(photos, tmp_path / "run", teacher)


def test_answers_that_are_not_finite_in_a_step_are_told(photos, tmp_path):
    calls = []

    def host(images):
        calls.append(len(images))
        logits = linear(weights(), images)
        return logits * np.nan if len(images) == 16 and np.any(images % 1) else logits

    with pytest.raises(TeacherError, match="got NaN or inf for 16 of 16 images"):
        taught(photos, tmp_path, host_teacher(host, 3), evaluation__batch_size=8)


# Models of one's own, sizes, the best


def test_a_model_without_features_is_trained_analysed_and_reported(photos, tmp_path):
    found = taught(
        photos,
        tmp_path,
        (linear, weights()),
        student__model="small_nets:plain",
        analysis__pairs=4,
        analysis__path_pairs=2,
        analysis__corrupted_images=0,
    )
    analysis = read(tmp_path / "arms/mixkd/0/analysis.json")
    assert analysis["splits"]["test"]["straightness"] is None
    assert found["arms"]["mixkd"]["accuracy"]["mean"] is not None and not found["warnings"]
    assert (tmp_path / "report.html").exists()
    with pytest.raises(mixkd_jax.model.ModelError, match="with a method `features`"):
        mixkd_jax.load_model(tmp_path / "arms/mixkd/0").features(np.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.nets:small", r"can't import nowhere.nets \(ModuleNotFoundError.*PYTHONPATH"),
        ("small_nets:gone", "expected a factory called 'gone' in small_nets, found none"),
        ("small_nets:no_arguments", "unexpected keyword argument.*a factory takes num_classes"),
        ("small_nets:no_module", "got dict; a factory takes"),
        ("small_nets:no_train", "TypeError.*train"),
        ("small_nets:wrong_logits", r"got logits float32\[2, 4\] for 2 images"),
        ("small_nets:half", "got bfloat16 at"),
        ("small_nets:cached", "got variables cache"),
    ],
)
def test_a_model_of_one_s_own_is_checked(photos, tmp_path, name, message):
    with pytest.raises(ConfigError, match=f"^config.student.model: .*{message}"):
        taught(photos, tmp_path / "run", (linear, weights()), student__model=name)
    assert not (tmp_path / "run").exists()
    assert "num_classes" in own.CONTRACT


def test_teacher_and_student_see_images_of_different_sizes(photos, tmp_path):
    taught(photos, tmp_path, teacher__image_size=20, student__image_size=6)
    shapes = {}
    for name in ("teacher", "arms/mixkd/0"):
        model = mixkd_jax.load_model(tmp_path / name)
        shapes[name] = model._variables["params"]["hidden"]["kernel"].shape
        assert model.image_shape == (16, 16, 3) and model.read(photos / "test").shape[1:] == (
            16,
            16,
            3,
        )
        assert model.predict(photos / "test")[0].class_name in trained.CLASSES
    assert shapes == {"teacher": (20 * 20 * 3, 16), "arms/mixkd/0": (6 * 6 * 3, 16)}


def test_the_best_student_is_kept_beside_the_last(photos, tmp_path):
    teacher = (linear, weights())
    changes = {
        "checkpoint__best": "nll",
        "log__every": "2 steps",
        "log__validate_every": "2 steps",
        "student__duration": "8 steps",
        "student__schedule__learning_rate": 0.3,
    }
    found = taught(photos, tmp_path / "a", teacher, **changes)
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    nll = {line["step"]: line["validation_nll"] for line in lines if line["run"] == "arms/mixkd/0"}
    assert len(nll) == 4
    step = min(nll, key=lambda step: nll[step])
    folder = tmp_path / "a/arms/mixkd/0/best"
    assert read(folder / "validation.json")["step"] == step
    assert read(folder / "validation.json")["metrics"]["nll"] == nll[step]
    best = found["best"]["mixkd"]
    assert best["steps"] == [step]
    model = mixkd_jax.load_model(folder)
    assert model.metrics["nll"] == best["nll"]["values"][0]
    files = sorted((photos / "test").rglob("*.*"))
    labels = np.array([trained.CLASSES.index(file.parent.name) for file in files])
    probabilities = np.asarray(model.probabilities(model.read(files)))
    own_nll = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert own_nll == pytest.approx(model.metrics["nll"], rel=1e-4)
    # Nothing else changes, and a run that keeps none reports none.
    plain = taught(photos, tmp_path / "b", teacher, **{**changes, "checkpoint__best": ""})
    assert plain["arms"] == found["arms"] and plain["best"] == {}
    assert student_bits(tmp_path / "a") == student_bits(tmp_path / "b")
    with pytest.raises(ConfigError, match="config.checkpoint.best: expected validation images"):
        taught(photos, tmp_path / "c", teacher, checkpoint__best="ece", data__validation_examples=0)


def test_the_fields_are_there():
    assert {"config.teacher.image_size", "config.student.image_size", "config.checkpoint.best"} <= {
        row.path for row in config.rows()
    }
