"""Mixup: convex combinations of pairs of examples (Zhang et al., arXiv:1710.09412).

A `MixupPlan` says who is mixed with whom and how much; it is applied to images
and labels alike, and to the index of an example before its image is loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mixkd_jax import _checks

__all__ = ["MixupPlan", "apply_mixup", "interpolate", "sample_mixup"]


class MixupPlan(NamedTuple):
    """Who is mixed with whom: x̃[i] = lam[i] · x[i] + (1 - lam[i]) · x[partner[i]].

    Attributes:
      lam: f32[B], the weight of the example itself, from 0 to 1.
      partner: i32[B], the index of the other example in the batch.
    """

    lam: jax.Array
    partner: jax.Array


def sample_mixup(
    key: jax.Array,
    batch_size: int,
    *,
    alpha: ArrayLike = 1.0,
    partial: ArrayLike = 1.0,
    per_example: bool = True,
) -> MixupPlan:
    """Draws weights λ ~ Beta(alpha, alpha) and a uniform permutation of partners.

    `alpha` and `partial` may be traced: changing their values recompiles nothing.

    Args:
      key: A `jax.random` key.
      batch_size: Number of examples B; a Python int, for it is a shape.
      alpha: Parameter of the Beta distribution, at least 0. 1 is uniform; 0 is
        no mixing (λ = 1).
      partial: Probability from 0 to 1 that an example is mixed; else its λ is 1.
      per_example: One λ per example. If False, one λ (and one decision to mix)
        for the whole batch, repeated B times.

    Returns:
      A `MixupPlan` with lam f32[B] and partner i32[B].

    Raises:
      ValueError: If a concrete option is out of its range.

    Example:
      >>> import jax
      >>> from mixkd_jax import mixup
      >>> plan = mixup.sample_mixup(jax.random.key(0), 4, alpha=0.2)
      >>> plan.lam.shape, sorted(plan.partner.tolist())
      ((4,), [0, 1, 2, 3])

    Reference:
      Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412,
      eq. 2. λ per example and `partial`: arXiv:2606.12171.
    """
    _checks.number(alpha, "alpha", least=0)
    _checks.number(partial, "partial", least=0, most=1)
    _checks.positive_int(batch_size, "batch_size")
    lam_key, mixed_key, partner_key = jax.random.split(key, 3)
    shape = (batch_size,) if per_example else (1,)
    alpha = jnp.asarray(alpha, jnp.float32)
    positive = jnp.where(alpha > 0, alpha, 1)
    lam = _symmetric_beta(lam_key, positive, shape)
    mixed = (jax.random.uniform(mixed_key, shape) < partial) & (alpha > 0)
    lam = jnp.where(mixed, lam, 1)
    # A traced alpha that can't be refused is made visible.
    lam = jnp.broadcast_to(jnp.where(alpha >= 0, lam, jnp.nan), (batch_size,))
    return MixupPlan(lam, jax.random.permutation(partner_key, batch_size).astype(jnp.int32))


def _symmetric_beta(key: jax.Array, alpha: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws from Beta(alpha, alpha), for one positive alpha.

    By Bailey's polar method for Student's t with 2 alpha degrees of freedom, of which a symmetric
    Beta is a function (Devroye 1996, Random variate generation in one line of code, sec. 5). Unlike
    `jax.random.beta` it has no rejection loop, in which a GPU waits for the host at every turn.
    """
    radius_key, angle_key = jax.random.split(key)
    exponential = jax.random.exponential(radius_key, shape) / alpha
    cosine = jnp.cos(2 * jnp.pi * jax.random.uniform(angle_key, shape))
    ratio = jnp.expm1(exponential) * cosine**2
    # λ = (1 ± root) / 2; the smaller of λ and 1 - λ without a difference, which would cancel.
    root = 1 / jnp.sqrt(1 + 1 / ratio)
    smaller = 1 / (1 + ratio) / (1 + root) / 2
    return jnp.where(cosine < 0, smaller, 1 - smaller)


