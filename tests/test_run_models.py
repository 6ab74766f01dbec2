import dataclasses
import functools
import json

import jax
import keras_files
import numpy as np
import optax
import pytest
import small
from etils import epath
from mixkd_jax.job import prepare, recipe
from mixkd_jax.training.dispatch import abstract_state, compile_trainer

from mixkd_jax import config, experiment, models, setup
from mixkd_jax.config import ConfigError
from mixkd_jax.models import imagenet
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import Checkpoints
from mixkd_jax.training.preemption import Stopped

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
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return str(keras_files.write_keras(tmp_path_factory.mktemp("weights") / "tiny.keras"))


def _prepare(folder, stop=lambda step: False, **changes):
    values = small.values(**changes)
    images = small.dataset(16, 16, SHAPE)
    return prepare(config.parse(values), values, epath.Path(folder), images, stop)


def _restored(job, name, model):
    with Checkpoints(job.folder / name, keep=2, config={}) as checkpoints:
        return checkpoints.restore(abstract_state(recipe(job, model, "ce"), model.images))


def _train(job):
    """Trains the students of all arms, none of which asks the teacher."""
    for arm in job.settings.arms:
        experiment.run_arm(job, arm, {})


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# A teacher from a file


def test_a_teacher_of_no_steps_is_the_file(file, tmp_path):
    changes = {
        "teacher__weights": file,
        "teacher__duration": "0 epochs",
        "teacher__head": "teacher",
    }
    job = _prepare(tmp_path, teacher__model="resnet18", **changes)
    variables = experiment.run_teacher(job)
    assert small.bits(variables) == small.bits(keras_files.tiny_variables())
    measured = json.loads((tmp_path / "teacher" / "evaluation.json").read_text())
    assert measured["step"] == 0
    pixels = job.inputs.test.take(np.arange(16))
    logits = keras_files.TINY.apply(variables, pixels / np.float32(255))  # mean 0, deviation 1
    labels = job.inputs.test.labels(np.arange(16))
    assert measured["metrics"]["accuracy"] == np.mean(np.argmax(logits, -1) == labels)
    assert not (tmp_path / "metrics.jsonl").exists()  # no step, no line


@pytest.mark.parametrize("field", ["weights", "backbone_weights"])
def test_a_file_that_does_not_fit_names_its_field(tmp_path, field):
    broken = keras_files.write_keras(tmp_path / "a.keras", skip=("conv2d_1",))
    with pytest.raises(ConfigError, match=rf"^config\.student\.{field}: (.|\n)*missing: .*conv1"):
        _prepare(tmp_path / "run", student__model="resnet18", **{f"student__{field}": str(broken)})


def test_a_model_that_keras_lacks_takes_no_file(file, tmp_path):
    with pytest.raises(ConfigError, match=r"^config\.student\.weights: "):
        _prepare(tmp_path, student__model="cnn", student__weights=file)


# A student whose head is trained first


@pytest.fixture(scope="module")
def two_stages(file, tmp_path_factory):
    """A job whose student starts from the backbone of a file, its head first."""
    folder = tmp_path_factory.mktemp("stages")
    job = _prepare(folder, student__backbone_weights=file, **FINE_TUNED)
    _train(job)
    return job


def _same(a, b):
    """Whether each array of two trees is the same, bit for bit."""
    a, b = small.bits(a), small.bits(b)
    assert a.keys() == b.keys()
    return [a[name] == b[name] for name in a]


