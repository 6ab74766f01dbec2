"""Small things to train: a data set, a config, a recipe and a run."""

import dataclasses
import pathlib
import runpy
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from PIL import Image

from mixkd_jax import config, data
from mixkd_jax.config import Mixup
from mixkd_jax.data.device import Augmentation
from mixkd_jax.models import create_model
from mixkd_jax.models.network import Network
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice
from mixkd_jax.training.objectives import create_objective
from mixkd_jax.training.step import Recipe

ROOT = pathlib.Path(__file__).parents[1]
CLASSES = 3
SHAPE = (8, 8, 1)
MEAN, STD = (0.3,), (0.4,)


def default_values(**changes):
    """configs/default.py as a ConfigDict; `a__b=c` sets a.b to c."""
    values = runpy.run_path(str(ROOT / "configs" / "default.py"))["get_config"]()
    values.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return values


def values(**changes):
    """A job of a few seconds: 12 steps of the teacher, 10 of two arms and two seeds."""
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
        training.batch_size = 16
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


def images(mesh, split=None) -> OnDevice:
    """A split on every device of a mesh."""
    return OnDevice.put(dataset().train if split is None else split, mesh)


class Linear(nn.Module):
    """Logits that NumPy can check: one matrix on all pixels."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, images, train=False):
        del train
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


def linear():
    return Network(Linear(), MEAN, STD)


def cnn(width=4):
    return Network(create_model("cnn", num_classes=CLASSES, width=width), MEAN, STD)


def loss(**changes) -> config.Loss:
    return dataclasses.replace(config.parse(default_values()).loss, **changes)


def recipe(mesh=None, **changes) -> Recipe:
    """Distils from one CNN to another on mixed inputs, on one device."""
    fields: dict[str, Any] = {
        "student": cnn(),
        "teacher": cnn(width=6),
        "objective": create_objective(loss(ce_weight=0.5)),
        "optimizer": optax.sgd(0.02, momentum=0.9),
        "mixing": Mixup(alpha=1.0, partial=1.0, per_example=True),
        "augmentation": Augmentation(crop_padding=1, flip=True),
        "batch_size": 16,
        "num_classes": CLASSES,
        "mesh": mesh or sharding.data_mesh(jax.devices()[:1]),
    }
    return Recipe(**(fields | changes))


def linears(**changes) -> Recipe:
    """The recipe with linear models, which compile in no time."""
    return recipe(**({"student": linear(), "teacher": linear()} | changes))


def teacher_variables(how: Recipe, shape=SHAPE):
    """Variables of the recipe's teacher, with batch statistics that are not all 0 and 1."""
    if how.teacher is None:
        return None
    variables = how.teacher.init(jax.random.key(7), shape)
    moved = jax.tree.map(
        lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), variables
    )
    return jax.device_put(moved, sharding.replicated(how.mesh))


def bits(tree):
    """{name: (dtype, shape, bytes)} of all arrays, for exact comparison."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
        for path, leaf in leaves
    }


def files(folder) -> set[str]:
    folder = epath.Path(folder)
    return {str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*")}
