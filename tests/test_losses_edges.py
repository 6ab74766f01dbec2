"""The losses at the edges: saturated, constant and masked logits, low precision, NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_losses import LOSSES, draw, each_loss, marked

from mixkd_jax import losses

few = settings(max_examples=15, deadline=None, derandomize=True)


def both(loss):
    """Returns the jitted values and the gradients of their sum in both logits."""

    def total(s, t, y):
        value = loss(s, t, y)
        return jnp.sum(value), value

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))


COMPILED = {name: both(loss) for name, (loss, _) in LOSSES.items()}
each_compiled = pytest.mark.parametrize("name", [marked(name) for name in LOSSES])


def check_right(name, s, t, y):
    """Asserts a right value, and gradients that are finite and leave the sum of a row alone."""
    (_, value), gradients = COMPILED[name](s, t, y)
    want = LOSSES[name][1](s, t, y)
    assert ref.relative_error(value, want) <= 2e-6, name
    for gradient in gradients:
        assert np.isfinite(gradient).all(), name
        # Softmaxes don't see a number added to a row, so the gradient sums to 0.
        size = np.maximum(np.abs(gradient).sum(-1), np.maximum(np.abs(value), 1))
        np.testing.assert_allclose(np.sum(gradient, -1) / size, 0, atol=1e-6)


@each_compiled
@pytest.mark.parametrize("classes", [2, 7])
def test_saturated_logits(name, classes):
    rng = np.random.default_rng(classes)
    s, t = 1e4 * rng.choice([-1.0, 0.5, 1.0], size=(2, 24, classes)).astype(np.float32)
    y = rng.integers(classes, size=24)
    check_right(name, s, t, y)


@each_compiled
def test_disjoint_certainty_constant_rows_and_equal_rows(name):
    s = np.array(
        [[1e4, -1e4, 0], [0, 0, 0], [7.5, 7.5, 7.5], [1, 2, 3], [-1e4, 1e4, 0]], np.float32
    )
    t = np.array(
        [[-1e4, 1e4, 0], [0, 0, 0], [0.1, 0.1, 0.1], [1, 2, 3], [-1e4, 1e4, 0]], np.float32
    )
    for y in (0, 1, 2):
        check_right(name, s, t, np.full(5, y))


@each_compiled
@few
@given(
    # Gaps between 80 and 1e4 are left to saturation: there a probability of 1e-38
    # is or isn't zero by a hair.
    logits=hnp.arrays(
        np.float32,
        (2, 3, 4),
        elements=st.floats(-40, 40, width=32) | st.sampled_from([-1e4, 1e4]),
    ),
    labels=hnp.arrays(np.int32, 3, elements=st.integers(0, 3)),
)
def test_any_finite_logits(name, logits, labels):
    (_, value), gradients = COMPILED[name](logits[0], logits[1], labels)
    assert np.isfinite(value).all() and all(np.isfinite(g).all() for g in gradients)
    want = LOSSES[name][1](logits[0], logits[1], labels)
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-4)
    assert np.min(value) >= -1e-6


@few
@given(shift=st.floats(-100, 100, width=32), seed=st.integers(0, 2**16))
def test_distillation_kl_ignores_a_shift_and_is_never_negative(shift, seed):
    s, t, _ = draw(seed, 4, 6)
    value = losses.distillation_kl(s, t, temperature=2.0)
    np.testing.assert_allclose(
        losses.distillation_kl(s + shift, t, temperature=2.0), value, rtol=1e-3
    )
    assert np.min(value) >= 0


@pytest.mark.parametrize("temperature", ["std", 2.0])
def test_removed_classes_are_as_if_never_there(temperature):
    s, t, y = draw(0, 6, 5)
    gone = np.zeros_like(s, bool)
    gone[:, [1, 3]] = True

    def masked(s, t):
        return losses.distillation_kl(s, t, temperature=temperature, where=~gone)

    def infinite(s, t):
        s, t = (jnp.where(gone, -jnp.inf, x) for x in (s, t))
        return losses.distillation_kl(s, t, temperature=temperature)

    kept = [np.delete(x, [1, 3], 1) for x in (s, t)]
    want, want_grads = both(lambda s, t, y: losses.distillation_kl(s, t, temperature=temperature))(
        *kept, y
    )
    for function in (masked, infinite):
        (_, value), grads = both(lambda s, t, y, f=function: f(s, t))(s, t, y)
        np.testing.assert_allclose(value, want[1], rtol=1e-5)
        for grad, want_grad in zip(grads, want_grads, strict=True):
            np.testing.assert_array_equal(grad[:, [1, 3]], 0)
            np.testing.assert_allclose(np.delete(grad, [1, 3], 1), want_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", [n for n in LOSSES if not any(k in n for k in ("soft", "relational", "ddof"))]
)
def test_classes_at_minus_infinity_in_both_are_as_if_never_there(name):
    s, t, y = draw(1, 6, 5)
    y = y % 4
    s[:, 4] = t[:, 4] = -np.inf
    (_, value), gradients = COMPILED[name](s, t, y)
    (_, want), want_gradients = COMPILED[name](s[:, :4], t[:, :4], y)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for gradient, want_gradient in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(gradient[:, :4], want_gradient, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(gradient[:, 4], 0)


def test_second_derivative_with_a_removed_class():
    s, t, _ = draw(2, 1, 4)
    s, t = s[0], t[0]
    s[2] = t[2] = -np.inf
    for temperature in (2.0, "std"):

        def loss(s, temperature=temperature):
            return losses.distillation_kl(s, t, temperature=temperature)

        hessian = jax.jit(jax.hessian(loss))(jnp.asarray(s))
        kept = np.delete(s, 2)
        without = functools.partial(losses.distillation_kl, teacher_logits=np.delete(t, 2))
        want = jax.jit(jax.hessian(functools.partial(without, temperature=temperature)))(kept)
        np.testing.assert_allclose(
            np.delete(np.delete(hessian, 2, 0), 2, 1), want, rtol=1e-4, atol=1e-5
        )


def test_rows_without_classes_and_labels_without_probability():
    s, t, _ = draw(3, 2, 3)
    where = np.array([[True], [False]])
    value, grad = jax.value_and_grad(lambda s: losses.distillation_kl(s, t, where=where).sum())(s)
    np.testing.assert_allclose(value, losses.distillation_kl(s[:1], t[:1])[0], rtol=1e-6)
    np.testing.assert_array_equal(grad[1], 0)
    impossible = jnp.array([[-jnp.inf, 0.0, 1.0]])
    loss, grad = jax.value_and_grad(lambda z: losses.cross_entropy(z, jnp.array([0])).sum())(
        impossible
    )
    assert np.isinf(loss) and np.isfinite(grad).all()
    assert grad[0, 0] == -1
    # The teacher sees what the student rules out: infinite, with a finite slope.
    loss, grad = jax.value_and_grad(lambda z: losses.distillation_kl(z, jnp.zeros((1, 3))).sum())(
        impossible
    )
    assert np.isinf(loss)
    np.testing.assert_allclose(grad, jax.nn.softmax(impossible) - 1 / 3, atol=1e-6)
    _, tangent = jax.jvp(
        lambda z: losses.distillation_kl(z, jnp.zeros((1, 3))), (impossible,), (jnp.ones((1, 3)),)
    )
    np.testing.assert_allclose(tangent, 0, atol=1e-6)


def test_a_label_that_the_student_rules_out_costs_infinity_with_a_finite_slope():
    s, t, y = jnp.array([[-jnp.inf, 0.0, 1.0]]), jnp.array([[1.0, 0.0, 0.0]]), jnp.array([0])
    for loss in (losses.decoupled_kl, losses.sample_confidence_kl):
        value, gradient = jax.value_and_grad(lambda s, f=loss: f(s, t, y).sum())(s)
        assert np.isinf(value) and np.isfinite(gradient).all()


def test_soft_cross_entropy_with_a_removed_class_of_no_weight():
    z = jnp.array([[0.0, 1.0, -jnp.inf]])
    y = jnp.array([[0.25, 0.75, 0.0]])
    value, grads = jax.value_and_grad(lambda z, y: losses.cross_entropy(z, y).sum(), (0, 1))(z, y)
    np.testing.assert_allclose(value, ref.cross_entropy(z[:, :2], y[:, :2])[0], rtol=1e-6)
    assert all(np.isfinite(g).all() for g in grads)


def test_cross_entropy_keeps_its_digits_and_gradient_when_sure():
    z = np.array([[30.0, 0.0, -5.0], [60.0, 0.0, 1.0]], np.float32)
    y = np.array([0, 0])
    value, grad = (
        losses.cross_entropy(z, y),
        jax.grad(lambda z: losses.cross_entropy(z, y).sum())(z),
    )
    np.testing.assert_allclose(value, ref.cross_entropy(z, y), rtol=1e-6)
    assert np.all(grad[:, 0] < 0)
    np.testing.assert_allclose(grad.sum(1) / grad[:, 1], 0, atol=1e-6)


def test_gradient_of_a_constant_student_row_with_std():
    # x / (std + 1e-8) has the slope 1e8 there: steep, but finite, and 0 for an agreeing teacher.
    t = jnp.array([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    grad = jax.grad(lambda s: losses.distillation_kl(s, t, temperature="std").sum())(
        jnp.full((2, 3), 0.1)
    )
    p_t = jax.nn.softmax(t[0] / jnp.std(t[0]))
    np.testing.assert_allclose(grad[0] / 1e8, 1 / 3 - p_t, rtol=1e-5)
    np.testing.assert_array_equal(grad[1], 0)


@each_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_low_precision_is_computed_in_float32(loss, reference, dtype):
    s, t, y = draw(0, 8, 10)
    s, t = jnp.asarray(s, dtype), jnp.asarray(t, dtype)
    value = jax.jit(loss)(s, t, y)
    assert value.dtype == jnp.float32
    assert (
        ref.relative_error(
            value, reference(np.asarray(s, np.float64), np.asarray(t, np.float64), y)
        )
        <= 1e-6
    )
    gradient = jax.jit(jax.grad(lambda s: loss(s, t, y).sum()))(s)
    exact = jax.jit(jax.grad(lambda s: loss(s, t.astype(jnp.float32), y).sum()))(
        s.astype(jnp.float32)
    )
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, exact.astype(dtype))


def test_std_of_large_float16_logits_does_not_overflow():
    s, t = jnp.array([[6e4, -6e4, 0.0]], jnp.float16), jnp.array([[6e4, 0.0, -6e4]], jnp.float16)
    got = losses.distillation_kl(s, t, temperature="std")
    np.testing.assert_allclose(got, ref.distillation_kl(s, t, "std"), rtol=1e-6)


@each_compiled
@pytest.mark.parametrize("place", [0, 1])
def test_nan_logits_give_nan(name, place):
    logits = list(draw(0, 3, 4)[:2])
    logits[place][1] = np.nan
    (_, value), _ = COMPILED[name](*logits, np.array([0, 1, 2]))
    if place == 1 and "cross_entropy" in name:
        assert np.isfinite(value).all()
    else:
        assert np.isnan(value).any()


def test_label_out_of_range_under_jit_gives_nan():
    s, t, _ = draw(0, 2, 3)
    for bad in (-1, 3):
        y = jnp.array([0, bad])
        for value in (
            jax.jit(losses.cross_entropy)(s, y),
            jax.jit(losses.decoupled_kl)(s, t, y),
            jax.jit(losses.sample_confidence_kl)(s, t, y),
            jax.jit(losses.masked_correlation_kl)(s, t, y),
        ):
            assert np.isfinite(value[0]) and np.isnan(value[1])
