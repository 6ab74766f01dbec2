"""Softmax terms at a label: cross entropy, log odds, binary KL.

As in `_softmax`, logits have classes on the last axis, -inf removes a class,
derivatives are written out, and a rule takes the value from the function by name.
Labels are checked by the callers.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from mixkd_jax._checks import one_hot
from mixkd_jax.losses import _softmax


def pick(x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the entry of each row at its label, [...]."""
    return jnp.take_along_axis(x, labels[..., None], -1)[..., 0]


def put(x: jax.Array, labels: jax.Array, value: float) -> jax.Array:
    """Returns `x` with the entry of each row at its label replaced."""

    # On CPUs cheaper than a select against a one-hot mask. By vmap, so that an example stays on
    # its device under explicit sharding too.
    def put_one(row: jax.Array, label: jax.Array) -> jax.Array:
        return row.at[label].set(value)

    for _ in range(labels.ndim):
        put_one = jax.vmap(put_one)
    return put_one(x, labels)


def nan_unless_label(loss: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
    """Makes a label outside [0, num_classes) visible where it could not be refused."""
    return jnp.where((labels >= 0) & (labels < num_classes), loss, jnp.nan)


@jax.custom_jvp
def index_loss(x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns -log softmax(x) at the label, relatively exact however close to 0."""
    return _index_terms(x, labels)[0]


def _index_terms(x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the loss and its derivative, softmax(x) - one_hot(labels)."""
    m = jnp.max(x, -1, keepdims=True)
    m = jax.lax.stop_gradient(jnp.where(m == -jnp.inf, 0, m))
    others = put(jnp.exp(x - m), labels, 0)
    rest = jnp.sum(others, -1)
    own = pick(x, labels) - m[..., 0]
    total = rest + jnp.exp(own)
    total = jnp.where(total == 0, 1, total)
    loss = jnp.where(own == 0, jnp.log1p(rest), jnp.log(total) - own)
    slope = others * (1 / total)[..., None]
    slope = jnp.where(one_hot(labels, x.shape[-1]), -(rest / total)[..., None], slope)
    return loss, slope


@index_loss.defjvp
def _index_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    _, slope = _index_terms(*primals)
    return index_loss(*primals), jnp.sum(slope * tangents[0], -1)


@jax.custom_jvp
def soft_loss(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns -Σ_k y_k log softmax(x)_k."""
    return _soft_terms(x, y)[0]


@functools.partial(jax.jit, inline=True)  # or -inf - -inf is seen by jax_debug_nans
def _soft_terms(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the loss, its derivatives in x and in y."""
    e, total, m = _softmax.shift_exp(x)
    mass = jnp.sum(y, -1, keepdims=True)
    own = jnp.log(total) - (x - m)  # -log softmax
    loss = jnp.sum(jnp.where(y == 0, 0, y * own), -1)
    in_y = jnp.where((y == 0) & (x == -jnp.inf), 0, own)
    return loss, e * (mass / total) - y, in_y


def _soft_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    _, in_x, in_y = _soft_terms(*primals)
    loss = soft_loss(*primals)
    slope = jnp.zeros_like(loss)
    if not isinstance(tangents[0], SymbolicZero):
        slope += jnp.sum(in_x * tangents[0], -1)
    if not isinstance(tangents[1], SymbolicZero):
        slope += jnp.sum(in_y * tangents[1], -1)
    return loss, slope


soft_loss.defjvp(_soft_jvp, symbolic_zeros=True)


@jax.custom_jvp
def log_odds(x: jax.Array, labels: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the log odds of any other class against the label, of softmax(scale · x).

    They are log Σ_{k≠y} exp(scale · x_k) - scale · x_y.
    """
    return _odds_terms(x, labels, scale)[0]


def _odds_terms(
    x: jax.Array, labels: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the log odds, their derivative in scale · x, and x less its entry at the label."""
    others = put(x, labels, -jnp.inf)
    e, total, m = _softmax.shift_exp(others, scale)
    some = jnp.max(others, -1) != -jnp.inf
    own = pick(x, labels)
    # In this order, or log(total) drowns in the rounding of a large m.
    odds = scale * (m[..., 0] - own) + jnp.log(total)[..., 0]
    slope = jnp.where(one_hot(labels, x.shape[-1]), -1, e * (1 / total))
    return jnp.where(some, odds, -jnp.inf), slope, x - own[..., None]


def _odds_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    _, slope, gap = _odds_terms(*primals)
    odds = log_odds(*primals)
    change = jnp.zeros_like(odds)
    if not isinstance(tangents[0], SymbolicZero):
        change += jnp.sum(primals[2] * slope * tangents[0], -1)
    if not isinstance(tangents[2], SymbolicZero):
        change += jnp.sum(jnp.where(slope > 0, slope * gap, 0), -1) * tangents[2]
    return odds, change


log_odds.defjvp(_odds_jvp, symbolic_zeros=True)


@jax.custom_jvp
def top_odds(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the log odds of any other class against the first most likely one."""
    m = jnp.max(x, -1, keepdims=True)
    m = jnp.where(m == -jnp.inf, 0, m)
    rest = jnp.sum(jnp.where(x == m, 0, jnp.exp(scale * (x - m))), -1)
    ties = jnp.sum(x == m, -1, dtype=x.dtype)
    return jnp.log(rest + jnp.maximum(ties - 1, 0))


@top_odds.defjvp
def _top_odds_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    x, scale = primals
    # The index is needed for the derivative alone: finding it is slow on CPUs.
    labels = jnp.argmax(x, -1)
    _, change = jax.jvp(lambda x, scale: log_odds(x, labels, scale), primals, tangents)
    return top_odds(x, scale), change


def odds_gap(
    student: jax.Array, teacher: jax.Array, labels: jax.Array, scale: jax.Array
) -> jax.Array:
    """Returns the student's log odds minus the teacher's, exact where they are nearly equal.

    Only the value: derivatives are those of the difference of both `log_odds`.
    """
    student, teacher, scale = jax.lax.stop_gradient((student, teacher, scale))
    others = _softmax.terms(put(student, labels, -jnp.inf), put(teacher, labels, -jnp.inf), scale)
    own, lost = _softmax.minus(pick(student, labels), pick(teacher, labels))
    row, row_lost = (part[..., 0] for part in others.row)
    return scale * ((row - own) + (row_lost - lost)) + others.sums[..., 0]


@jax.custom_jvp
def _of_value(x: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `value`, with the derivative of `x`, which is the same number less exactly."""
    del x
    return value


@_of_value.defjvp
def _of_value_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _of_value(*primals), tangents[0]


def binary_kl(
    student_odds: jax.Array, teacher_odds: jax.Array, gap: jax.Array | None = None
) -> jax.Array:
    """Returns the KL between two binary distributions, each given by its log odds.

    Args:
      student_odds: [...].
      teacher_odds: [...].
      gap: [...], student_odds - teacher_odds where that is known more exactly.
    """
    return _binary_kl(student_odds, teacher_odds, _difference(student_odds, teacher_odds, gap))


@functools.partial(jax.jit, inline=True)
def _difference(student: jax.Array, teacher: jax.Array, gap: jax.Array | None) -> jax.Array:
    difference = student - teacher
    alike = jnp.where(student == teacher, 0, difference)  # infinite ones, too
    exact = alike if gap is None else jnp.where(jnp.isfinite(difference), gap, alike)
    return _of_value(difference, exact)


@jax.custom_jvp
def _binary_kl(student: jax.Array, teacher: jax.Array, gap: jax.Array) -> jax.Array:
    return _binary_value(student, teacher, gap)


@functools.partial(jax.jit, inline=True)
def _binary_value(student: jax.Array, teacher: jax.Array, gap: jax.Array) -> jax.Array:
    """Returns the sum over both sides of p_s - p_t - p_t d, where d is log p_s - log p_t."""
    small = jnp.abs(gap) < 1
    near = jnp.where(small, gap, 0)
    value = jnp.zeros_like(gap)
    # Seen from the label, the odds are those of the rest with the other sign.
    for s, t, gap in ((student, teacher, near), (-student, -teacher, -near)):
        p_s, p_t = jax.nn.sigmoid(s), jax.nn.sigmoid(t)
        d = jax.nn.softplus(-t) - jax.nn.softplus(-s)
        curve = _softmax.exp_minus_line(-jnp.log1p(jax.nn.sigmoid(-t) * jnp.expm1(-gap)))
        value += jnp.where(p_t == 0, p_s, jnp.where(small, p_t * curve, p_s - p_t - p_t * d))
    return value


@functools.partial(jax.jit, inline=True)
def _binary_slopes(student: jax.Array, teacher: jax.Array, gap: jax.Array) -> Any:
    """Returns the derivatives in both log odds."""
    below = gap <= 0
    low, high = jnp.where(below, student, teacher), jnp.where(below, teacher, student)
    # sigmoid(student) - sigmoid(teacher), without cancellation.
    change = -jnp.expm1(jnp.where(below, gap, -gap)) * jax.nn.sigmoid(high) * jax.nn.sigmoid(-low)
    both = jax.nn.sigmoid(teacher) * jax.nn.sigmoid(-teacher)
    return jnp.where(below, -change, change), jnp.where(both == 0, 0, -both * gap)


@_binary_kl.defjvp
def _binary_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    in_student, in_teacher = _binary_slopes(*primals)
    return _binary_kl(*primals), in_student * tangents[0] + in_teacher * tangents[1]
