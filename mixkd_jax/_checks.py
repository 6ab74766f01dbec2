"""Argument checks of the ops.

Shapes and dtypes are always checked. Values are checked only when they are
concrete: under `jit`, `vmap` or `grad` they cannot be seen, and checking costs
nothing there. Every message names the argument, what was expected, what came
and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# How far a row of probabilities may be from summing to 1: rounding them to
# bfloat16 (and back) moves the sum by up to 0.4 %, and so does summing.
_SUM_TOLERANCE = {"bfloat16": 2e-2}


def visible(*values: Any) -> bool:
    """Whether the values can be read here: neither traced nor on another host."""
    return not any(
        isinstance(v, Tracer) or (isinstance(v, jax.Array) and not v.is_fully_addressable)
        for v in values
    )


def floating(x: Any, name: str) -> jax.Array:
    """Returns `x` as an array of float32, or of float64 if it has that dtype."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or x.dtype == jnp.bool_:
        raise TypeError(f"{name}: expected real numbers, got dtype {x.dtype}; cast to float32.")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def same_shape(a: jax.Array, b: jax.Array, names: tuple[str, str]) -> None:
    """Refuses two arrays of different shapes; broadcasting here hides mistakes."""
    if a.shape != b.shape:
        raise ValueError(
            f"{names[1]}: expected the shape of {names[0]}, {a.shape}, got {b.shape}; "
            "both need one entry per example and class."
        )


def logit_pair(student: Any, teacher: Any, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """Returns both logits as float arrays of one shape that has a class axis."""
    s, t = floating(student, "student_logits"), floating(teacher, "teacher_logits")
    same_shape(s, t, ("student_logits", "teacher_logits"))
    class_axis(s, axis, "student_logits")
    return s, t


def mask(where: Any, shape: tuple[int, ...]) -> jax.Array:
    """Returns a bool mask that broadcasts to `shape`."""
    array = jnp.asarray(where)
    if array.dtype != jnp.bool_:
        raise TypeError(f"where: expected a bool mask, got dtype {array.dtype}; compare first.")
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"where: expected a mask that broadcasts to {shape}, got shape {array.shape}."
        ) from None


def class_axis(x: jax.Array, axis: int, name: str) -> int:
    """Returns `axis` counted from the front; refuses one that is not there or empty."""
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"{name}: expected a class axis {axis}, got shape {x.shape}; add the axis or name "
            "another one."
        )
    if x.shape[axis] == 0:
        raise ValueError(f"{name}: expected at least one class, got shape {x.shape}.")
    return axis % x.ndim


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
) -> None:
    """Refuses a concrete number outside its range, and anything not a scalar number."""
    if isinstance(value, str) or value is None:
        raise TypeError(f"{name}: expected a number, got {value!r}.")
    if np.ndim(value) != 0:
        raise ValueError(f"{name}: expected one number, got shape {np.shape(value)}.")
    if not visible(value):
        return
    parts = [
        f"{word} {bound:g}"
        for word, bound in (("above", above), ("at least", least), ("at most", most))
        if bound is not None
    ]
    v = float(value)
    good = np.isfinite(v)
    good &= above is None or v > above
    good &= least is None or v >= least
    good &= most is None or v <= most
    if not good:
        raise ValueError(f"{name}: expected a finite number {' and '.join(parts)}, got {v:g}.")


def positive_int(value: Any, name: str) -> None:
    """Refuses anything but a Python int (or NumPy's) of at least 1: it is a shape."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(
            f"{name}: expected a Python int of at least 1 (it sets a shape), got {value!r}."
        )


def weights(values: Any, name: str) -> None:
    """Refuses concrete values outside [0, 1]."""
    if visible(values) and np.size(values):
        array = np.asarray(values)
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name}: expected values from 0 to 1, got {low:g} to {high:g}.")


def class_labels(
    labels: Any, shape: Sequence[int], num_classes: int, name: str = "labels"
) -> jax.Array:
    """Returns integer labels of the given shape with values in [0, num_classes)."""
    array = jnp.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{name}: expected integer class indices, got dtype {array.dtype}; "
            "take argmax of one-hot or mixed labels first."
        )
    if array.shape != tuple(shape):
        raise ValueError(
            f"{name}: expected shape {tuple(shape)}, one index per example, got {array.shape}."
        )
    if visible(labels) and array.size:
        values = np.asarray(labels)
        low, high = values.min(), values.max()
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"{name}: expected indices from 0 to {num_classes - 1}, got {low} to {high}; "
                "check the number of classes, or mask examples without a label."
            )
    return array


def probabilities(x: Any, name: str, *, axis: int = -1, where: Any = None) -> None:
    """Refuses rows that are not probabilities, where they can be seen.

    Args:
      x: Array with classes along `axis`.
      name: What the message calls it.
      axis: The class axis.
      where: Optional mask over the other axes; rows where it is False may hold anything.
    """
    if not visible(x, where):
        return
    values = np.asarray(x)
    if values.size == 0:
        return
    tolerance = _SUM_TOLERANCE.get(values.dtype.name, 5e-3)
    sums = values.sum(axis, dtype=np.promote_types(np.float32, values.dtype))
    bad = ~(np.abs(sums - 1) <= tolerance) | (values.min(axis) < -tolerance)
    if where is not None:
        bad &= np.asarray(where, bool)
    if bad.any():
        first = np.argwhere(bad)[0] if bad.ndim else ()
        at = tuple(int(i) for i in first)
        raise ValueError(
            f"{name}: expected rows of probabilities (at least 0, sum 1), got sum "
            f"{float(sums[at]):.6g} and minimum {float(values.min(axis)[at]):.6g} in row {at}; "
            "apply jax.nn.softmax to logits, once."
        )
