"""The losses that a config can choose: `kd_weight * term + ce_weight * cross-entropy`.

A new one is a function here and its name in `OBJECTIVES`. Decoupled terms need one class per
example: of a mixed label it is the class with the larger weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from mixkd_jax import losses
from mixkd_jax.config import ConfigError, Loss, choose


class Objective(Protocol):
    """What a step minimises the mean of."""

    def __call__(
        self, student_logits: jax.Array, teacher_logits: jax.Array | None, labels: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns (loss f32[B] or f32[], parts to log): "ce", and "kd" if there is a teacher.

        Args:
          student_logits: f32[B, C].
          teacher_logits: f32[B, C]; None if nothing is distilled.
          labels: f32[B, C], one-hot or mixed.
        """
        ...


def cross_entropy(student_logits, teacher_logits, labels):
    """The objective of an arm that doesn't distil."""
    del teacher_logits
    loss = losses.cross_entropy(student_logits, labels)
    return loss, {"ce": loss}


def kl(config: Loss) -> Objective:
    """Hinton's distillation, or Choi et al.'s with temperature "std"."""
    temperature = "std" if config.temperature == "std" else float(config.temperature)

    def objective(student_logits, teacher_logits, labels):
        return losses.distillation_loss(
            student_logits,
            teacher_logits,
            labels,
            temperature=temperature,
            kd_weight=config.kd_weight,
            ce_weight=config.ce_weight,
        )

    return objective


def _with_cross_entropy(config: Loss, term: Callable[..., jax.Array]) -> Objective:
    """Adds the cross-entropy to `term(student_logits, teacher_logits, classes)`."""

    def objective(student_logits, teacher_logits, labels):
        kd = term(student_logits, teacher_logits, jnp.argmax(labels, -1))
        ce = losses.cross_entropy(student_logits, labels)
        return config.kd_weight * kd + config.ce_weight * ce, {"kd": kd, "ce": ce}

    return objective


def lskd(config: Loss) -> Objective:
    """Logit standardization (Sun et al., CVPR 2024)."""
    temperature = float(config.temperature)
    return _with_cross_entropy(
        config,
        lambda student, teacher, _: losses.logit_standardization_kl(
            student, teacher, temperature=temperature, ddof=config.ddof
        ),
    )


def dkd(config: Loss) -> Objective:
    """Decoupled distillation (Zhao et al., CVPR 2022)."""
    temperature = float(config.temperature)
    return _with_cross_entropy(
        config,
        lambda student, teacher, classes: losses.decoupled_kl(
            student,
            teacher,
            classes,
            temperature=temperature,
            target_weight=config.target_weight,
            nontarget_weight=config.nontarget_weight,
        ),
    )


def rld(config: Loss) -> Objective:
    """Refined logit distillation (Sun et al., ICLR 2025).

    kd_weight * MCD + confidence_weight * SCD + ce_weight * CE; logged as "kd" is MCD.
    """
    temperature = float(config.temperature)

    def objective(student_logits, teacher_logits, labels):
        classes = jnp.argmax(labels, -1)
        kd = losses.masked_correlation_kl(
            student_logits, teacher_logits, classes, temperature=temperature
        )
        confidence = losses.sample_confidence_kl(
            student_logits, teacher_logits, classes, temperature=config.confidence_temperature
        )
        ce = losses.cross_entropy(student_logits, labels)
        loss = config.kd_weight * kd + config.confidence_weight * confidence
        return loss + config.ce_weight * ce, {"kd": kd, "ce": ce}

    return objective


def dist(config: Loss) -> Objective:
    """Relations within and between classes (Huang et al., NeurIPS 2022)."""
    temperature = float(config.temperature)
    return _with_cross_entropy(
        config,
        lambda student, teacher, _: losses.relational_loss(
            student,
            teacher,
            temperature=temperature,
            inter_weight=config.inter_weight,
            intra_weight=config.intra_weight,
        ),
    )


OBJECTIVES: dict[str, Callable[[Loss], Objective]] = {
    "kl": kl,
    "lskd": lskd,
    "dkd": dkd,
    "rld": rld,
    "dist": dist,
}


def create_objective(config: Loss) -> Objective:
    """Returns the objective of the arms that distil; raises ConfigError for a wrong one."""
    create = choose("config.loss.name", config.name, OBJECTIVES)
    if config.temperature == "std" and config.name != "kl":
        raise ConfigError(
            f'config.loss.temperature: expected a positive number for loss "{config.name}", '
            'got "std"; only "kl" has it'
        )
    return create(config)
