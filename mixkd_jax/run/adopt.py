"""Models of earlier runs, or exported ones, to begin with: their fields of the config, and checks.

`config.teacher.weights` and `config.student.weights` may name one instead of a file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax

from mixkd_jax import config
from mixkd_jax.config import ConfigError
from mixkd_jax.folder import TEACHER
from mixkd_jax.models.network import Network, Variables
from mixkd_jax.run import stored, workdir
from mixkd_jax.run.stored import Found, ModelError

# Fields of the data that other models than the teacher depend on, or none.
_OTHERS = ("teacher_examples", "student_examples", "download", "workers", "prefetch", "pipeline")


def adopt(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON has it, in which models that are taken over are as they are there.

    Of a field that has its default the stored model's value is taken; any other must be equal to
    it. A teacher is not trained again.

    Raises:
      ConfigError: if there is no such model, or a field says something else.
    """
    made: Any = workdir.plain(values)
    defaults: Any = config.get_defaults()
    for role in (TEACHER, "student"):
        path = made[role]["weights"]
        if not path or not stored.is_folder(path):
            continue
        about = _find(role, path).about
        there = {**about["architecture"], "image_size": _side(about)}
        del there["dtype"]
        for name, value in there.items():
            own = made[role][name]
            if own not in (value, defaults[role][name]):
                raise ConfigError(
                    f"config.{role}.{name}: expected {json.dumps(value)}, as {path} has it, got "
                    f"{json.dumps(own)}; leave it out"
                )
            made[role][name] = value
        if role == TEACHER:
            made[role]["duration"] = made[role]["head_duration"] = "0 epochs"
    return made


def check(settings: config.Experiment, data: Mapping[str, Any]) -> None:
    """Checks that models that are taken over fit the images of the run.

    Args:
      settings: the config, after `adopt`.
      data: what the run's folder tells of them: `RunImages.about()`.

    Raises:
      ConfigError: for other classes, another order of classes, other channels or another
        standardisation of pixels.
    """
    for role in (TEACHER, "student"):
        training = getattr(settings, role)
        if not training.weights or not stored.is_folder(training.weights):
            continue
        field, path = f"config.{role}.weights", training.weights
        about = _find(role, path).about
        _check_classes(field, path, about["class_names"], data["class_names"])
        images, shape = about["images"], data["image_shape"]
        if images["shape"][-1] != shape[-1]:
            raise ConfigError(
                f"{field}: expected a model of images with {shape[-1]} channels, got "
                f"{images['shape'][-1]} in {path}"
            )
        if not training.image_size and images["shape"] != shape:
            raise ConfigError(
                f"{field}: expected a model of images {shape}, got {images['shape']} in {path}"
            )
        for name in ("mean", "std"):
            own = getattr(settings.data, name)
            if training.pixels == "data" and list(own) != images[name]:
                raise ConfigError(
                    f"config.data.{name}: expected {tuple(images[name])}, which {path} was trained "
                    f"with, got {own}"
                )


def read(
    role: str, training: config.Training, network: Network, image_shape: tuple[int, int, int]
) -> Variables | None:
    """Returns the variables of the model that a training takes over; None if it takes none.

    Raises:
      ConfigError: if they are damaged or don't fit.
    """
    if not training.weights or not stored.is_folder(training.weights):
        return None
    shapes = jax.eval_shape(
        functools.partial(network.init, image_shape=image_shape),
        jax.eval_shape(jax.random.key, 0),
    )
    try:
        return stored.read(_find(role, training.weights), shapes)
    except ModelError as error:
        raise ConfigError(f"config.{role}.weights: {error}") from None


def evaluation(
    settings: config.Experiment, values: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Returns the earlier run's evaluation of the teacher, if it was measured on the same images.

    Args:
      settings: the config, after `adopt`.
      values: the same as JSON has it.
      data: as of `check`.
    """
    path = settings.teacher.weights
    if not path or not stored.is_folder(path):
        return None
    found = _find(TEACHER, path)
    if found.run is None:
        return None
    there = json.loads(found.run.config.read_text())
    own = there["config"]["teacher" if found.is_teacher else "student"]
    same = (
        _test_images(there["config"]) == _test_images(values)
        and {**there["data"], "teacher": 0, "student": 0} == {**data, "teacher": 0, "student": 0}
        and own["dtype"] == settings.teacher.dtype
        and there["config"]["evaluation"]["num_bins"] == settings.evaluation.num_bins
    )
    measured = found.folder / "evaluation.json"
    if not same or not measured.exists():
        return None
    known = json.loads(measured.read_text())
    return {name: known[name] for name in ("metrics", "bins", "calibrated")}


def _test_images(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in values["data"].items() if name not in _OTHERS}
    return {**kept, "seed": values["seed"]}


def _find(role: str, path: str) -> Found:
    try:
        return stored.find(path)
    except ModelError as error:
        raise ConfigError(f"config.{role}.weights: {error}") from None


def _side(about: Mapping[str, Any]) -> int:
    """Returns the pixels of both sides that a model sees, 0 if they differ."""
    height, width, _ = about["images"]["shape"]
    return about["images"]["image_size"] or (height if height == width else 0)


def _check_classes(field: str, path: str, there: list[str], here: list[str]) -> None:
    if there == here:
        return
    if sorted(there) == sorted(here):
        first = next(k for k, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        raise ConfigError(
            f"{field}: expected the classes in the order of the data, got another in {path}: "
            f"number {first} is {here[first]!r} here and {there[first]!r} there"
        )
    lacking = [name for name in here if name not in there]
    extra = [name for name in there if name not in here]
    raise ConfigError(
        f"{field}: expected the {len(here)} classes of the data, got {len(there)} in {path}, which "
        f"lacks {_some(lacking)} and has {_some(extra)} besides"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(map(repr, names[:5])) or "none") + more
