"""Distillation in the sense of Hinton et al., and the cross entropy beside it."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mixkd_jax import _checks
from mixkd_jax.losses import _labels, _softmax

__all__ = [
    "cross_entropy",
    "distillation_kl",
    "distillation_loss",
    "logit_standardization_kl",
    "standardize",
]


def distillation_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike | Literal["std"] = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Hinton's distillation loss: T² KL( softmax(t/T) ‖ softmax(s/T) ), in nats.

    The factor T² keeps the size of the gradient, T (softmax(s/T) - softmax(t/T)),
    when T changes. With `temperature="std"` each row of logits is divided by its
    own population standard deviation (plus 1e-8) instead, without T².

    The loss has a gradient in the teacher too; use `jax.lax.stop_gradient` if the
    teacher's logits depend on what is trained. A logit of -inf in both removes
    its class. One in the student alone makes the loss infinite if the teacher
    gives that class any probability, as it must; the student's gradient stays finite.

    Args:
      student_logits: f[..., C].
      teacher_logits: f[..., C].
      temperature: A number above 0, which may be traced, or "std".
      axis: The class axis.
      where: Optional bool mask that broadcasts to the logits. Classes where it is
        False are left out of both softmaxes; a row without any class gives 0.

    Returns:
      f32[...] (float64 for float64 logits), one value per example, at least 0.

    Raises:
      ValueError: If the shapes differ, or `temperature` is not above 0 or "std".

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> student = jnp.array([[1.0, 2.0, 3.0]])
      >>> teacher = jnp.array([[3.0, 2.0, 1.0]])
      >>> print(losses.distillation_kl(student, teacher, temperature=2.0).round(3))
      [1.281]
      >>> losses.distillation_kl(teacher, teacher, temperature="std").tolist()
      [0.0]

    References:
      Hinton et al., Distilling the Knowledge in a Neural Network,
      arXiv:1503.02531, section 2. "std": Choi et al., Understanding the Role of
      Mixup in Knowledge Distillation, WACV 2023, arXiv:2211.03946.
    """
    student, teacher = _checks.logit_pair(student_logits, teacher_logits, axis)
    if where is not None:
        where = _checks.mask(where, student.shape)
        student = jnp.where(where, student, -jnp.inf)
        teacher = jnp.where(where, teacher, -jnp.inf)
    student, teacher = jnp.moveaxis(student, axis, -1), jnp.moveaxis(teacher, axis, -1)
    if isinstance(temperature, str):
        return _standardized_kl(student, teacher, temperature)
    temperature = _checks.scalar(temperature, "temperature", student, above=0)
    return temperature**2 * _softmax.kl(student, teacher, 1 / temperature)


def _standardized_kl(student: jax.Array, teacher: jax.Array, temperature: str) -> jax.Array:
    if temperature != "std":
        raise ValueError(f'temperature: expected a number above 0 or "std", got {temperature!r}.')
    student, teacher = (_softmax.standardize(logits, 1e-8, 0) for logits in (student, teacher))
    return _softmax.kl(student, teacher, jnp.ones((), student.dtype), 0.0)


def logit_standardization_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 2.0,
    ddof: int = 0,
) -> jax.Array:
    """LSKD: T² KL( softmax(Z(t)/T) ‖ softmax(Z(s)/T) ), Z the z-score of a row.

    Z(x) = (x - mean(x)) / (std(x) + 1e-7), over the classes of one example. So the
    loss asks for the teacher's relations among classes, not for its scale.

    Args:
      student_logits: f[..., C].
      teacher_logits: f[..., C].
      temperature: A number above 0, the paper's "base temperature"; may be traced.
      ddof: 0 for the population's standard deviation, 1 for the sample's (the
        LSKD authors' code).

    Returns:
      f32[...] (float64 for float64 logits), nats, one value per example.

    Raises:
      ValueError: If the shapes differ, `temperature` is not above 0 or `ddof` is
        not 0 or 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> teacher = jnp.array([[3.0, 2.0, 1.0]])
      >>> losses.logit_standardization_kl(5 * teacher + 7, teacher).round(6).tolist()
      [0.0]

    Reference:
      Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024,
      arXiv:2403.01427, eq. 9 and algorithm 1.
    """
    student, teacher = _checks.logit_pair(student_logits, teacher_logits)
    _known_ddof(ddof)
    # The mean in the z-score shifts a whole row, which no softmax sees.
    student = _softmax.standardize(student, 1e-7, ddof)
    teacher = _softmax.standardize(teacher, 1e-7, ddof)
    temperature = _checks.scalar(temperature, "temperature", student, above=0)
    return temperature**2 * _softmax.kl(student, teacher, 1 / temperature, 0.0)


def standardize(logits: ArrayLike, *, ddof: int = 0) -> jax.Array:
    """Z-score of each row of logits: (x - mean(x)) / (std(x) + 1e-7), over the classes.

    A logit of -inf removes its class: it stays, and counts in neither mean nor
    deviation. A constant row becomes 0.

    Args:
      logits: f[..., C].
      ddof: 0 for the population's standard deviation, 1 for the sample's.

    Returns:
      f32[..., C] (float64 for float64 logits).

    Raises:
      ValueError: If `ddof` is not 0 or 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> print(losses.standardize(jnp.array([[3.0, 1.0]])).round(3))
      [[ 1. -1.]]

    Reference:
      Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024,
      arXiv:2403.01427, eq. 9 and algorithm 1.
    """
    x = _checks.floating(logits, "logits")
    _checks.class_axis(x, -1, "logits")
    x = _softmax.standardize(x, 1e-7, _known_ddof(ddof))
    kept = x != -jnp.inf
    count = jnp.maximum(jnp.sum(kept, -1, keepdims=True, dtype=x.dtype), 1)
    return x - jnp.sum(jnp.where(kept, x, 0), -1, keepdims=True) / count