def interpolate(lam: ArrayLike, x_i: ArrayLike, x_j: ArrayLike) -> jax.Array:
    """Returns lam · x_i + (1 - lam) · x_j, with lam broadcast over trailing axes.

    Args:
      lam: f[B...], weights from 0 to 1; its axes are the leading axes of `x_i`.
      x_i: [B..., ...], any real dtype; but integers need an axis more than `lam`, for
        one integer an example is taken for a class index, which can't be mixed.
      x_j: Like `x_i`.

    Returns:
      [B..., ...], computed in float32 at least. A float dtype stays; integers
      and bools become float32. Where lam is 1 the result is `x_i`, if `x_j` is finite.

    Raises:
      TypeError: If class indices are given.
      ValueError: If the shapes do not fit, or a visible weight is not from 0 to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixkd_jax import mixup
      >>> a, b = jnp.array([[0], [100]], jnp.uint8), jnp.array([[10], [200]], jnp.uint8)
      >>> mixup.interpolate(jnp.array([1.0, 0.25]), a, b).tolist()
      [[0.0], [175.0]]

    Reference:
      Zhang et al., arXiv:1710.09412, eq. 1.
    """
    lam, x_i, x_j = _checks.real(lam, "lam"), _numbers(x_i, "x_i"), _numbers(x_j, "x_j")
    _no_indices(x_i, lam, "x_i")
    _checks.same_shape(x_i, x_j, ("x_i", "x_j"))
    if lam.shape != x_i.shape[: lam.ndim]:
        raise ValueError(
            f"lam: expected the leading axes of x, whose shape is {x_i.shape}, got shape "
            f"{lam.shape}; a plan fits only batches of its own size."
        )
    _checks.weights(lam, "lam")
    given = jnp.promote_types(x_i.dtype, x_j.dtype)
    out = given if jnp.issubdtype(given, jnp.floating) else jnp.float32
    compute = jnp.promote_types(out, jnp.float32)
    lam = lam.astype(compute).reshape(lam.shape + (1,) * (x_i.ndim - lam.ndim))
    return (lam * x_i.astype(compute) + (1 - lam) * x_j.astype(compute)).astype(out)


@overload
def apply_mixup(plan: MixupPlan, x: jax.Array) -> jax.Array: ...


@overload
def apply_mixup(plan: MixupPlan, x: Any) -> Any: ...


def apply_mixup(plan: MixupPlan, x: Any) -> Any:
    """Mixes every example of a batch with its partner.

    Args:
      plan: From `sample_mixup`.
      x: [B, ...], images or one-hot labels; or a tree of them, such as
        {"image": [B, ...], "label": [B, C]}. Class indices must be made one-hot
        first: the mean of two indices is another class.

    Returns:
      [B, ...], `interpolate(plan.lam, x, x[plan.partner])`; for a tree, one of the same
      structure.

    Raises:
      TypeError: If there is no array, or one holds class indices.
      ValueError: If a leading axis is not B.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mixkd_jax import mixup
      >>> plan = mixup.MixupPlan(lam=jnp.array([1.0, 0.75]), partner=jnp.array([1, 0]))
      >>> mixup.apply_mixup(plan, jax.nn.one_hot(jnp.array([0, 2]), 3)).tolist()
      [[1.0, 0.0, 0.0], [0.25, 0.0, 0.75]]

    Reference:
      Zhang et al., arXiv:1710.09412, eq. 1.
    """
    if not jax.tree.leaves(x):
        raise TypeError(f"x: expected an array or a tree of arrays, got {x!r}.")

    def mix(path: Any, leaf: Any) -> jax.Array:
        return _mix(plan, leaf, f"x{jax.tree_util.keystr(path)}")

    return jax.tree_util.tree_map_with_path(mix, x)


def _mix(plan: MixupPlan, x: Any, name: str) -> jax.Array:
    x = _numbers(x, name)
    if x.ndim == 0 or x.shape[0] != plan.lam.shape[0]:
        raise ValueError(
            f"{name}: expected {plan.lam.shape[0]} examples on the leading axis, as in the plan, "
            f"got shape {x.shape}; sample a plan for this batch size."
        )
    _no_indices(x, plan.lam, name)
    partner = _checks.class_labels(plan.partner, plan.lam.shape, x.shape[0], name="plan.partner")
    return interpolate(plan.lam, x, x[partner])


def _numbers(x: Any, name: str) -> jax.Array:
    x = _checks.array(x, name)
    return x if x.dtype == jnp.bool_ else _checks.real(x, name)


def _no_indices(x: jax.Array, lam: jax.Array, name: str) -> None:
    if jnp.issubdtype(x.dtype, jnp.integer) and x.ndim == lam.ndim > 0:
        raise TypeError(
            f"{name}: expected images or one-hot labels, got {x.dtype}{list(x.shape)}, which looks "
            "like class indices; make them one-hot first (jax.nn.one_hot(labels, num_classes)), or "
            "cast numbers that may be mixed to float32."
        )
