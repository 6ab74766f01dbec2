"""Runs that take seconds, of images in files, and their models to load, export and teach with."""

import pathlib
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mixkd_jax import config, experiment

CLASSES = ("cat", "dog", "eel")
SIDE = 16


class Small(nn.Module):
    """A model of a user's own that compiles in no time."""

    num_classes: int

    def setup(self):
        self.norm = nn.BatchNorm(momentum=0.9)
        self.hidden = nn.Dense(16)
        self.classifier = nn.Dense(self.num_classes)

    def features(self, images, train=False):
        x = images.reshape(images.shape[0], -1).astype(jnp.float32)
        return nn.relu(self.norm(self.hidden(x), use_running_average=not train))

    def __call__(self, images, train=False):
        return self.classifier(self.features(images, train))


def small(num_classes, dtype):
    del dtype
    return Small(num_classes)


def values(root: Any = None, **changes: Any):
    """A config of a few steps, of the images in a folder; `a__b=c` sets a.b to c."""
    made = config.get_defaults()
    made.seeds, made.arms = (0,), ("mixkd",)
    made.data.name, made.data.dir = "folder", str(root or "")
    made.data.image_size, made.data.validation_examples = SIDE, 8
    made.data.mean, made.data.std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    made.analysis.pairs = 0
    made.log.progress_seconds = 1e9
    for training in (made.teacher, made.student):
        training.model = "trained:small"
        training.batch_size, training.duration = 16, "6 steps"
        training.schedule.learning_rate = 0.02
    made.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return made


def photos(root: Any, train: int = 14, test: int = 5, seed: int = 0) -> pathlib.Path:
    """Writes JPEGs and PNGs of several sizes, brighter in one channel for each class."""
    rng = np.random.default_rng(seed)
    root = pathlib.Path(root)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(SIDE - 4, SIDE + 14, 2)
                pixels = rng.integers(0, 156, (height, width, 3), np.uint8)
                pixels[..., label] += 90
                file = root / split / name / f"{index:03}.{'jpg' if index % 2 else 'png'}"
                Image.fromarray(pixels).save(file)
    return root


def run(root: Any, folder: Any, **changes: Any) -> dict[str, Any]:
    """Trains the models of `values` on `photos` and returns the run's results."""
    return experiment.run(values(root, **changes), folder)
