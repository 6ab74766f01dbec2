"""Values and gradients of the losses against NumPy float64 and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from jax.test_util import check_grads

from mixkd_jax import losses

# name -> (loss, reference), both functions of student, teacher and labels.
LOSSES = {
    "distillation_kl T=1": (
        lambda s, t, y: losses.distillation_kl(s, t),
        lambda s, t, y: ref.distillation_kl(s, t),
    ),
    "distillation_kl T=4": (
        lambda s, t, y: losses.distillation_kl(s, t, temperature=4.0),
        lambda s, t, y: ref.distillation_kl(s, t, 4.0),
    ),
    "distillation_kl std": (
        lambda s, t, y: losses.distillation_kl(s, t, temperature="std"),
        lambda s, t, y: ref.distillation_kl(s, t, "std"),
    ),
    "cross_entropy indices": (
        lambda s, t, y: losses.cross_entropy(s, y),
        lambda s, t, y: ref.cross_entropy(s, y),
    ),
    "cross_entropy soft": (
        lambda s, t, y: losses.cross_entropy(
            s, jax.nn.one_hot(y, s.shape[-1]) * 0.9 + 0.1 / s.shape[-1]
        ),
        lambda s, t, y: ref.cross_entropy(s, np.eye(s.shape[-1])[y] * 0.9 + 0.1 / s.shape[-1]),
    ),
    "distillation_loss": (
        lambda s, t, y: losses.distillation_loss(
            s, t, y, temperature=2.0, kd_weight=0.8, ce_weight=0.2
        )[0],
        lambda s, t, y: 0.8 * ref.distillation_kl(s, t, 2.0) + 0.2 * ref.cross_entropy(s, y),
    ),
    "logit_standardization_kl": (
        lambda s, t, y: losses.logit_standardization_kl(s, t),
        lambda s, t, y: ref.logit_standardization_kl(s, t),
    ),
    "logit_standardization_kl ddof=1": (
        lambda s, t, y: losses.logit_standardization_kl(s, t, temperature=3.0, ddof=1),
        lambda s, t, y: ref.logit_standardization_kl(s, t, 3.0, 1),
    ),
    "decoupled_kl": (
        lambda s, t, y: losses.decoupled_kl(s, t, y),
        lambda s, t, y: ref.decoupled_kl(s, t, y),
    ),
    "decoupled_kl T=1": (
        lambda s, t, y: losses.decoupled_kl(s, t, y, temperature=1.0, target_weight=2.0),
        lambda s, t, y: ref.decoupled_kl(s, t, y, 1.0, 2.0),
    ),
    "sample_confidence_kl": (
        lambda s, t, y: losses.sample_confidence_kl(s, t, y),
        lambda s, t, y: ref.sample_confidence_kl(s, t, y),
    ),
    "masked_correlation_kl": (
        lambda s, t, y: losses.masked_correlation_kl(s, t, y),
        lambda s, t, y: ref.masked_correlation_kl(s, t, y),
    ),
    "relational_loss": (
        lambda s, t, y: losses.relational_loss(s, t, inter_weight=2.0),
        lambda s, t, y: ref.relational_loss(s, t, inter_weight=2.0),
    ),
    "relational_loss T=4": (
        lambda s, t, y: losses.relational_loss(s, t, temperature=4.0),
        lambda s, t, y: ref.relational_loss(s, t, 4.0),
    ),
}
# What differs from another in an option alone: to compile it once more for every test is slow.
VARIANTS = (
    "distillation_kl T=4",
    "distillation_loss",
    "logit_standardization_kl ddof=1",
    "decoupled_kl T=1",
    "relational_loss T=4",
)


def marked(name, *values):
    """A test's parameters for the loss of a name, by default the name itself."""
    marks = [pytest.mark.slow] if name in VARIANTS else []
    return pytest.param(*(values or (name,)), marks=marks, id=name)


each_loss = pytest.mark.parametrize(
    ("loss", "reference"), [marked(name, *both) for name, both in LOSSES.items()]
)


def draw(seed, batch, classes, scale=3.0):
    """Returns float32 logits of both networks and labels."""
    rng = np.random.default_rng(seed)
    s, t = rng.normal(scale=scale, size=(2, batch, classes)).astype(np.float32)
    return s, t, rng.integers(classes, size=batch)


