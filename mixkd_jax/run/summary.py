"""The first lines of a run: what it is, and what is left of it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mixkd_jax import config
from mixkd_jax.folder import split_name
from mixkd_jax.run.images import RunImages
from mixkd_jax.training.forecast import Work

_MOST_NAMES = 6  # of models or classes, that are told one by one


def first_lines(
    folder: str | os.PathLike[str],
    settings: config.Experiment,
    images: RunImages,
    works: Mapping[str, Work],
    groups: int,
) -> list[str]:
    """Returns what a person reads first.

    Args:
      folder: of the run, as it was typed.
      settings: the config.
      images: of the run.
      works: what is done and left of each model.
      groups: how many of them the students that are left make.
    """
    teacher, student = (_model(m, settings, images) for m in (settings.teacher, settings.student))
    return [
        f"run: {os.fspath(folder)} ({_state(works, groups)})",
        f"data: {_classes(images)}, {_sizes(images)}    teacher {teacher} -> student {student}",
    ]


def _state(works: Mapping[str, Work], groups: int) -> str:
    done = [name for name, work in works.items() if work.trained]
    left = len(works) - len(done)
    students = sum(work.role == "student" and not work.trained for work in works.values())
    together = f" in {groups} group{'s' * (groups != 1)}" if students > groups else ""
    if not left:
        return f"finished: all {len(works)} models are trained"
    if not done:
        return f"new: {len(works)} models, the teacher and {students} students{together}"
    return f"continuing: {_names(done)} done; {left} of {len(works)} models left{together}"


def _names(models: list[str]) -> str:
    short = ["/".join(map(str, split_name(name) or (name,))) for name in models]
    return ", ".join(short) if len(short) <= _MOST_NAMES else f"{len(short)} models"


def _classes(images: RunImages) -> str:
    names = list(images.class_names)
    if len(names) > _MOST_NAMES:
        names = [*names[:2], "...", names[-1]]
    return f"{images.name}, {images.num_classes} classes ({', '.join(names)})"


def _model(model: config.Training, settings: config.Experiment, images: RunImages) -> str:
    side = model.image_size or settings.data.image_size
    resized = side and images.test.image_shape[:2] != (side, side)
    return f"{model.model} (sees {side}x{side})" if resized else model.model


def _sizes(images: RunImages) -> str:
    teacher, student = len(images.teacher), len(images.student)
    parts = [f"{teacher:,} train"]
    if teacher != student:
        parts = [f"{teacher:,} train the teacher", f"{student:,} the students"]
    if images.validation is not None:
        parts.append(f"{len(images.validation):,} validation")
    height, width, channels = images.test.image_shape
    parts.append(f"{len(images.test):,} test")
    return f"{' / '.join(parts)}, {height}x{width}{'' if channels == 3 else f'x{channels}'}"
