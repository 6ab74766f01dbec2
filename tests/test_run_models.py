"""The models of a run as their config has them: from files, in two stages, split, and refused."""

import dataclasses
import functools
import json

import jax
import keras_files
import numpy as np
import pytest
import small

from mixkd_jax import config, models
from mixkd_jax.config import ConfigError, arms
from mixkd_jax.folder import Folder
from mixkd_jax.models import imagenet
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.run.images import load_images
from mixkd_jax.run.models import check_model
from mixkd_jax.run.plan import Plan
from mixkd_jax.training import sharding
from mixkd_jax.training.preemption import Stopped
from mixkd_jax.training.randomness import stream

SHAPE = keras_files.SHAPE
FINE_TUNED = {  # a student whose head is trained first
    "student__model": "resnet18",
    "student__head_duration": "4 steps",
    "student__duration": "3 steps",
    "student__batch_size": 8,
    "student__optimizer__name": "adam",
    "student__schedule__learning_rate": 1e-5,
    "log__every": "2 steps",
    "arms": ("ce", "mixup"),
    "seeds": (0, 1),
}


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """resnet18 of one block, as `keras_files` writes it."""
    with pytest.MonkeyPatch.context() as patch:
        backbone = functools.partial(ResNet18, blocks=(1,))
        entry = dataclasses.replace(imagenet._MODELS["resnet18"], backbone=backbone)
        patch.setitem(imagenet._MODELS, "resnet18", entry)
        with small.linear_models():
            yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(keras_files.write_keras(tmp_path_factory.mktemp("weights") / "tiny.keras"))


def _values(**changes):
    options = {"teacher__model": "linear", "student__model": "linear"} | changes
    return small.values(**options)


def _run(folder, stop=lambda step: False, **changes):
    small.run(folder, _values(**changes), dataset=small.dataset(16, 16, SHAPE), stop=stop)
    return _plan(folder, **changes)


def _plan(folder, **changes):
    """What a run makes its fits with, so that their checkpoints can be restored."""
    settings, mesh = config.parse(_values(**changes)), sharding.data_mesh()
    images = load_images(settings.data, settings.seed, mesh, small.dataset(16, 16, SHAPE))
    return Plan(settings, {}, Folder.at(folder), images, mesh)


def _student(plan, arm, seed):
    return plan.of_arm(plan.student(), arms.parse(arm, plan.settings), seed, 1.0)


def _head(plan, seed):
    return plan.head("student", plan.student(), 1 + seed)


def _restored(fit):
    with fit.checkpoints() as checkpoints:
        return checkpoints.restore(fit.abstract_state)


# A teacher from a file


def test_a_teacher_of_no_steps_is_the_file(file, tmp_path):
    changes = {
        "teacher__weights": file,
        "teacher__duration": "0 epochs",
        "teacher__head": "teacher",
    }
    plan = _run(tmp_path, teacher__model="resnet18", arms=("ce",), seeds=(0,), **changes)
    state = _restored(plan.teacher())
    assert int(state.step) == 0
    assert small.bits(state.variables) == small.bits(keras_files.tiny_variables())
    measured = json.loads((tmp_path / "teacher" / "evaluation.json").read_text())
    assert measured["step"] == 0
    pixels = plan.images.test.take(np.arange(16))
    logits = keras_files.TINY.apply(
        state.variables, pixels / np.float32(255)
    )  # mean 0, deviation 1
    labels = plan.images.test.labels(np.arange(16))
    assert measured["metrics"]["accuracy"] == np.mean(np.argmax(logits, -1) == labels)
    assert {line["run"] for line in small.lines(tmp_path)} == {"arms/ce/0"}  # no step, no line


@pytest.mark.parametrize("field", ["weights", "backbone_weights"])
def test_a_file_that_does_not_fit_names_its_field(tmp_path, field):
    broken = keras_files.write_keras(tmp_path / "a.keras", skip=("conv2d_1",))
    with pytest.raises(ConfigError, match=rf"^config\.student\.{field}: (.|\n)*missing: .*conv1"):
        _run(tmp_path / "run", student__model="resnet18", **{f"student__{field}": str(broken)})
    assert not (tmp_path / "run").exists()


def test_a_model_that_keras_lacks_takes_no_file(file, tmp_path):
    with pytest.raises(ConfigError, match=r"^config\.student\.weights: "):
        _run(tmp_path / "run", student__model="cnn", student__weights=file)


# A student whose head is trained first


