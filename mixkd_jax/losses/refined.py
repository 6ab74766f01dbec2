"""The two terms of refined logit distillation (RLD)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks
from mixkd_jax.losses import _labels, _softmax

__all__ = ["masked_correlation_kl", "sample_confidence_kl"]


def sample_confidence_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
) -> jax.Array:
    """SCD of RLD: the student is to be as sure of the label as the teacher of its guess.

    T² KL( b_t ‖ b_s ) in nats, with b_t = (max_k p_t[k], the rest) and b_s =
    (p_s[y], the rest), p = softmax(·/T). So a teacher that is wrong teaches how
    sure to be, not what of.

    Args:
      student_logits: f[..., C].
      teacher_logits: f[..., C].
      labels: i[...], class indices.
      temperature: A number above 0; may be traced.

    Returns:
      f32[...] (float64 for float64 logits), one value per example. Under `jit`,
      an index outside [0, C) gives NaN.

    Raises:
      ValueError: If the shapes do not fit, or an index or `temperature` is out of
        range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> student, teacher = jnp.array([[0.0, 2.0]]), jnp.array([[2.0, 0.0]])
      >>> losses.sample_confidence_kl(student, teacher, jnp.array([1])).round(6).tolist()
      [0.0]

    Reference:
      Sun et al., Knowledge Distillation with Refined Logits, arXiv:2408.07703,
      "sample confidence distillation"; T² as in its code.
    """
    student, teacher, labels, temperature = _prepare(
        student_logits, teacher_logits, labels, temperature
    )
    loss = temperature**2 * _labels.binary_kl(
        _labels.log_odds(student, labels, 1 / temperature),
        _labels.top_odds(teacher, 1 / temperature),
    )
    return _labels.nan_unless_label(loss, labels, student.shape[-1])


def masked_correlation_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 4.0,
) -> jax.Array:
    """MCD of RLD: distillation over the classes that the teacher ranks below the label.

    T² KL( softmax(t/T) ‖ softmax(s/T) ) in nats, after leaving out of both every
    class whose teacher logit is at least that of the label: the label itself, and
    the classes that the teacher puts wrongly before it. No class left gives 0.

    Args:
      student_logits: f[..., C].
      teacher_logits: f[..., C].
      labels: i[...], class indices.
      temperature: A number above 0; may be traced.

    Returns:
      f32[...] (float64 for float64 logits), one value per example. Under `jit`,
      an index outside [0, C) gives NaN.

    Raises:
      ValueError: If the shapes do not fit, or an index or `temperature` is out of
        range.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> student, teacher = jnp.array([[5.0, 1.0, 0.0]]), jnp.array([[3.0, 2.0, 1.0]])
      >>> losses.masked_correlation_kl(student, teacher, jnp.array([0])).round(6).tolist()
      [0.0]

    Reference:
      Sun et al., Knowledge Distillation with Refined Logits, arXiv:2408.07703,
      "masked correlation distillation"; T² as in its code.
    """
    student, teacher, labels, temperature = _prepare(
        student_logits, teacher_logits, labels, temperature
    )
    removed = teacher >= _labels.pick(teacher, labels)[..., None]
    loss = temperature**2 * _softmax.kl(
        jnp.where(removed, -jnp.inf, student),
        jnp.where(removed, -jnp.inf, teacher),
        1 / temperature,
    )
    return _labels.nan_unless_label(loss, labels, student.shape[-1])


def _prepare(
    student_logits: ArrayLike, teacher_logits: ArrayLike, labels: ArrayLike, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    student, teacher = _checks.logit_pair(student_logits, teacher_logits)
    labels = _checks.class_labels(labels, student.shape[:-1], student.shape[-1])
    temperature = _checks.scalar(temperature, "temperature", student, above=0)
    return student, teacher, labels, temperature