def _known_ddof(ddof: int) -> int:
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 (population) or 1 (sample), got {ddof!r}.")
    return ddof


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, axis: int = -1) -> jax.Array:
    """Cross entropy -Σ_k y_k log softmax(z)_k, for class indices or soft labels, in nats.

    With indices the loss is computed from the odds of all other classes against
    the label, so it keeps its relative accuracy, and its gradient, however sure
    the model is. A logit of -inf removes its class.

    Args:
      logits: f[..., C].
      labels: i[...], class indices, or f[..., C], rows of probabilities such as
        mixed one-hot labels. Cast integer one-hot labels to float.
      axis: The class axis of `logits` and of soft labels.

    Returns:
      f32[...] (float64 for float64 logits), one value per example. Under `jit`,
      where an index outside [0, C) cannot be refused, its loss is NaN.

    Raises:
      ValueError: If the shapes do not fit, an index is out of range, or soft
        labels are not probabilities.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> logits = jnp.array([[1.0, 2.0, 3.0]])
      >>> print(losses.cross_entropy(logits, jnp.array([2])).round(4))
      [0.4076]
      >>> print(losses.cross_entropy(logits, jnp.array([[0.0, 0.5, 0.5]])).round(4))
      [0.9076]

    Reference:
      Goodfellow et al., Deep Learning, 2016, section 6.2.2.3.
    """
    given = _checks.floating(logits, "logits")
    z = jnp.moveaxis(given, _checks.class_axis(given, axis, "logits"), -1)
    if jnp.issubdtype(_checks.array(labels, "labels").dtype, jnp.integer):
        labels = _checks.class_labels(labels, z.shape[:-1], z.shape[-1])
        return _labels.nan_unless_label(_labels.index_loss(z, labels), labels, z.shape[-1])
    return _labels.soft_loss(z, jnp.moveaxis(_checks.soft_labels(labels, given, axis), axis, -1))


def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    temperature: ArrayLike | Literal["std"] = 1.0,
    kd_weight: ArrayLike = 1.0,
    ce_weight: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """kd_weight · T² KL + ce_weight · CE, with both parts for logging.

    This is the loss of mixup distillation when both networks saw the same mixed
    inputs and `labels` are the mixed labels. The soft (kd) term is
    `distillation_kl`, the hard (ce) term `cross_entropy`. A weight of 0 switches
    its term off, even an infinite one. Weights and temperature may be traced.

    Args:
      student_logits: f[..., C].
      teacher_logits: f[..., C].
      labels: i[...] or f[..., C], as in `cross_entropy`. None (the default) only
        with `ce_weight` 0.
      temperature: A number above 0, or "std"; in the kd term alone.
      kd_weight: Weight of the soft term, at least 0.
      ce_weight: Weight of the hard term, at least 0.
      axis: The class axis of the logits and of soft labels.
      where: Optional bool mask that broadcasts to the logits. Classes where it is
        False are left out of all softmaxes, in both terms.

    Returns:
      The loss, f32[...], one value per example in nats, and its unweighted parts
      {"kd": f32[...], "ce": f32[...]}; "ce" is 0 without labels.

    Raises:
      ValueError: If labels are missing for a positive `ce_weight`, or an argument
        is one that the two terms refuse.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import losses
      >>> student, teacher = jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 3.0]])
      >>> loss, parts = losses.distillation_loss(
      ...     student, teacher, jnp.array([1]), kd_weight=0.8, ce_weight=0.2)
      >>> bool(jnp.allclose(loss, 0.8 * parts["kd"] + 0.2 * parts["ce"]))
      True

    Reference:
      Medina et al., Beyond Dark Knowledge, arXiv:2606.12171.
    """
    # Once for both terms: their gradients then meet in float32, not in float16.
    student_logits = _checks.floating(student_logits, "student_logits")
    kd_scale = _checks.scalar(kd_weight, "kd_weight", student_logits, least=0)
    ce_scale = _checks.scalar(ce_weight, "ce_weight", student_logits, least=0)
    if where is not None:
        where = _checks.mask(where, student_logits.shape)
    kd = distillation_kl(
        student_logits, teacher_logits, temperature=temperature, axis=axis, where=where
    )
    if labels is not None:
        kept = student_logits if where is None else jnp.where(where, student_logits, -jnp.inf)
        ce = cross_entropy(kept, labels, axis=axis)
    elif _checks.visible(ce_weight) and np.asarray(ce_weight) == 0:
        ce = jnp.zeros_like(kd)
    else:
        raise ValueError(
            f"labels: expected labels for ce_weight={ce_weight}, got None; pass labels, or the "
            "Python number 0 as ce_weight."
        )
    return _weighted(kd_scale, kd) + _weighted(ce_scale, ce), {"kd": kd, "ce": ce}


def _weighted(weight: jax.Array, value: jax.Array) -> jax.Array:
    # 0 · inf is NaN: a term that is switched off must not poison the other.
    return weight * jnp.where((weight == 0) & ~jnp.isfinite(value), 0, value)
