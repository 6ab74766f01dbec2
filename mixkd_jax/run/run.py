"""A run: one teacher, its students in every arm and for every seed, and their measures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from mixkd_jax import config
from mixkd_jax.config import ConfigError
from mixkd_jax.config.arms import Arm
from mixkd_jax.files import write_json
from mixkd_jax.folder import TEACHER, Folder, split_name
from mixkd_jax.models.network import Teacher, Variables
from mixkd_jax.run import adopt
from mixkd_jax.run.images import RunImages
from mixkd_jax.run.measure import Measures
from mixkd_jax.run.plan import Plan
from mixkd_jax.training import group, sharding
from mixkd_jax.training.clock import Clock, RunClock
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.forecast import Work
from mixkd_jax.training.group import Session
from mixkd_jax.training.member import Member, read_best
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.preemption import Stopped
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.progress import Progress


class Run:
    """Trains, evaluates and analyses the models of a run, or what is left of that."""

    def __init__(
        self,
        settings: config.Experiment,
        arms: Sequence[Arm],
        values: dict[str, Any],
        folder: Folder,
        images: RunImages,
        mesh: Mesh,
        progress: Progress,
        stop: Callable[[int], bool],
        given: Teacher | None = None,
    ):
        """Makes the fits; compiles nothing and writes nothing.

        Args:
          settings: the checked config.
          arms: of the config.
          values: the config as JSON has it.
          folder: of the run.
          images: of the run.
          mesh: all devices.
          progress: what a person sees meanwhile.
          stop: from a step to whether to stop after it.
          given: a teacher that isn't to be trained; None makes the config's.

        Raises:
          ConfigError: for settings that don't fit the images or the devices, or a file of weights
            that doesn't fit its model.
        """
        if images.validation is None:
            for arm in arms:
                if arm.loss is not None and arm.loss.teacher_temperature == "fit":
                    raise ConfigError(
                        f'config.arms["{arm.text}"].teacher_temperature: expected validation '
                        'images to fit it on, got "fit" with config.data.validation_examples = 0'
                    )
            if settings.checkpoint.best:
                raise ConfigError(
                    "config.checkpoint.best: expected validation images to choose by, got "
                    f'"{settings.checkpoint.best}" with config.data.validation_examples = 0'
                )
        self._settings, self._arms = settings, arms
        self._fitted = math.nan
        self._plan = Plan(settings, values, folder, images, mesh, given)
        self._known = adopt.evaluation(settings, values, images.about())
        self._teacher = self._plan.teacher()
        self._student = self._plan.student()
        self._measures = Measures(settings, images, mesh)
        self._progress = progress
        self._clock = RunClock(folder.time, progress.started)
        self._session = Session(
            Programs(progress.compiling),
            MetricsLog(folder, enabled=jax.process_index() == 0),
            progress,
            stop,
        )

    def works(self) -> dict[str, Work]:
        """Returns what is done and left of every model, by its name; the teacher comes first."""
        analyses = bool(self._settings.analysis.pairs)
        works = {}
        for fit in [self._teacher, *self._students()]:
            trained = self._measures.is_evaluated(fit)
            works[fit.name] = Work(
                role="teacher" if fit is self._teacher else "student",
                total=fit.steps.total,
                step=fit.steps.total if trained else 0,
                seconds=fit.clock().seconds,
                trained=trained,
                analysed=not analyses or self._measures.is_analysed(fit),
            )
        return works

    def num_groups(self) -> int:
        """Returns how many groups the students that are left make."""
        return len(group.divide(self._left()))

    def train(self) -> None:
        """Trains and evaluates the teacher and then its students, group by group."""
        if not self._measures.is_evaluated(self._teacher):
            if self._teacher.frozen is None:
                self._train("teacher", [self._teacher], None)
            else:
                self._evaluate_frozen(self._teacher)
        if not self._left():
            return
        teacher = self._load_teacher()
        if not self._teacher.is_whole():  # its last checkpoint was damaged
            self._train("teacher", [self._teacher], None)
            teacher = self._load_teacher()
        assert teacher is not None
        for fits in group.divide(self._left()):
            self._train("student", fits, teacher)

    def evaluate(self) -> None:
        """Evaluates the newest checkpoint of every model that has one."""
        if self._load_teacher() is None:
            self._progress.say(f"{self._teacher.name}: has no checkpoint yet")
            return
        for fit in [self._teacher, *self._students()]:
            newest = fit.newest()
            if newest is None:
                self._progress.say(f"{fit.name}: has no checkpoint yet")
                continue
            about = self._about(fit)
            if best := fit.newest_best():
                self._evaluate_best(fit, *best, fit.clock())
            with self._progress.during(f"evaluating {fit.name}"):
                self._measures.write_evaluation(fit, *newest, clock=fit.clock(), about=about)
            self._check_stop(f"evaluated {fit.name}")

    def analyse(self, *, again: bool = False) -> None:
        """Analyses the newest checkpoints of the models, beside the teacher; without one, none.

        Args:
          again: whether to analyse also what was analysed at the same step; the files then come
            out the same.
        """
        fits = [self._teacher, *self._students()]
        left = [fit for fit in fits if again or not self._measures.is_analysed(fit)]
        if not left or not self._settings.analysis.pairs or self._teacher.newest() is None:
            return
        # Students are compared with the teacher, which therefore comes first in any case.
        fits = [self._teacher, *(fit for fit in left if fit is not self._teacher)]
        for number, fit in enumerate(fits, 1):
            newest = fit.newest()
            if newest is None:
                continue
            with self._progress.during(f"analysing {fit.name}, {number} of {len(fits)}"):
                self._measures.write_analysis(fit, *newest, is_teacher=fit is self._teacher)
            self._progress.analysed(fit.name, fit.clock().seconds)
            if not again:
                self._clock.save()
            self._check_stop(f"analysed {number} of {len(fits)} models")

    def _train(self, role: str, fits: Sequence[Fit], teacher: Teacher | None) -> None:
        """Trains a group, after the first stage that its fits may have in common."""
        template = self._teacher if role == "teacher" else self._student
        head = self._plan.head(role, template, fits[0].seed)
        start = template.start if head is None else self._train_head(head)
        fits = [
            dataclasses.replace(fit, start=start, validate=self._validation(fit)) for fit in fits
        ]
        group.train(fits, teacher, self._session, self._finish)

    def _evaluate_frozen(self, fit: Fit) -> None:
        with self._progress.during(f"evaluating {fit.name}"):
            self._measures.keep_teacher_logits(Teacher(fit.recipe.network, fit.frozen))
            self._measures.write_evaluation(fit, 0, fit.frozen, fit.clock(), {})
        self._progress.trained(fit.name)
        self._clock.save()

    def _train_head(self, head: Fit) -> Variables:
        """Trains a first stage, if it isn't yet, and returns what it ends with."""
        newest = head.newest()
        if newest is None or newest[0] < head.steps.total:
            group.train([head], None, self._session, lambda member: None)
            newest = head.newest()
        assert newest is not None
        return newest[1]

    def _validation(self, fit: Fit) -> Callable[[Variables], dict[str, float]] | None:
        validate = self._measures.validation(fit)
        if validate is None:
            return None

        def told(variables: Variables) -> dict[str, float]:
            with self._progress.during("validating"):
                return validate(variables)

        return told

    def _finish(self, member: Member) -> None:
        fit, state = member.fit, member.state
        about = self._about(fit)
        if best := fit.newest_best():
            # Before its last state, which is what tells that a model is evaluated.
            self._evaluate_best(fit, *best, member.clock)
        if fit.name == TEACHER and self._known is not None:
            self._progress.say("teacher: measured by its own run, on the same images")
            if jax.process_index() == 0:
                steps = {"step": member.step, "total_steps": fit.steps.total}
                write_json(fit.folder.evaluation, {**self._known, **steps})
            member.clock.save()
            sharding.barrier("copied")
        else:
            with self._progress.during(f"evaluating {fit.name}"):
                self._measures.write_evaluation(
                    fit, member.step, state.variables, member.clock, about
                )
        self._progress.trained(fit.name)
        self._clock.save()

    def _evaluate_best(self, fit: Fit, step: int, variables: Variables, clock: Clock) -> None:
        """Evaluates a student as it was where it did best on the validation images."""
        chosen = read_best(fit.folder.best) or {}
        about = {**self._about(fit), "chosen_by": chosen.get("chosen_by", fit.best)}
        own = dataclasses.replace(fit, folder=fit.folder.best)
        with self._progress.during(f"evaluating the best {fit.name}"):
            self._measures.write_evaluation(own, step, variables, clock, about)

    def _about(self, fit: Fit) -> dict[str, Any]:
        """Returns what a student's evaluation tells of its training."""
        split = split_name(fit.name)
        if split is None:
            return {}
        arm = next(arm for arm in self._arms if arm.text == split[0])
        recipe = arm.describe()
        if arm.loss is not None:
            recipe["teacher_temperature"] = self._temperature(arm)
        return {"recipe": recipe}

    def _load_teacher(self) -> Teacher | None:
        """Returns the teacher as it was saved, with its predictions for its students kept."""
        newest = self._teacher.newest()
        if newest is None:
            return None
        teacher = Teacher(self._teacher.recipe.network, newest[1])
        with self._progress.during("predicting with the teacher"):
            self._measures.keep_teacher_logits(teacher)
        if self._teacher.frozen is not None:
            self._measures.check_same_teacher(self._teacher)
        if doubt := self._measures.doubt_about_teacher():
            self._progress.say(doubt)
        if any(arm.loss and arm.loss.teacher_temperature == "fit" for arm in self._arms):
            self._fitted = self._measures.fitted_temperature()
            self._progress.say(
                f"teacher: a temperature of {self._fitted:.3f} fits the validation images"
            )
        return teacher

    def _temperature(self, arm: Arm) -> float:
        """Returns an arm's temperature of the teacher; NaN as long as it hasn't been fitted."""
        given = arm.loss.teacher_temperature if arm.loss else 1.0
        return self._fitted if given == "fit" else given

    def _students(self) -> list[Fit]:
        """Returns the fits of all seeds and arms."""
        return [
            self._plan.of_arm(self._student, arm, seed, self._temperature(arm))
            for seed in self._settings.seeds
            for arm in self._arms
        ]

    def _left(self) -> list[Fit]:
        return [fit for fit in self._students() if not self._measures.is_evaluated(fit)]

    def _check_stop(self, told: str) -> None:
        if self._session.stop(0):
            raise Stopped(told)