@pytest.mark.parametrize(("loss", "reference"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(("classes", "scale"), [(2, 3.0), (10, 1.0), (1000, 3.0)])
def test_value_is_within_1e_6_of_float64(loss, reference, classes, scale):
    s, t, y = draw(classes, 64, classes, scale)
    assert ref.relative_error(jax.jit(loss)(s, t, y), reference(s, t, y)) <= 1e-6


@each_loss
def test_gradients_are_within_1e_6_of_float64_differences(loss, reference):
    s, t, y = draw(7, 3, 5, 1.0)
    got = jax.jit(jax.grad(lambda s, t: jnp.sum(loss(s, t, y)), argnums=(0, 1)))(s, t)
    want_s = ref.gradient(lambda x: np.sum(reference(x, t, y)), s)
    want_t = ref.gradient(lambda x: np.sum(reference(s, x, y)), t)
    assert ref.relative_error(got[0], want_s) <= 1e-6
    if np.any(want_t):
        assert ref.relative_error(got[1], want_t) <= 1e-6
    else:
        assert not np.any(got[1])


@each_loss
def test_second_derivatives_against_differences(loss, reference):
    del reference
    s, t, y = draw(3, 3, 5, 1.0)
    with jax.enable_x64(True):
        arguments = jnp.asarray(s, jnp.float64), jnp.asarray(t, jnp.float64)
        function = jax.jit(lambda s, t: loss(s, t, y))
        check_grads(function, arguments, order=2, modes=["fwd"], atol=1e-5, rtol=1e-5)


@each_loss
def test_float64_stays_float64(loss, reference):
    s, t, y = draw(11, 8, 6)
    with jax.enable_x64(True):
        arguments = jnp.asarray(s, jnp.float64), jnp.asarray(t, jnp.float64)
        got = jax.jit(lambda s, t: loss(s, t, y))(*arguments)
        assert got.dtype == jnp.float64
        assert ref.relative_error(got, reference(s, t, y)) <= 1e-12


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_of_equal_logits_is_zero_and_gradient_is_t_times_difference(temperature):
    s, t, _ = draw(0, 8, 10)
    equal = losses.distillation_kl(t + 5.0, t, temperature=temperature)
    np.testing.assert_allclose(equal, 0, atol=1e-12)
    grad = jax.grad(lambda s: losses.distillation_kl(s, t, temperature=temperature).sum())(s)
    p_s, p_t = (
        np.exp([ref.log_softmax(row) for row in x.astype(np.float64) / temperature]) for x in (s, t)
    )
    assert ref.relative_error(grad, temperature * (p_s - p_t)) <= 1e-6


def test_kl_of_nearly_equal_logits_keeps_its_digits():
    rng = np.random.default_rng(5)
    t = rng.normal(size=(64, 100)).astype(np.float32)
    s = t + rng.normal(scale=1e-3, size=t.shape).astype(np.float32)
    assert ref.relative_error(losses.distillation_kl(s, t), ref.distillation_kl(s, t)) <= 2e-6


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_tckd_plus_nontarget_mass_times_nckd(temperature):
    s, t, y = draw(1, 32, 10)
    whole = losses.distillation_kl(s, t, temperature=temperature)
    target, nontarget = (
        losses.decoupled_kl(
            s, t, y, temperature=temperature, target_weight=a, nontarget_weight=1.0 - a
        )
        for a in (1.0, 0.0)
    )
    p_y = np.take_along_axis(np.asarray(jax.nn.softmax(t / temperature)), y[:, None], 1)[:, 0]
    assert ref.relative_error(target + (1 - p_y) * nontarget, whole) <= 1e-6


def test_pearson_invariances_of_dist():
    s, t, _ = draw(2, 16, 10)
    np.testing.assert_allclose(
        losses.relational_loss(s + 3.0, t), losses.relational_loss(s, t), rtol=1e-5
    )
    np.testing.assert_allclose(losses.relational_loss(t, t), 0, atol=1e-12)
    # Two classes: p and 1 - p correlate perfectly or inversely within every row.
    rows = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    inter = losses.relational_loss(3 * rows, rows, intra_weight=0.0)
    opposite = losses.relational_loss(-rows, rows, intra_weight=0.0)
    np.testing.assert_allclose([inter, opposite], [0, 2], atol=1e-6)


def test_lskd_does_not_see_scale_or_shift():
    s, t, _ = draw(4, 16, 10)
    np.testing.assert_allclose(
        losses.logit_standardization_kl(5 * s + 2, t),
        losses.logit_standardization_kl(s, t),
        rtol=1e-4,
    )


def test_masked_correlation_leaves_out_the_classes_before_the_label():
    s, t = jnp.array([[9.0, 1.0, 0.0, 2.0]]), jnp.array([[5.0, 3.0, 1.0, 0.5]])
    got = losses.masked_correlation_kl(s, t, jnp.array([1]), temperature=2.0)
    want = losses.distillation_kl(s[:, 2:], t[:, 2:], temperature=2.0)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    lowest = losses.masked_correlation_kl(s, t, jnp.array([3]))
    np.testing.assert_array_equal(lowest, [0.0])


def test_distillation_loss_returns_its_parts_and_skips_what_weighs_nothing():
    s, t, y = draw(6, 4, 5)
    loss, parts = losses.distillation_loss(
        s, t, y, kd_weight=0.25, ce_weight=3.0, temperature="std"
    )
    np.testing.assert_allclose(parts["kd"], losses.distillation_kl(s, t, temperature="std"))
    np.testing.assert_allclose(parts["ce"], losses.cross_entropy(s, y))
    np.testing.assert_allclose(loss, 0.25 * parts["kd"] + 3.0 * parts["ce"], rtol=1e-6)
    only_kd, parts = losses.distillation_loss(s, t)
    np.testing.assert_allclose(only_kd, losses.distillation_kl(s, t))
    np.testing.assert_array_equal(parts["ce"], np.zeros(4))
    infinite = s.copy()
    infinite[:, 0] = -np.inf
    for weight in (0.0, jnp.float32(0)):
        loss, parts = losses.distillation_loss(infinite, t, y, kd_weight=weight, ce_weight=1.0)
        assert np.isinf(parts["kd"]).all() and not np.isnan(loss).any()


def test_distillation_loss_takes_axis_and_where():
    s, t, y = draw(8, 4, 5)
    y, where = y % 4, np.arange(5) < 4
    options = {"temperature": 2.0, "ce_weight": 0.5}
    want, _ = losses.distillation_loss(s[:, :4], t[:, :4], y, **options)
    got, _ = losses.distillation_loss(s, t, y, where=where, **options)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    turned, _ = losses.distillation_loss(s.T, t.T, y, axis=0, where=where[:, None], **options)
    np.testing.assert_allclose(turned, want, rtol=1e-6)


def test_standardize_gives_z_scores():
    s, _, _ = draw(12, 6, 5)
    for ddof in (0, 1):
        want = (s - s.mean(1, keepdims=True)) / (s.std(1, ddof=ddof, keepdims=True) + 1e-7)
        np.testing.assert_allclose(losses.standardize(s + 7, ddof=ddof), want, rtol=1e-5, atol=1e-6)
    assert not np.any(losses.standardize(np.full((1, 3), 0.1, np.float32)))
    removed = np.concatenate([s, np.full((6, 1), -np.inf, np.float32)], 1)
    got = losses.standardize(removed)
    np.testing.assert_allclose(got[:, :5], losses.standardize(s), rtol=1e-6)
    assert np.isneginf(got[:, 5]).all()
    weight = np.arange(5.0)

    def zscore(x):
        return np.sum(weight * (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True) + 1e-7))

    gradient = jax.grad(lambda x: jnp.sum(weight * losses.standardize(x)))(s)
    assert ref.relative_error(gradient, ref.gradient(zscore, s)) <= 1e-6


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_other_class_axis(axis):
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    y = rng.integers(3, size=s.shape)
    y = y.take(0, axis)
    kl = losses.distillation_kl(s, t, axis=axis, temperature=2.0)
    last = [np.moveaxis(x, axis, -1) for x in (s, t)]
    np.testing.assert_allclose(kl, losses.distillation_kl(*last, temperature=2.0), rtol=1e-6)
    np.testing.assert_allclose(
        losses.cross_entropy(s, y, axis=axis), losses.cross_entropy(last[0], y), rtol=1e-6
    )
    soft = jax.nn.softmax(t, axis)
    np.testing.assert_allclose(
        losses.cross_entropy(s, soft, axis=axis),
        losses.cross_entropy(last[0], jnp.moveaxis(soft, axis, -1)),
        rtol=1e-6,
    )
