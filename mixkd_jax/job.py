"""What a run is made of: its images, models and recipes, known before any training is compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from mixkd_jax import config, data
from mixkd_jax.data.device import Augmentation
from mixkd_jax.evaluation.answers import Ask, create_ask
from mixkd_jax.inputs import Inputs, load_inputs
from mixkd_jax.models.network import Variables
from mixkd_jax.setup import Model, check_model, create_model
from mixkd_jax.training import objectives, sharding
from mixkd_jax.training.arms import ARMS
from mixkd_jax.training.loop import Surroundings
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.progress import Progress
from mixkd_jax.training.step import Recipe


@dataclasses.dataclass(frozen=True)
class Job:
    """A config, its folder, and all that was built from them.

    Attributes:
      settings: the checked config.
      values: the config as it was given.
      folder: of the run.
      mesh: all devices.
      inputs: all images.
      teacher: the model that is asked.
      student: the model that is trained in every arm and for every seed.
      around: where training writes, and whether it is to stop.
    """

    settings: config.Experiment
    values: Mapping[str, Any]
    folder: epath.Path
    mesh: Mesh
    inputs: Inputs
    teacher: Model
    student: Model
    around: Surroundings
    _asks: dict[int, Ask] = dataclasses.field(default_factory=dict)

    def ask(self, model: Model, variables: Variables) -> Ask:
        """Returns what asks one of the models about images and mixtures of them, compiled once."""
        if id(model) not in self._asks:
            self._asks[id(model)] = create_ask(
                model.network,
                variables,
                self.inputs.test.image_shape,
                mesh=self.mesh,
                batch_size=min(self.settings.evaluation.batch_size, len(self.inputs.test)),
            )
        return self._asks[id(model)]


def prepare(
    settings: config.Experiment,
    values: Mapping[str, Any],
    folder: epath.Path,
    dataset: data.Dataset | None = None,
    stop: Callable[[int], bool] = lambda step: False,
) -> Job:
    """Loads the data and builds all parts of a job; compiles no training and writes nothing.

    Raises:
      ConfigError: for a config that names what there isn't, or doesn't fit the data or devices.
      data.DataError: if the data set can't be loaded.
    """
    for arm in settings.arms:
        config.choose("config.arms", arm, ARMS)
    objectives.create_objective(settings.loss)
    check_model("teacher", settings.teacher)
    check_model("student", settings.student)
    mesh = sharding.data_mesh()
    inputs = load_inputs(settings.data, settings.seed, mesh, dataset)
    build = functools.partial(create_model, settings, num_classes=inputs.num_classes, mesh=mesh)
    master = jax.process_index() == 0
    return Job(
        settings=settings,
        values=values,
        folder=folder,
        mesh=mesh,
        inputs=inputs,
        teacher=build("teacher", settings.teacher, inputs.teacher),
        student=build("student", settings.student, inputs.student),
        around=Surroundings(
            MetricsLog(folder, enabled=master),
            Progress(every=settings.log.progress_seconds, enabled=master),
            stop,
        ),
    )


def recipe(job: Job, model: Model, arm: str) -> Recipe:
    """Returns how `model` is trained in an arm; the teacher itself is trained as in "ce"."""
    kind = ARMS[arm]
    return Recipe(
        student=model.network,
        teacher=job.teacher.network if kind.distils else None,
        objective=objectives.create_objective(job.settings.loss)
        if kind.distils
        else objectives.cross_entropy,
        optimizer=model.optimizer,
        mixing=job.settings.mixup if kind.mixes else None,
        augmentation=Augmentation(
            crop_padding=job.settings.data.crop_padding,
            flip=job.settings.data.flip,
            resize=job.settings.data.resize,
            image_size=job.settings.data.image_size,
        ),
        batch_size=model.batch_size,
        num_classes=job.inputs.num_classes,
        mesh=job.mesh,
        parameters=model.parameters,
    )
