"""The plan of a run: its fits, made from its config before any training is compiled."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from mixkd_jax import config, objectives
from mixkd_jax.config import ConfigError
from mixkd_jax.config.arms import Arm
from mixkd_jax.data.device import Augmentation, Batching
from mixkd_jax.folder import TEACHER, Folder, student_name
from mixkd_jax.models.network import Teacher
from mixkd_jax.run import adopt, models
from mixkd_jax.run.images import RunImages
from mixkd_jax.training import sharding
from mixkd_jax.training.fit import Fit, Steps
from mixkd_jax.training.optimizers import create_optimizer
from mixkd_jax.training.randomness import stream
from mixkd_jax.training.schedules import create_schedule
from mixkd_jax.training.step import Recipe


@dataclasses.dataclass(frozen=True)
class Plan:
    """Makes the fits of a run.

    Attributes:
      settings: the checked config.
      values: the config as JSON has it, written beside each checkpoint.
      folder: of the run.
      images: of the run.
      mesh: all devices.
      given: a teacher that isn't to be trained; None makes the config's.
    """

    settings: config.Experiment
    values: dict[str, Any]
    folder: Folder
    images: RunImages
    mesh: Mesh
    given: Teacher | None = None

    def teacher(self) -> Fit:
        """Returns the fit of the teacher: cross-entropy on images as they are.

        Raises:
          ConfigError: for settings that don't fit the images or the devices, or a file of weights
            that doesn't fit the model; so do the others here.
        """
        return self._create(TEACHER, TEACHER, 0) if self.given is None else self._frozen(self.given)

    def student(self) -> Fit:
        """Returns the fit that those of all arms and seeds are made from by `of_arm`."""
        return self._create("student", student_name("ce", 0), 1)

    def of_arm(self, student: Fit, arm: Arm, seed: int, teacher_temperature: float) -> Fit:
        """Returns the fit of one student.

        Args:
          student: from `student`.
          arm: how it is trained.
          seed: of it.
          teacher_temperature: what the arm's own, which may be "fit", came to.
        """
        name = student_name(arm.text, seed)
        numbers = {k: v for k, v in arm.options.items() if type(v) is float}
        words = {k: v for k, v in arm.options.items() if type(v) is not float}
        if arm.loss is not None:
            numbers["teacher_temperature"] = teacher_temperature
        recipe = dataclasses.replace(
            student.recipe,
            objective=arm.objective,
            distils=arm.loss is not None,
            words=tuple(sorted(words.items())),
        )
        return dataclasses.replace(
            student,
            **self._identity(name, 1 + seed),
            recipe=recipe,
            numbers=numbers,
            parts=objectives.check(arm.text, arm.objective, arm.options),
            mixup=arm.mixup,
            best=self.settings.checkpoint.best,
        )

    def head(self, role: str, fit: Fit, seed: int) -> Fit | None:
        """Returns the first stage of a fit, which trains the head alone; None if it has none.

        Args:
          role: "teacher" or "student".
          fit: from `teacher` or `student`.
          seed: of the fits that come after it, as `Fit.seed` has it.
        """
        training = getattr(self.settings, role)
        if not training.head_duration.amount:
            return None
        frozen = models.create_network(
            self.settings.data, training, self.images.num_classes, train_backbone=False
        )
        name = f"head/{role}" if role == TEACHER else f"head/{role}/{seed - 1}"
        made = self._durations(role, _head_stage(training), len(fit.images))
        recipe = dataclasses.replace(fit.recipe, network=frozen, optimizer=made.pop("optimizer"))
        identity = self._identity(name, seed)
        identity["key"] = stream(identity["key"], "head")  # other batches than the main stage's
        return dataclasses.replace(fit, **identity, recipe=recipe, **made)

    def _frozen(self, teacher: Teacher) -> Fit:
        """Returns the fit of a teacher that is as it is; its variables are put on all devices."""
        how = self.settings.teacher_parameters
        places = sharding.parameters(self.mesh, teacher.variables, how)
        recipe = Recipe(
            network=teacher.network,  # pyright: ignore[reportArgumentType]  # which nothing trains
            objective=objectives.cross_entropy,
            distils=False,
            words=(),
            optimizer=optax.identity(),
            mesh=self.mesh,
            parameters=how,
        )
        return Fit(
            **self._identity(TEACHER, 0),
            recipe=recipe,
            numbers={},
            parts=("ce",),
            batching=self._batching(self.settings.teacher.batch_size),
            images=self.images.teacher,
            mixup=None,
            steps=Steps(total=0, per_epoch=1, log=1, validate=1, checkpoint=1),
            schedule=optax.constant_schedule(0.0),
            keep=self.settings.checkpoint.keep,
            config=self.values,
            frozen=jax.device_put(teacher.variables, places),
        )

    def _identity(self, name: str, seed: int) -> dict[str, Any]:
        """What tells fits of one model apart; the key's number is 0 for the teacher."""
        key = jax.random.fold_in(jax.random.key(self.settings.seed), seed)
        return {
            "name": name,
            "seed": seed,
            "key": sharding.replicated_key(self.mesh, key),
            "folder": self.folder.model(name),
        }

    def _create(self, role: str, name: str, seed: int) -> Fit:
        settings, training = self.settings, getattr(self.settings, role)
        images = getattr(self.images, role)
        path = f"config.{role}.batch_size"
        if training.batch_size > len(images):
            raise ConfigError(
                f"{path}: expected at most the {len(images)} images that the {role} learns from, "
                f"got {training.batch_size}"
            )
        sharding.check_divisible(path, training.batch_size, self.mesh)
        network = models.create_network(settings.data, training, self.images.num_classes)
        models.check_fits(role, training, network, images.image_shape, self.images.num_classes)
        made = self._durations(role, training, len(images))
        return Fit(
            **self._identity(name, seed),
            recipe=Recipe(
                network=network,
                objective=objectives.cross_entropy,
                distils=False,
                words=(),
                optimizer=made.pop("optimizer"),
                mesh=self.mesh,
                parameters=settings.teacher_parameters if role == "teacher" else "replicated",
                skips=training.optimizer.skip_nonfinite,
            ),
            numbers={},
            parts=("ce",),
            batching=self._batching(training.batch_size),
            images=images,
            mixup=None,
            **made,
            keep=settings.checkpoint.keep,
            config=self.values,
            start=adopt.read(role, training, network, images.image_shape)
            or models.read_weights(role, training, network, images.image_shape),
        )

    def _batching(self, batch_size: int) -> Batching:
        data = self.settings.data
        augmentation = Augmentation(
            crop_padding=data.crop_padding,
            flip=data.flip,
            resize=data.resize,
            image_size=data.image_size,
        )
        return Batching(batch_size, self.images.num_classes, augmentation)

    def _durations(self, role: str, training: config.Training, num_examples: int) -> dict[str, Any]:
        """Returns steps, schedule and optimizer, by these names."""
        settings = self.settings
        steps = Steps.resolve(training, settings.log, settings.checkpoint, num_examples)
        schedule = create_schedule(
            training.schedule,
            path=f"config.{role}.schedule",
            num_examples=num_examples,
            batch_size=training.batch_size,
            total=steps.total,
        )
        optimizer = create_optimizer(training.optimizer, schedule, path=f"config.{role}.optimizer")
        # Log lines ask for the rate: one program, not one for each of its operations.
        return {"steps": steps, "schedule": jax.jit(schedule), "optimizer": optimizer}


def _head_stage(training: config.Training) -> config.Training:
    """Returns the first stage's training: Adam at a constant rate, nothing decayed or clipped."""
    return dataclasses.replace(
        training,
        duration=training.head_duration,
        optimizer=dataclasses.replace(
            training.optimizer, name="adam", weight_decay=0.0, clip_norm=0.0
        ),
        schedule=dataclasses.replace(
            training.schedule,
            name="constant",
            learning_rate=training.head_learning_rate,
            warmup=config.Duration(0, "steps"),
        ),
    )
