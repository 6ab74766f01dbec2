"""Small things to train: a data set, a config, a fit and what a group needs."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from etils import epath
from PIL import Image

from mixkd_jax import config, data, experiment, models, objectives
from mixkd_jax.config import arms
from mixkd_jax.data.device import Augmentation, Batching
from mixkd_jax.folder import Folder
from mixkd_jax.models import create_model
from mixkd_jax.models.network import Network, Teacher
from mixkd_jax.run.plan import Plan
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice
from mixkd_jax.training.fit import Fit, Steps
from mixkd_jax.training.group import Session
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.progress import Progress
from mixkd_jax.training.step import Recipe

ROOT = pathlib.Path(__file__).parents[1]
CLASSES = 3
SHAPE = (8, 8, 1)
MEAN, STD = (0.3,), (0.4,)
BATCH = 16
STEPS = Steps(total=14, per_epoch=4, log=4, validate=8, checkpoint=8)  # of 64 images
OPTIMIZER = optax.sgd(0.02, momentum=0.9)


def default_values(**changes):
    """The defaults of all fields; `a__b=c` sets a.b to c."""
    values = config.get_defaults()
    values.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return values


def values(**changes):
    """A run of a few seconds: 12 steps of the teacher, 10 of two arms and two seeds."""
    small = default_values(
        seeds=(0, 1),
        arms=("ce", "mixkd"),
        teacher__duration="12 steps",
        student__duration="10 steps",
        log__every="3 steps",
        log__progress_seconds=1e9,
        checkpoint__every="3 steps",
        analysis__pairs=0,
        evaluation__batch_size=16,
    )
    for training in (small.teacher, small.student):
        training.batch_size = BATCH
        training.schedule.learning_rate = 0.02
    small.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return small


def dataset(train=64, test=40, shape=SHAPE):
    """Random images, brighter in some rows for each class."""
    rng = np.random.default_rng(0)

    def split(n):
        labels = rng.integers(CLASSES, size=n, dtype=np.int32)
        images = rng.integers(156, size=(n, *shape), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 2] += 80
        return data.Split(images, labels)

    return data.Dataset("small", tuple("abc"), split(train), split(test))


def folder(root, dataset):
    """Writes a data set of RGB images as PNG files, for `--config.data.dir`; returns `root`."""
    for name in ("train", "test"):
        split = getattr(dataset, name)
        for index, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            file = pathlib.Path(root) / name / dataset.class_names[label] / f"{index:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return root


def one_device():
    return sharding.data_mesh(jax.devices()[:1])


def images(mesh, split=None) -> OnDevice:
    """A split on every device of a mesh."""
    return _images(mesh) if split is None else OnDevice.put(split, mesh)


@functools.cache
def _images(mesh):
    return OnDevice.put(dataset().train, mesh)


class Linear(nn.Module):
    """Logits that NumPy can check: one matrix on all pixels."""

    num_classes: int = CLASSES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        del train
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def linear():
    return Network(Linear(), MEAN, STD)


@contextlib.contextmanager
def linear_models():
    """Within, the config's models may be "linear", which compiles in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._MODELS, "linear", models._Entry(Linear, {}))
        yield


def cnn(width=4):
    return Network(create_model("cnn", num_classes=CLASSES, width=width), MEAN, STD)


def arm(text="mixkd", **changes) -> arms.Arm:
    """An arm of the default config, some of whose fields may be changed."""
    return arms.parse(text, config.parse(default_values(**changes)))


def fit(
    folder="/nowhere",
    text="mixkd:ce_weight=0.5",
    *,
    seed=0,
    mesh=None,
    network=None,
    split=None,
    optimizer=OPTIMIZER,
    parameters="replicated",
    temperature=1.0,
    **changes,
) -> Fit:
    """A student in an arm: a CNN, on one device, of crops of mirrored images."""
    mesh = mesh or one_device()
    plan = Plan(config.parse(default_values()), {}, Folder.at(folder), None, mesh)  # pyright: ignore[reportArgumentType]
    fields: dict[str, Any] = {
        "recipe": Recipe(
            network or cnn(), objectives.cross_entropy, False, (), optimizer, mesh, parameters
        ),
        "numbers": {},
        "parts": ("ce",),
        "batching": Batching(BATCH, CLASSES, Augmentation(crop_padding=1, flip=True)),
        "images": images(mesh) if split is None else split,
        "mixup": None,
        "steps": STEPS,
        "schedule": optax.constant_schedule(0.02),
        "keep": 2,
        "config": {},
    }
    template = Fit(**plan._identity("template", 0), **fields)
    made = plan.of_arm(template, arm(text), seed, temperature)
    return dataclasses.replace(made, **changes)


def linear_fit(*args, **options) -> Fit:
    """The same of a linear model, which compiles in no time."""
    return fit(*args, **({"network": linear()} | options))


def teacher(mesh=None, network=None, shape=SHAPE) -> Teacher:
    """A teacher whose variables, batch statistics too, are not all 0 and 1."""
    network = network or cnn(width=6)

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh or one_device()))
    def variables():
        return jax.tree.map(
            lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
            network.init(jax.random.key(7), shape),
        )

    return Teacher(network, variables())


def session(folder, *, stop=lambda step: False, programs=None) -> Session:
    """What a group trains in; silent."""
    shown = Progress(every=1e9, enabled=False)
    known = Programs() if programs is None else programs  # an empty one is false
    return Session(known, MetricsLog(Folder.at(folder)), shown, stop)


def run(folder, values=None, *, report=False, **options):
    """A whole run, whose report is left out unless it is asked for."""
    options = {"dataset": dataset()} | options
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(experiment, "_report", lambda folder: {})
        return experiment.run(values or globals()["values"](), folder, **options)


def bits(tree):
    """{name: (dtype, shape, bytes)} of all arrays, for exact comparison."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        for path, leaf in leaves
    }


def lines(folder):
    """The lines of metrics.jsonl, without the time of day."""
    text = (epath.Path(folder) / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert all(line.pop("time") > 1e9 for line in found)
    return found


def files(folder) -> set[str]:
    folder = pathlib.Path(folder)
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def drawn_state(fit, step=0):
    """A state whose every number is another one."""
    rng = np.random.default_rng(step)

    def moved(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return np.full(leaf.shape, step, leaf.dtype)
        return rng.normal(size=leaf.shape).astype(leaf.dtype)

    state = jax.tree.map(moved, fit.abstract_state)
    return jax.device_put(state, sharding.replicated(fit.recipe.mesh))


def outcome(workdir, models, step):
    """All that a finished run found, bit for bit: results, log lines, and the states at a step."""
    results, found, states = json.loads((workdir / "results.json").read_text()), {}, {}
    for name in models:
        with ocp.PyTreeCheckpointer() as checkpointer:
            states[name] = bits(checkpointer.restore(workdir / name / str(step) / "state"))
    for line in lines(workdir):
        found.setdefault(line.pop("run"), []).append(line)
    del results["time"]
    return results, found, states
