"""Decoupled knowledge distillation (DKD)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks
from mixkd_jax.losses import _labels, _softmax

__all__ = ["decoupled_kl"]


def decoupled_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 4.0,
    target_weight: ArrayLike = 1.0,
    nontarget_weight: ArrayLike = 8.0,
) -> jax.Array:
    """DKD: T² (target_weight · TCKD + nontarget_weight · NCKD), in nats.

    TCKD is the KL between the binary distributions (label, any other class), NCKD
    the KL among the other classes alone, both at temperature T. They split the
    distillation loss: KL = TCKD + (1 - softmax(t/T)[y]) · NCKD.

    Args:
      student_logits: f[..., C].
      teacher_logits: f[..., C].
      labels: i[...], class indices.
      temperature: A number above 0; may be traced, as the weights.
      target_weight: Weight of TCKD (the paper's α), at least 0.
      nontarget_weight: Weight of NCKD (the paper's β), at least 0.

    Returns:
      f32[...] (float64 for float64 logits), one value per example. Under `jit`,
      an index outside [0, C) gives NaN.

    Raises:
      ValueError: If the shapes do not fit, an index is out of range or a number is.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> student, teacher = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[2.0, 1.0, 0.0]])
      >>> print(losses.decoupled_kl(student, teacher, jnp.array([0])).round(4))
      [1.0188]

    Reference:
      Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv:2203.08679,
      eq. 6 and 7.
    """
    student, teacher = _checks.logit_pair(student_logits, teacher_logits)
    labels = _checks.class_labels(labels, student.shape[:-1], student.shape[-1])
    temperature = _checks.scalar(temperature, "temperature", student, above=0)
    target_weight = _checks.scalar(target_weight, "target_weight", student, least=0)
    nontarget_weight = _checks.scalar(nontarget_weight, "nontarget_weight", student, least=0)
    scale = 1 / temperature
    target = _labels.binary_kl(
        _labels.log_odds(student, labels, scale),
        _labels.log_odds(teacher, labels, scale),
        _labels.odds_gap(student, teacher, labels, scale),
    )
    nontarget = _softmax.kl(
        _labels.put(student, labels, -jnp.inf), _labels.put(teacher, labels, -jnp.inf), scale
    )
    loss = temperature**2 * (target_weight * target + nontarget_weight * nontarget)
    return _labels.nan_unless_label(loss, labels, student.shape[-1])
