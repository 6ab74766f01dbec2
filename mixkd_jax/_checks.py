"""Argument checks of the ops.

Shapes and dtypes are always checked. Values are checked only when they are
concrete: under `jit`, `vmap` or `grad` they cannot be seen, and checking costs
nothing there. Every message names the argument, what was expected, what came
and what to do.
"""

from __future__ import annotations

import numbers
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


def array(x: Any, name: str) -> jax.Array:
    """Returns `x` as an array; refuses what can't be one."""
    try:
        try:
            return jnp.asarray(x)
        except TypeError:
            if not hasattr(x, "__dlpack__"):
                raise
            return jnp.from_dlpack(x)  # PyTorch's bfloat16, which NumPy can't read
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        got = "None" if x is None else type(x).__name__
        why = f" ({error})" if hasattr(x, "__dlpack__") else ""
        raise TypeError(f"{name}: expected an array, got {got}{why}.") from None


def _values(x: Any) -> np.ndarray:
    """Returns concrete `x` as NumPy has it: JAX would narrow integers of 64 bits first."""
    return np.asarray(x if isinstance(x, np.ndarray | list | tuple | int | float) else array(x, ""))


def real(x: Any, name: str) -> jax.Array:
    """Returns `x` as an array of real numbers."""
    x = array(x, name)
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or x.dtype == jnp.bool_:
        raise TypeError(f"{name}: expected real numbers, got dtype {x.dtype}; cast to float32.")
    return x


def floating(x: Any, name: str) -> jax.Array:
    """Returns `x` as an array of float32, or of float64 if it has that dtype."""
    x = real(x, name)
    if x.dtype == jnp.float16:
        return _from_float16(x)
    if x.dtype.itemsize == 1 and jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.float32)  # float8, which promotes to nothing by itself
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def _from_float16(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def _saturated(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    # That of a constant row by its deviation is around 1e8: finite, but not in float16.
    limit = float(jnp.finfo(jnp.float16).max)
    return (jnp.clip(gradient, -limit, limit).astype(jnp.float16),)


_from_float16.defvjp(lambda x: (_from_float16(x), None), _saturated)


def one_hot(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns bool[..., C], True at each label; rows of labels out of range are all False."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.bool_)


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
    given = array(where, "where")
    if given.dtype != jnp.bool_:
        raise TypeError(
            f"where: expected a bool mask, got dtype {given.dtype}; compare first, or cast by "
            "where.astype(bool)."
        )
    try:
        return jnp.broadcast_to(given, shape)
    except ValueError:
        hint = "; add the class axis: where[:, None]" if given.shape == shape[:1] else ""
        raise ValueError(
            f"where: expected a mask that broadcasts to {shape}, got shape {given.shape}{hint}."
        ) from None


def class_axis(x: jax.Array, axis: int, name: str) -> int:
    """Returns `axis` counted from the front; refuses one that is not there or empty."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"axis: expected a Python int, got {axis!r}.")
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
    """Refuses a concrete number outside its range, and anything not a real scalar number."""
    is_array = isinstance(value, jax.Array | np.ndarray | np.generic)
    kind = jnp.dtype(value.dtype).kind if is_array else ""
    if (
        kind in ("b", "c")
        or isinstance(value, bool)
        or not (is_array or isinstance(value, numbers.Real))
    ):
        raise TypeError(f"{name}: expected a real number, got {value!r}.")
    shape = value.shape if is_array else ()
    if shape:
        raise ValueError(f"{name}: expected one number, got shape {shape}.")
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


def scalar(value: Any, name: str, like: jax.Array, **bounds: float) -> jax.Array:
    """Returns a checked number in the dtype of `like`: its own may hold too little, or too much."""
    number(value, name, **bounds)
    return jnp.asarray(value, like.dtype)


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
    labels: Any,
    shape: Sequence[int],
    num_classes: int,
    name: str = "labels",
    where: Any = None,
) -> jax.Array:
    """Returns integer labels of the given shape with values in [0, num_classes).

    Args:
      labels: i[...]; the result has at least 32 bits, for uint8 can't hold 256 classes' number.
      shape: that they must have.
      num_classes: C.
      name: what the message calls them.
      where: optional mask; labels where it is False may be any.
    """
    found = array(labels, name)
    if not jnp.issubdtype(found.dtype, jnp.integer):
        raise TypeError(
            f"{name}: expected integer class indices, got dtype {found.dtype}; take argmax of "
            "one-hot or mixed labels first, or cast indices to int32: labels.astype(int)."
        )
    if found.shape != tuple(shape):
        one_hot = found.shape == (*shape, num_classes)
        hint = "; cast one-hot labels to float32, or take their argmax" if one_hot else ""
        raise ValueError(
            f"{name}: expected shape {tuple(shape)}, one index per example, got "
            f"{found.shape}{hint}."
        )
    if visible(labels, where):
        values = _values(labels) if where is None else _values(labels)[np.asarray(where)]
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(
                f"{name}: expected indices from 0 to {num_classes - 1}, got {values.min()} to "
                f"{values.max()}; check the number of classes, or mask examples without a label."
            )
    return found.astype(jnp.int64 if found.dtype.itemsize == 8 else jnp.int32)


def soft_labels(labels: Any, logits: jax.Array, axis: int = -1) -> jax.Array:
    """Returns rows of probabilities in the shape of the logits."""
    y = floating(labels, "labels")
    if y.shape != logits.shape:
        indices = y.ndim == logits.ndim - 1
        hint = "cast class indices to int32" if indices else "one entry per example and class"
        raise ValueError(
            f"labels: expected soft labels in the shape of logits, {logits.shape}, got {y.shape} "
            f"of dtype {y.dtype}; {hint}."
        )
    probabilities(labels, "labels", axis=axis)
    return y


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
    values = _values(x)
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
        fix = "apply jax.nn.softmax to logits, once"
        if values.shape[axis] == 1:
            fix = "for two classes stack [1 - p, p]: jnp.concatenate([1 - p, p], -1)"
        elif values.ndim == 1:
            fix += ", or, for probabilities of two classes, jnp.stack([1 - p, p], -1)"
        raise ValueError(
            f"{name}: expected rows of probabilities (at least 0, sum 1), got sum "
            f"{float(sums[at]):.6g} and minimum {float(values.min(axis)[at]):.6g} in row {at}; "
            f"{fix}."
        )