def _most_moved(a, b):
    """The largest difference between two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_stage_trains_the_head_alone(two_stages, seed):
    job = two_stages
    state = _restored(job, f"head/student/{seed}", job.student.head)
    assert int(state.step) == 4
    file = keras_files.tiny_variables()
    assert all(_same(state.params["backbone"], file["params"]["backbone"]))
    assert all(_same(state.batch_stats["backbone"], file["batch_stats"]["backbone"]))

    key = jax.random.fold_in(jax.random.key(job.settings.seed), 1 + seed)
    fresh = job.student.network.init(key, SHAPE)
    assert not any(_same(state.params["head"], fresh["params"]["head"]))
    assert not any(_same(state.batch_stats["head"], fresh["batch_stats"]["head"]))
    # The seed's own head, and four steps of Adam, each of about the learning rate at most.
    assert _most_moved(state.params["head"], fresh["params"]["head"]) < 1.5 * 4 * 1e-3


@pytest.mark.parametrize("arm", ["ce", "mixup"])
def test_the_second_stage_goes_on_from_the_first_and_trains_all(two_stages, arm):
    before = _restored(two_stages, "head/student/0", two_stages.student.head)
    after = _restored(two_stages, f"arms/{arm}/0", two_stages.student)
    assert int(after.step) == 3
    assert not any(_same(before.params, after.params))
    assert not any(_same(before.batch_stats, after.batch_stats))
    assert _most_moved(before.params, after.params) < 1.5 * 3 * 1e-5


def test_arms_share_the_first_stage(two_stages):
    runs = [(line["run"], line["step"]) for line in _lines(two_stages.folder)]
    shared = [
        (f"{kind}/{seed}", step)
        for seed in (0, 1)
        for kind, steps in (("head/student", (2, 4)), ("arms/ce", (2, 3)))
        for step in steps
    ]
    assert runs == shared + [(f"arms/mixup/{seed}", step) for seed in (0, 1) for step in (2, 3)]


def test_the_first_stage_has_its_own_rate_and_the_cross_entropy(two_stages):
    for line in _lines(two_stages.folder):
        head = line["run"].startswith("head/")
        assert line["learning_rate"] == pytest.approx(1e-3 if head else 1e-5)
        assert line["loss"] == pytest.approx(line["ce"])


@pytest.mark.slow
def test_two_stages_go_on_exactly(two_stages, file, tmp_path):
    """Stopped in the first stage, and then in the second one too."""
    options = {**FINE_TUNED, "arms": ("ce",), "seeds": (0,), "student__backbone_weights": file}
    for at in (3, 1):
        with pytest.raises(Stopped):
            _train(_prepare(tmp_path, stop=lambda step, at=at: step == at, **options))
    job = _prepare(tmp_path, **options)
    _train(job)
    names = {"head/student/0": job.student.head, "arms/ce/0": job.student}
    for name, model in names.items():
        found, want = (_restored(each, name, model) for each in (job, two_stages))
        assert all(_same(found, want)), name
    want = [line for line in _lines(two_stages.folder) if line["run"] in names]
    assert _lines(tmp_path) == want


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
        setup.check_model(name, training)


def test_what_is_right_is_not_refused():
    for changes in (
        {},
        {"model": "resnet18", "head": "imagenet", "pixels": "keras", "head_duration": "1 steps"},
        {"weights": "a", "duration": "0 steps", "model": "vit_b16"},
    ):
        values = small.values(**{f"student__{field}": value for field, value in changes.items()})
        setup.check_model("student", config.parse(values).student)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (24, "expected at most the 16 images that the student learns from, got 24"),
        (12, "expected a multiple of the 8 devices, got 12; try 8 or 16"),
    ],
)
def test_a_batch_size_that_does_not_fit_is_refused(tmp_path, size, message):
    with pytest.raises(ConfigError) as caught:
        _prepare(tmp_path, student__batch_size=size)
    assert str(caught.value) == f"config.student.batch_size: {message}"


def test_pixels_are_those_of_the_pipeline(tmp_path):
    job = _prepare(
        tmp_path,
        data__mean=(0.5, 0.4, 0.3),
        teacher__model="resnet18",
        teacher__pixels="paper",
        student__model="mobilenet_v2",
        student__pixels="keras",
    )
    for model, want in (
        (job.teacher, models.pixel_statistics("resnet18", pipeline="paper")),
        (job.student, models.pixel_statistics("mobilenet_v2", pipeline="keras")),
    ):
        assert (model.network.mean, model.network.std) == want
    assert _prepare(tmp_path, data__mean=(0.5, 0.4, 0.3)).student.network.mean == (0.5, 0.4, 0.3)


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


def test_a_step_with_a_sharded_teacher_is_the_same_step():
    mesh = sharding.data_mesh()
    how = small.recipe(
        mesh, student=small.linear(), teacher=small.cnn(width=16), optimizer=optax.sgd(0.02)
    )
    whole = small.teacher_variables(how)
    assert whole is not None and how.teacher is not None
    places = sharding.parameters(mesh, whole["params"], "sharded")
    split = {**whole, "params": jax.device_put(whole["params"], places)}
    share = [_bytes(split["params"], device) / _bytes(whole["params"]) for device in jax.devices()]
    assert max(share) < 1.2 / 8  # a few biases are on every device

    losses = []
    for variables in (whole, split):
        trainer = compile_trainer(how, small.images(mesh), variables)
        key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
        state, feed = trainer.init(key), trainer.images.feeds(key, how.batch_size, pairs=True)
        for step in range(3):
            state = trainer.advance(state, feed(step).feed, key, 1)
        losses.append({name: float(total) for name, total in state.totals.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0]["kd"] > 0

    pixels = small.images(mesh).take(np.arange(16))
    logits = [jax.jit(how.teacher.logits)(variables, pixels) for variables in (whole, split)]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-5)


def test_the_config_shards_the_teacher(tmp_path):
    job = _prepare(
        tmp_path, teacher_parameters="sharded", teacher__duration="1 steps", arms=("mixkd",)
    )
    params = experiment.run_teacher(job)["params"]
    assert small.bits(params) == small.bits(_restored(job, "teacher", job.teacher).params)
    assert _bytes(params, jax.devices()[3]) < 0.2 * _bytes(params)
    for leaf in jax.tree.leaves(params):
        assert leaf.sharding == sharding.parameters(job.mesh, leaf, "sharded")


def test_a_split_teacher_from_a_file_is_the_file(file, tmp_path):
    job = _prepare(
        tmp_path,
        teacher_parameters="sharded",
        teacher__model="resnet18",
        teacher__head="teacher",
        teacher__weights=file,
        teacher__duration="0 steps",
    )
    start = job.teacher.start
    assert start is not None
    # Not on a device: the first one alone would have to hold all of it.
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(start))
    params = experiment.run_teacher(job)["params"]
    assert small.bits(params) == small.bits(start["params"])
    for leaf in jax.tree.leaves(params):
        assert leaf.sharding == sharding.parameters(job.mesh, leaf, "sharded")


@pytest.mark.slow
def test_a_run_with_a_split_teacher_has_the_same_results(tmp_path):
    found = {}
    for how in ("replicated", "sharded"):
        values = small.values(
            teacher_parameters=how,
            arms=("mixkd",),
            seeds=(0,),
            analysis__pairs=8,
            analysis__corrupted_images=0,
        )
        experiment.run(values, tmp_path / how, dataset=small.dataset())
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


def test_the_largest_teacher_falls_to_an_eighth():
    module = models.create_model("convnext_large", num_classes=100)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    mesh = sharding.data_mesh()
    sizes = {"replicated": 0, "sharded": 0}
    for how in sizes:
        places = sharding.parameters(mesh, params, how)
        parts = jax.tree.map(lambda leaf, place: place.shard_shape(leaf.shape), params, places)
        sizes[how] = sum(4 * np.prod(p) for p in jax.tree.leaves(parts, is_leaf=_is_shape))
    assert sizes["replicated"] > 4 * 196e6  # its parameters are 196 million
    assert sizes["sharded"] <= 1.1 / 8 * sizes["replicated"]


def _is_shape(value):
    return isinstance(value, tuple)
