"""Softmax terms at a label: cross entropy, log odds, binary KL.

As in `_softmax`, logits have classes on the last axis, -inf removes a class, and
derivatives are written out. Labels are checked by the callers.
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
    loss, slope = _index_terms(*primals)
    return loss, jnp.sum(slope * tangents[0], -1)


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
    loss, in_x, in_y = _soft_terms(*primals)
    slope = jnp.zeros_like(loss)
    if not isinstance(tangents[0], SymbolicZero):
        slope += jnp.sum(in_x * tangents[0], -1)
    if not isinstance(tangents[1], SymbolicZero):
        slope += jnp.sum(in_y * tangents[1], -1)
    return loss, slope


soft_loss.defjvp(_soft_jvp, symbolic_zeros=True)


@jax.custom_jvp
def log_odds(x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the log odds of any other class against the label: log Σ_{k≠y} exp(x_k) - x_y."""
    return _odds_terms(x, labels)[0]


def _odds_terms(x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the log odds and their derivative."""
    others = put(x, labels, -jnp.inf)
    e, total, m = _softmax.shift_exp(others)
    some = jnp.max(others, -1) != -jnp.inf
    # In this order, or log(total) drowns in the rounding of a large m.
    odds = (m[..., 0] - pick(x, labels)) + jnp.log(total)[..., 0]
    slope = jnp.where(one_hot(labels, x.shape[-1]), -1, e * (1 / total))
    return jnp.where(some, odds, -jnp.inf), slope


@log_odds.defjvp
def _odds_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    odds, slope = _odds_terms(*primals)
    return odds, jnp.sum(slope * tangents[0], -1)


@jax.custom_jvp
def top_odds(x: jax.Array) -> jax.Array:
    """Returns the log odds of any other class against the first most likely one."""
    m = jnp.max(x, -1, keepdims=True)
    m = jnp.where(m == -jnp.inf, 0, m)
    rest = jnp.sum(jnp.where(x == m, 0, jnp.exp(x - m)), -1)
    ties = jnp.sum(x == m, -1, dtype=x.dtype)
    return jnp.log(rest + jnp.maximum(ties - 1, 0))


@top_odds.defjvp
def _top_odds_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # The index is needed for the derivative alone: finding it is slow on CPUs.
    _, slope = _odds_terms(primals[0], jnp.argmax(primals[0], -1))
    return top_odds(primals[0]), jnp.sum(slope * tangents[0], -1)


def binary_kl(student_odds: jax.Array, teacher_odds: jax.Array) -> jax.Array:
    """Returns the KL between two binary distributions, each given by its log odds."""

    def logits(odds: jax.Array) -> jax.Array:
        # The larger of the two is 0, so infinite odds are a class that is removed.
        return jnp.stack([jnp.minimum(-odds, 0), jnp.minimum(odds, 0)], -1)

    return _softmax.kl(logits(student_odds), logits(teacher_odds), 0.0)