@pytest.fixture(scope="module")
def two_stages(file, tmp_path_factory):
    """A run whose student starts from the backbone of a file, its head first."""
    folder = tmp_path_factory.mktemp("stages")
    return _run(folder, student__backbone_weights=file, **FINE_TUNED)


def _same(a, b):
    """Whether each array of two trees is the same, bit for bit."""
    a, b = small.bits(a), small.bits(b)
    assert a.keys() == b.keys()
    return [a[name] == b[name] for name in a]


def _most_moved(a, b):
    """The largest difference between two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))


def test_the_first_stage_draws_other_batches_than_the_second(two_stages):
    fits = _head(two_stages, 0), _student(two_stages, "ce", 0)
    first, second = (jax.random.key_data(fit.key) for fit in fits)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_stage_trains_the_head_alone(two_stages, seed):
    state = _restored(_head(two_stages, seed))
    assert int(state.step) == 4
    file = keras_files.tiny_variables()
    assert all(_same(state.params["backbone"], file["params"]["backbone"]))
    assert all(_same(state.batch_stats["backbone"], file["batch_stats"]["backbone"]))

    fit = _head(two_stages, seed)
    fresh = jax.jit(fit.recipe.network.init, static_argnums=1)(stream(fit.key, "init"), SHAPE)
    assert not any(_same(state.params["head"], fresh["params"]["head"]))
    assert not any(_same(state.batch_stats["head"], fresh["batch_stats"]["head"]))
    # The seed's own head, and four steps of Adam, each of about the learning rate at most.
    assert _most_moved(state.params["head"], fresh["params"]["head"]) < 1.5 * 4 * 1e-3


@pytest.mark.parametrize("arm", ["ce", "mixup"])
def test_the_second_stage_goes_on_from_the_first_and_trains_all(two_stages, arm):
    before = _restored(_head(two_stages, 0))
    after = _restored(_student(two_stages, arm, 0))
    assert int(after.step) == 3
    assert not any(_same(before.params, after.params))
    assert not any(_same(before.batch_stats, after.batch_stats))
    assert _most_moved(before.params, after.params) < 1.5 * 3 * 1e-5


def test_arms_share_the_first_stage(two_stages):
    found = [(line["run"], line["step"]) for line in small.lines(two_stages.folder.root)]
    assert [line for line in found if line[0] != "teacher"] == [
        (f"{kind}/{seed}", step)
        for seed in (0, 1)
        for kind, steps in (("head/student", (2, 4)), ("arms/ce", (2, 3)), ("arms/mixup", (2, 3)))
        for step in steps
    ]


def test_the_first_stage_has_its_own_rate_and_the_cross_entropy(two_stages):
    for line in small.lines(two_stages.folder.root):
        head = line["run"].startswith("head/")
        if line["run"] == "teacher":
            continue
        assert line["learning_rate"] == pytest.approx(1e-3 if head else 1e-5)
        assert line["loss"] == pytest.approx(line["ce"])


@pytest.mark.slow
def test_two_stages_go_on_exactly(two_stages, file, tmp_path):
    """Stopped in the first stage, and then in the second one too."""
    options = {**FINE_TUNED, "arms": ("ce",), "seeds": (0,), "student__backbone_weights": file}
    asked = []

    def stop(step):
        asked.append(step)
        return len(asked) in (12 + 3, 12 + 3 + 1 + 1)  # after the teacher's 12 steps

    for _ in range(2):
        with pytest.raises(Stopped):
            _run(tmp_path, stop=stop, **options)
    plan = _run(tmp_path, stop=stop, **options)
    for found, want in (
        (_head(plan, 0), _head(two_stages, 0)),
        (_student(plan, "ce", 0), _student(two_stages, "ce", 0)),
    ):
        assert all(_same(_restored(found), _restored(want))), found.name
    names = {"head/student/0", "arms/ce/0"}
    want = [line for line in small.lines(two_stages.folder.root) if line["run"] in names]
    assert [line for line in small.lines(tmp_path) if line["run"] in names] == want


# What is refused


@pytest.mark.parametrize("name", ["teacher", "student"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet9"}, "model: model name: expected one of cnn, .*; got 'resnet9'; did "),
        ({"model": "resnet9", "head": "student"}, "model: model name: expected one of cnn, "),
        (
            {"pixels": "paper"},
            'pixels: expected "data" for cnn, got "paper"; others are for resnet18, ',
        ),
        (
            {"head": "student"},
            'head: expected "" for cnn, got "student"; others are for resnet18, ',
        ),
        (
            {"head_duration": "3 epochs"},
            'head_duration: expected "0 epochs" for cnn, got "3 epochs"; others are for resnet18, ',
        ),
        (
            {"duration": "0 steps"},
            "duration: expected a positive duration, or a file of its weights in config.{name}."
            "weights, got neither$",
        ),
        (
            {"weights": "a", "backbone_weights": "b"},
            "backbone_weights: expected nothing beside config.{name}.weights, got 'b'$",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_a_model_is_told(name, changes, message):
    values = small.values(**{f"{name}__{field}": value for field, value in changes.items()})
    training = getattr(config.parse(values), name)
    message = message.replace("{name}", name)
    with pytest.raises(ConfigError, match=f"^config.{name}.{message}"):
        check_model(name, training)


def test_what_is_right_is_not_refused():
    for changes in (
        {},
        {"model": "resnet18", "head": "imagenet", "pixels": "keras", "head_duration": "1 steps"},
        {"weights": "a", "duration": "0 steps", "model": "vit_b16"},
    ):
        values = small.values(**{f"student__{field}": value for field, value in changes.items()})
        check_model("student", config.parse(values).student)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (24, "expected at most the 16 images that the student learns from, got 24"),
        (12, "expected a multiple of the 8 devices, got 12; try 8 or 16"),
    ],
)
def test_a_batch_size_that_does_not_fit_is_refused(tmp_path, size, message):
    with pytest.raises(ConfigError) as caught:
        _plan(tmp_path, student__batch_size=size).student()
    assert str(caught.value) == f"config.student.batch_size: {message}"


def test_pixels_are_those_of_the_pipeline(tmp_path):
    plan = _plan(
        tmp_path,
        data__mean=(0.5, 0.4, 0.3),
        teacher__model="resnet18",
        teacher__pixels="paper",
        student__model="mobilenet_v2",
        student__pixels="keras",
    )
    for fit, want in (
        (plan.teacher(), models.pixel_statistics("resnet18", pipeline="paper")),
        (plan.student(), models.pixel_statistics("mobilenet_v2", pipeline="keras")),
    ):
        network = fit.recipe.network
        assert (network.mean, network.std, network.bgr) == want
    plain = _plan(tmp_path, data__mean=(0.5, 0.4, 0.3)).student()
    assert plain.recipe.network.mean == (0.5, 0.4, 0.3)


# A teacher's parameters, split over the devices


def _bytes(tree, device=None):
    """Of all arrays, or of their parts on a device."""
    if device is None:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == device
    )


@pytest.mark.slow
def test_a_split_teacher_from_a_file_is_the_file(file, tmp_path):
    changes = {
        "teacher_parameters": "sharded",
        "teacher__model": "resnet18",
        "teacher__head": "teacher",
        "teacher__weights": file,
        "teacher__duration": "0 steps",
        "arms": ("mixkd",),
        "seeds": (0,),
    }
    teacher = _run(tmp_path, **changes).teacher()
    assert teacher.start is not None
    # Not on a device: the first one alone would have to hold all of it.
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(teacher.start))
    params = _restored(teacher).params
    assert small.bits(params) == small.bits(teacher.start["params"])
    assert _bytes(params, jax.devices()[3]) < 0.2 * _bytes(params)
    for leaf in jax.tree.leaves(params):
        assert leaf.sharding == sharding.parameters(teacher.recipe.mesh, leaf, "sharded")


@pytest.mark.slow
def test_a_run_with_a_split_teacher_has_the_same_results(tmp_path):
    found = {}
    for how in ("replicated", "sharded"):
        values = small.values(
            teacher_parameters=how,
            student__model="linear",
            arms=("mixkd",),
            seeds=(0,),
            analysis__pairs=8,
            analysis__corrupted_images=0,
        )
        small.run(tmp_path / how, values)
        found[how] = {
            file: _numbers(json.loads((tmp_path / how / file).read_text()))
            for name in ("teacher", "arms/mixkd/0")
            for file in (f"{name}/evaluation.json", f"{name}/analysis.json")
        }
    for file, numbers in found["replicated"].items():
        assert len(numbers) > 10
        np.testing.assert_allclose(
            found["sharded"][file], numbers, rtol=2e-3, atol=2e-4, err_msg=file
        )


def _numbers(value):
    """All numbers of a JSON value, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []
