"""The losses that an arm can minimise: `kd_weight * term + ce_weight * cross-entropy`.

Each is a function of the student's logits, the teacher's and labels, f32[B, C] each, the labels
one-hot or mixed. It returns the loss, f32[B] or f32[], of which a step minimises the mean, and the
parts of it that are logged, by name. Its keyword arguments are its options, with the values of the
paper that it comes from as defaults; numbers may be traced. A new one is such a function and its
name in `OBJECTIVES`; its options then are fields of `config.loss`, and of arms.

Decoupled terms need one class for each example: of a mixed label it is the class with the larger
weight.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mixkd_jax import losses


def cross_entropy(student_logits, teacher_logits, labels):
    """The cross-entropy alone: the objective of an arm without a teacher."""
    del teacher_logits
    loss = losses.cross_entropy(student_logits, labels)
    return loss, {"ce": loss}


def kl(
    student_logits,
    teacher_logits,
    labels,
    *,
    temperature: float | Literal["std"] = 2.0,
    kd_weight: float = 1.0,
    ce_weight: float = 0.0,
):
    """T² KL(teacher ‖ student): Hinton et al., arXiv:1503.02531; defaults of arXiv:2606.12171.

    Args:
      student_logits: f32[B, C].
      teacher_logits: f32[B, C].
      labels: f32[B, C].
      temperature: T, which divides the logits of both; "std" divides each row by its own standard
        deviation (Choi et al. 2023).
      kd_weight: of the distillation term.
      ce_weight: of the cross-entropy with the labels.
    """
    return losses.distillation_loss(
        student_logits,
        teacher_logits,
        labels,
        temperature=temperature,
        kd_weight=kd_weight,
        ce_weight=ce_weight,
    )


def lskd(
    student_logits,
    teacher_logits,
    labels,
    *,
    temperature: float = 2.0,
    kd_weight: float = 9.0,
    ce_weight: float = 0.1,
    ddof: int = 1,
):
    """Logit standardization: Sun et al., CVPR 2024; defaults of its CIFAR-100 experiments.

    Args:
      student_logits: f32[B, C].
      teacher_logits: f32[B, C].
      labels: f32[B, C].
      temperature: T, which divides the standardized logits.
      kd_weight: of the distillation term.
      ce_weight: of the cross-entropy with the labels.
      ddof: 1 standardizes by the standard deviation of a sample, 0 by that of a population.
    """
    kd = losses.logit_standardization_kl(
        student_logits, teacher_logits, temperature=temperature, ddof=ddof
    )
    return _with_cross_entropy(kd, student_logits, labels, kd_weight, ce_weight)


def dkd(
    student_logits,
    teacher_logits,
    labels,
    *,
    temperature: float = 4.0,
    kd_weight: float = 1.0,
    ce_weight: float = 1.0,
    target_weight: float = 1.0,
    nontarget_weight: float = 8.0,
):
    """Decoupled distillation: Zhao et al., CVPR 2022, without its warm-up of the term.

    Args:
      student_logits: f32[B, C].
      teacher_logits: f32[B, C].
      labels: f32[B, C].
      temperature: T, which divides the logits of both.
      kd_weight: of the distillation term.
      ce_weight: of the cross-entropy with the labels.
      target_weight: of the target class's part, alpha in the paper.
      nontarget_weight: of the other classes' part, beta in the paper.
    """
    kd = losses.decoupled_kl(
        student_logits,
        teacher_logits,
        jnp.argmax(labels, -1),
        temperature=temperature,
        target_weight=target_weight,
        nontarget_weight=nontarget_weight,
    )
    return _with_cross_entropy(kd, student_logits, labels, kd_weight, ce_weight)


def rld(
    student_logits,
    teacher_logits,
    labels,
    *,
    temperature: float = 4.0,
    kd_weight: float = 8.0,
    ce_weight: float = 1.0,
    confidence_weight: float = 1.0,
    confidence_temperature: float = 1.0,
):
    """Refined logit distillation: Sun et al., ICLR 2025.

    Args:
      student_logits: f32[B, C].
      teacher_logits: f32[B, C].
      labels: f32[B, C].
      temperature: T of the masked correlation.
      kd_weight: of the masked correlation, which is logged as "kd"; beta in the paper.
      ce_weight: of the cross-entropy with the labels.
      confidence_weight: of sample confidence, alpha in the paper.
      confidence_temperature: T of sample confidence.
    """
    classes = jnp.argmax(labels, -1)
    kd = losses.masked_correlation_kl(
        student_logits, teacher_logits, classes, temperature=temperature
    )
    confidence = losses.sample_confidence_kl(
        student_logits, teacher_logits, classes, temperature=confidence_temperature
    )
    loss, parts = _with_cross_entropy(kd, student_logits, labels, kd_weight, ce_weight)
    return loss + confidence_weight * confidence, {**parts, "confidence": confidence}


def dist(
    student_logits,
    teacher_logits,
    labels,
    *,
    temperature: float = 4.0,
    kd_weight: float = 2.0,
    ce_weight: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
):
    """Relations within and between classes: Huang et al., NeurIPS 2022; defaults of CIFAR-100.

    Args:
      student_logits: f32[B, C].
      teacher_logits: f32[B, C].
      labels: f32[B, C].
      temperature: T, which divides the logits of both.
      kd_weight: of the distillation term.
      ce_weight: of the cross-entropy with the labels.
      inter_weight: of the correlation over the classes of an example.
      intra_weight: of the correlation over the examples of a class.
    """
    kd = losses.relational_loss(
        student_logits,
        teacher_logits,
        temperature=temperature,
        inter_weight=inter_weight,
        intra_weight=intra_weight,
    )
    return _with_cross_entropy(kd, student_logits, labels, kd_weight, ce_weight)


def _with_cross_entropy(kd, student_logits, labels, kd_weight, ce_weight):
    ce = losses.cross_entropy(student_logits, labels)
    return kd_weight * kd + ce_weight * ce, {"kd": kd, "ce": ce}


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "kl": kl,
    "lskd": lskd,
    "dkd": dkd,
    "rld": rld,
    "dist": dist,
}

# Names that arms and config arguments take for `loss` beside those of OBJECTIVES.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    # The script that the authors of arXiv:2606.12171 released later.
    "kl-ce": ("kl", {"kd_weight": 0.8, "ce_weight": 0.2}),
    "std": ("kl", {"temperature": "std"}),
    # As the authors of arXiv:2606.12171 compare with: the deviation of a population,
    "lskd-mixkd": ("lskd", {"ddof": 0}),
    # and one temperature for both parts.
    "rld-mixkd": ("rld", {"temperature": 2.0, "kd_weight": 4.0, "confidence_temperature": 2.0}),
}


def preset_names() -> tuple[str, ...]:
    """Returns what `loss=` of an arm or of a config's argument takes."""
    return (*OBJECTIVES, *PRESETS)


def preset(name: str) -> tuple[str, dict[str, Any]]:
    """Returns the objective's name and the options that a preset sets."""
    return PRESETS.get(name, (name, {}))


def options(objective: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns an objective's options by name, with their defaults and their types resolved."""
    hints = typing.get_type_hints(objective)
    return {
        name: parameter.replace(annotation=hints.get(name, type(parameter.default)))
        for name, parameter in inspect.signature(objective).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def describe(objective: Callable[..., Any]) -> dict[str, str]:
    """Returns what an objective's docstring says of each of its options."""
    text = inspect.getdoc(objective) or ""
    _, _, arguments = text.partition("Args:")
    found: dict[str, str] = {}
    for name, description in re.findall(r"^  (\w+): ((?:.|\n(?=   ))+)", arguments, re.MULTILINE):
        found[name] = " ".join(description.split())
    return {name: found.get(name, "") for name in options(objective)}


def check(name: str, objective: Callable[..., Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Traces an objective on a small batch, without computing anything.

    Args:
      name: what messages call it.
      objective: to be checked.
      given: its options.

    Returns:
      The names of the parts that it returns.

    Raises:
      ValueError, TypeError: if it refuses its options, or returns something else than a loss and
        its parts.
    """
    rows, classes = 4, 3
    logits = jax.ShapeDtypeStruct((rows, classes), jnp.float32)
    made = jax.eval_shape(lambda s, t, y: objective(s, t, y, **given), logits, logits, logits)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping)):
        raise TypeError(f"loss {name}: expected (loss, parts) with parts a dict, got {made}")
    for part, value in {"loss": made[0], **made[1]}.items():
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape not in ((rows,), ()) or not jnp.issubdtype(dtype or bool, jnp.floating):
            raise TypeError(
                f"loss {name}: expected {part} to have one floating number for each of {rows} "
                f"examples, or one for the batch, got {dtype}{list(shape or ())}"
            )
    return tuple(made[1])
