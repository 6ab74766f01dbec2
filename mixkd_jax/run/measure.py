"""Measuring the models of a run: evaluations and analyses, each written beside its model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixkd_jax import config
from mixkd_jax.data.types import Split
from mixkd_jax.evaluation import analyse, corruptions
from mixkd_jax.evaluation.evaluate import Evaluation, evaluate
from mixkd_jax.evaluation.predict import Predict, create_predict, predict_all
from mixkd_jax.evaluation.probe import Probe, ProbePredictions, create_probe
from mixkd_jax.evaluation.scores import fit_temperature, score
from mixkd_jax.files import load_json_if_whole, write_json
from mixkd_jax.models.network import Classifier, Teacher, Variables
from mixkd_jax.models.teachers import TeacherError, check_answers
from mixkd_jax.run.images import RunImages
from mixkd_jax.training import sharding
from mixkd_jax.training.clock import Clock
from mixkd_jax.training.feeds import Images, OnDevice, fetch
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.randomness import stream


class Measures:
    """Measures models on the images of a run, as their config says.

    What all students need of their teacher, its predictions, is computed once.
    """

    def __init__(self, settings: config.Experiment, images: RunImages, mesh: Mesh):
        """Computes nothing yet."""
        self._settings = settings
        self._images = images
        self._mesh = mesh
        self._predicts: dict[Classifier, Predict] = {}
        self._teacher: Any = None  # the variables whose logits are kept
        self._teacher_logits: dict[str, np.ndarray] = {}
        self._probe: Probe | None = None
        self._teacher_probe: ProbePredictions | None = None

    def validation(self, fit: Fit) -> Callable[[Variables], dict[str, float]] | None:
        """Returns the function from a fit's variables to its metrics on the validation images."""
        if self._images.validation is None:
            return None

        def validate(variables: Variables) -> dict[str, float]:
            return self._evaluate(fit, variables, "validation").metrics

        return validate

    def _evaluate(self, fit: Fit, variables: Variables, part: str) -> Evaluation:
        """Evaluates a model on the images of a `part`, "test" or "validation"."""
        beside = part == "validation" and fit.recipe.distils
        return evaluate(
            self._predict(fit.recipe.network),
            variables,
            getattr(self._images, part),
            num_bins=self._settings.evaluation.num_bins,
            key=stream(jax.random.key(self._settings.seed), "evaluation pairs"),
            teacher_logits=self._teacher_logits[part] if beside else None,
            held_out=self._images.validation if part == "test" else None,
        )

    def keep_teacher_logits(self, teacher: Teacher) -> None:
        """Predicts the test and the validation images with the teacher, for its students.

        Raises:
          TeacherError: if its logits aren't finite.
        """
        if self._teacher is teacher.variables:
            return
        self._teacher = teacher.variables
        for part in ("test", "validation"):
            images = getattr(self._images, part)
            if images is not None:
                predict = self._predict(teacher.network)
                logits = predict_all(predict, teacher.variables, images)
                check_answers(logits)
                self._teacher_logits[part] = logits

    def doubt_about_teacher(self) -> str:
        """Returns a sentence about a teacher that does no better than chance; "" of any other."""
        labels = self._images.test.labels(np.arange(len(self._images.test)))
        accuracy = float(np.mean(self._teacher_logits["test"].argmax(-1) == labels))
        chance = 1 / self._images.num_classes
        if accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / len(labels)):
            return ""
        return (
            f"teacher: no better than chance on {len(labels):,} test images of "
            f"{self._images.num_classes} classes ({accuracy:.1%} right). If it was trained "
            "elsewhere, are its classes in the order of the data's, and are its pixels as it saw "
            "them there (config.teacher.pixels)?"
        )

    def fitted_temperature(self) -> float:
        """Returns the temperature that minimises the teacher's NLL on the validation images."""
        images = self._images.validation
        assert images is not None
        labels = images.labels(np.arange(len(images)))
        return float(fit_temperature(self._teacher_logits["validation"], labels))

    def write_evaluation(
        self, fit: Fit, step: int, variables: Variables, clock: Clock, about: Mapping[str, Any]
    ) -> None:
        """Evaluates a model on the test images and writes `evaluation.json`.

        Args:
          fit: of the model.
          step: of its variables.
          variables: of the model.
          clock: of the model.
          about: what else the file is to hold, such as a student's "recipe"; its "teacher" is
            added, the scores of the teacher as the student learned from it.
        """
        with clock.measure("evaluate"):
            measured = self._evaluate(fit, variables, "test")
            about = dict(about)
            if fit.recipe.distils:
                about["teacher"] = self._scores_of_teacher(fit.numbers["teacher_temperature"])
        if jax.process_index() == 0:
            steps = {"step": step, "total_steps": fit.steps.total}
            content = {**steps, **dataclasses.asdict(measured), **about}
            write_json(fit.folder.evaluation, content)
        clock.save()

    def check_same_teacher(self, fit: Fit) -> None:
        """Checks that a given teacher answers as it did when the run began, up to rounding.

        Raises:
          TeacherError: if it answers otherwise.
        """
        known = _read(fit.folder.evaluation).get("metrics", {})
        found = self._scores_of_teacher(1.0)
        for name in ("accuracy", "nll"):
            if name in known and abs(found[name] - known[name]) > 1e-2 * abs(known[name]) + 1e-3:
                raise TeacherError(
                    f"teacher: expected the one that this run began with, whose {name} on the test "
                    f"images is {known[name]:.4f}, got one with {found[name]:.4f}; name another "
                    "folder"
                )

    def is_evaluated(self, fit: Fit) -> bool:
        """Whether a model was evaluated after its last step, with the bins of the config.

        And whether that step's checkpoint is there: a measure and a model are of one step.
        """
        found = _read(fit.folder.evaluation)
        bins = len(found.get("bins", {}).get("count", ()))
        done = found.get("step") == fit.steps.total and fit.is_whole()
        return sharding.agreed(done and bins == self._settings.evaluation.num_bins)

    def write_analysis(
        self, fit: Fit, step: int, variables: Variables, *, is_teacher: bool
    ) -> None:
        """Analyses a model and writes `analysis.json`; the teacher comes before its students."""
        clock = fit.clock()
        with clock.measure("analyse"):
            probe = self._probe = self._probe or self._create_probe()
            predict = self._predict(fit.recipe.network)
            predictions = ProbePredictions(predict, variables, probe, keep=is_teacher)
            if is_teacher:
                self._teacher_probe = predictions
            teacher = None if is_teacher else self._teacher_probe
            found = analyse.analyse(probe, predictions, teacher)
        if jax.process_index() != 0:
            return
        if not fit.folder.analysis.exists():
            clock.save()  # of the first analysis, so that a second leaves the same files
        write_json(fit.folder.analysis, {"step": step, "settings": self._analysis(), **found})

    def is_analysed(self, fit: Fit) -> bool:
        """Whether a model was analysed after its last step, as the config says."""
        found = _read(fit.folder.analysis)
        done = found.get("step") == fit.steps.total and found.get("settings") == self._analysis()
        return sharding.agreed(done)

    def _analysis(self) -> dict[str, int]:
        bins = {"num_bins": self._settings.evaluation.num_bins}
        return {**dataclasses.asdict(self._settings.analysis), **bins}

    def _scores_of_teacher(self, temperature: float) -> dict[str, float]:
        images = self._images.test
        logits = self._teacher_logits["test"] / np.float32(temperature)
        labels = images.labels(np.arange(len(images)))
        return score(logits, labels, num_bins=self._settings.evaluation.num_bins)[0]

    def _predict(self, network: Classifier) -> Predict:
        if network not in self._predicts:
            size = min(self._settings.evaluation.batch_size, len(self._images.test))
            self._predicts[network] = create_predict(network, mesh=self._mesh, batch_size=size)
        return self._predicts[network]

    def _create_probe(self) -> Probe:
        settings = self._settings
        return create_probe(
            {"train": self._images.student, "test": self._images.test},
            self._images.validation,
            self._corrupted(),
            num_pairs=settings.analysis.pairs,
            path_pairs=settings.analysis.path_pairs,
            num_bins=settings.evaluation.num_bins,
            seed=settings.seed,
        )

    def _corrupted(self) -> Images | None:
        """Returns the first test images, corrupted; every device has all of them."""
        test = self._images.test
        number = min(self._settings.analysis.corrupted_images, len(test))
        if not number:
            return None
        indices = np.arange(number)
        split = Split(fetch(test, indices), test.labels(indices))
        return OnDevice.put(corruptions.corrupt_all(split, self._settings.seed), self._mesh)


def _read(path: Any) -> dict[str, Any]:
    """Returns what a file of measures holds; nothing if it isn't there, or is torn."""
    return load_json_if_whole(path, _is_object, "it is made again") or {}


def _is_object(found: Any) -> bool:
    return isinstance(found, dict)
