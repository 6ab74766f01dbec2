"""All ops in the modes and with the types that other people's code brings along."""

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import optimize
from test_losses import LOSSES, draw, marked

from mixkd_jax import calibration, losses, mixup, representation, vicinal

B, C = 8, 10
S, T, Y = draw(3, B, C)
PROBS = np.asarray(jax.nn.softmax(S))
LAM = np.linspace(0, 1, B, dtype=np.float32)
MASK = np.arange(B) < 5


def _errors(bins):
    return [
        calibration.expected_calibration_error(bins),
        calibration.maximum_calibration_error(bins),
        calibration.overconfidence(bins),
        calibration.overconfidence_error(bins),
        calibration.debiased_l2_calibration_error(bins),
    ]


# What maps examples to values, and needs no other example's place.
EXAMPLES = {
    "bins": lambda s, t, p, y, lam: calibration.calibration_bins(p, y),
    "errors": lambda s, t, p, y, lam: _errors(calibration.calibration_bins(p, y)),
    "classwise": lambda s, t, p, y, lam: calibration.classwise_calibration_error(p, y),
    "brier": lambda s, t, p, y, lam: calibration.brier_score(p, y),
    "nll": lambda s, t, p, y, lam: calibration.negative_log_likelihood(s, y),
    "fit": lambda s, t, p, y, lam: calibration.fit_temperature(s, y),
    "entropy": lambda s, t, p, y, lam: vicinal.entropy(p),
    "kl_divergence": lambda s, t, p, y, lam: vicinal.kl_divergence(
        p, p**2 / (p**2).sum(-1, keepdims=True)
    ),
    "nonlinearity": lambda s, t, p, y, lam: vicinal.nonlinearity(p, p, p, lam),
    "pair_mass": lambda s, t, p, y, lam: vicinal.pair_mass(p, y, y),
    "standardize": lambda s, t, p, y, lam: losses.standardize(s),
    "fit soft": lambda s, t, p, y, lam: calibration.fit_temperature(s, p),
    "interpolate": lambda s, t, p, y, lam: mixup.interpolate(lam, s, t),
} | {
    name: lambda s, t, p, y, lam, loss=loss: jax.value_and_grad(lambda s: loss(s, t, y).sum())(s)
    for name, (loss, _) in LOSSES.items()
}
TOGETHER = {
    "adaptive": lambda s, t, p, y, lam: calibration.adaptive_calibration_error(p, y),
    "classwise adaptive": lambda s, t, p, y, lam: (
        calibration.classwise_adaptive_calibration_error(p, y)
    ),
    "smooth": lambda s, t, p, y, lam: calibration.smooth_calibration_error(p, y),
    "risk": lambda s, t, p, y, lam: calibration.area_under_risk_coverage(p, y),
    "cka": lambda s, t, p, y, lam: representation.linear_cka(s, t),
    "mask": lambda s, t, p, y, lam: calibration.calibration_bins(p, y, where=jnp.asarray(MASK)),
    "mixup": lambda s, t, p, y, lam: mixup.apply_mixup(mixup.sample_mixup(jax.random.key(0), B), s),
}  # fmt: skip
ALL = EXAMPLES | TOGETHER


def _given(put=jnp.asarray):
    return [put(array) for array in (S, T, PROBS, Y, LAM)]


def _same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)


@pytest.mark.parametrize("name", [marked(name) for name in EXAMPLES])
def test_arrays_on_a_mesh_of_explicit_axes(name):
    """That is what `jax.make_mesh` makes by default."""
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4])
    op, want = ALL[name], ALL[name](*_given())
    with jax.set_mesh(mesh):
        assert jax.sharding.AxisType.Explicit in mesh.axis_types
        given = _given(lambda array: jax.device_put(array, NamedSharding(mesh, P("d"))))
        _same(jax.jit(op)(*given), want)


@pytest.mark.parametrize("name", [marked(name) for name in ALL])
def test_nothing_is_promoted_silently(name):
    want = ALL[name](*_given())
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        _same(jax.jit(ALL[name])(*_given()), want)


@pytest.mark.parametrize("name", ALL)
def test_no_nan_is_made_on_the_way(name):
    with jax.debug_nans(True):
        ALL[name](*_given())


@pytest.mark.parametrize(
    ("dtype", "classes"),
    [
        (np.int8, 128),
        pytest.param(np.int8, 200, marks=pytest.mark.slow),
        pytest.param(np.uint8, 256, marks=pytest.mark.slow),
        pytest.param(np.uint8, 300, marks=pytest.mark.slow),
        pytest.param(np.uint32, 300, marks=pytest.mark.slow),
    ],
)
def test_labels_of_few_bits(dtype, classes):
    s, t, _ = draw(classes, 4, classes)
    y = np.array([0, 1, 50, 127])
    p = np.asarray(jax.nn.softmax(s))

    def measure(y):
        bins = calibration.calibration_bins(p, y)
        return [
            *(loss(s, t, y) for name, (loss, _) in LOSSES.items() if "soft" not in name),
            calibration.brier_score(p, y),
            calibration.negative_log_likelihood(s, y),
            calibration.classwise_calibration_error(p, y),
            vicinal.pair_mass(p, y, y),
            bins.correct,
        ]

    want = measure(y.astype(np.int32))
    assert all(np.isfinite(value).all() for value in want)
    _same(measure(y.astype(dtype)), want)
    _same(jax.jit(measure)(y.astype(dtype)), want)


TEMPERATURES = [
    np.uint8(20),
    np.int8(12),
    np.float16(300),
    jnp.float16(300),
    jnp.bfloat16(3.25),
    np.int64(50000),
    50000,
    np.float64(1.5),
]


@pytest.mark.parametrize("temperature", TEMPERATURES, ids=repr)
def test_temperatures_of_any_type(temperature):
    for name in ("distillation_kl", "logit_standardization_kl", "sample_confidence_kl"):
        loss = getattr(losses, name)
        labels = (Y,) if "confidence" in name else ()
        want = loss(S, T, *labels, temperature=np.float32(temperature))
        got = loss(S, T, *labels, temperature=temperature)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want)
        if isinstance(temperature, jax.Array):
            traced = jax.jit(lambda k, loss=loss, y=labels: loss(S, T, *y, temperature=k))
            # At 300 two nearly even odds are compared, which float32 tells to 1e-4.
            np.testing.assert_allclose(traced(temperature), want, rtol=3e-4)


def test_float64_numbers_leave_float32_losses():
    with jax.enable_x64(True):
        two = np.float64(2)
        assert losses.distillation_kl(S, T, temperature=two).dtype == np.float32
        loss, _ = losses.distillation_loss(S, T, kd_weight=two, temperature=two)
        assert loss.dtype == np.float32
        assert losses.relational_loss(S, T, inter_weight=two).dtype == np.float32


def test_a_weight_that_is_learned_from_zero_has_a_gradient():
    def mean(weight):
        loss, parts = losses.distillation_loss(S, T, Y, ce_weight=weight)
        return loss.mean(), parts["ce"].mean()

    gradient, ce = jax.grad(mean, has_aux=True)(0.0)
    np.testing.assert_allclose(gradient, ce, rtol=1e-6)
    inf = np.array([[1.0, -np.inf]], np.float32)  # the teacher gives class 1 some probability
    loss, parts = losses.distillation_loss(
        inf, np.zeros((1, 2), np.float32), np.array([0]), kd_weight=0.0, ce_weight=1.0
    )
    assert np.isinf(parts["kd"]) and loss == parts["ce"]


def test_examples_without_a_label_can_be_distilled_on():
    """Under jit a label of -1 makes the cross entropy NaN; weight 0 switches it off."""
    labels = np.where(MASK, Y, -1)
    loss, parts = jax.jit(lambda y, w: losses.distillation_loss(S, T, y, ce_weight=w))(labels, 0.0)
    np.testing.assert_array_equal(np.isnan(parts["ce"]), ~MASK)
    np.testing.assert_array_equal(loss, parts["kd"])


@pytest.mark.parametrize("name", ["std", "lskd"])
def test_gradients_of_constant_float16_rows_are_finite(name):
    options = {"std": {"temperature": "std"}, "lskd": {}}[name]
    loss = losses.distillation_kl if name == "std" else losses.logit_standardization_kl
    constant, t = jnp.zeros((1, 3), jnp.float16), jnp.array([[3.0, 1.0, -1.0]], jnp.float16)
    for place in (0, 1):
        pair = (constant, t) if place == 0 else (t, constant)
        gradient = jax.jit(jax.grad(lambda *z: loss(*z, **options).sum(), argnums=place))(*pair)
        assert gradient.dtype == jnp.float16 and np.isfinite(gradient).all()
        wide = jax.grad(lambda *z: loss(*z, **options).sum(), argnums=place)(
            *(z.astype(jnp.float32) for z in pair)
        )
        np.testing.assert_array_equal(np.sign(gradient), np.sign(wide))


def test_wide_rows_are_summed_right():
    """Beyond 16,384 classes, where a CPU sums columns in pieces."""
    s, t, _ = draw(8, 8, 20000)
    value = jax.jit(losses.relational_loss)(s, t)
    np.testing.assert_allclose(value, ref.relational_loss(s, t), rtol=1e-6)
    stacked = jax.vmap(losses.relational_loss)(np.stack([s, t]), np.stack([t, t]))
    np.testing.assert_allclose(stacked, [value, 0], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.xfail(strict=False, reason="4.33e-5 on an AVX2 processor; the cause isn't known")
def test_the_gradient_of_wide_rows_is_summed_right():
    s, t, _ = draw(8, 8, 20000)
    gradient = jax.jit(jax.grad(losses.relational_loss))(s, t)
    with jax.enable_x64(True):
        want = jax.grad(losses.relational_loss)(s.astype(np.float64), t.astype(np.float64))
    assert ref.relative_error(gradient, want) < 4e-5  # classes have probabilities down to 1e-9


def test_a_fitted_temperature_ignores_classes_masked_by_a_large_number():
    y = np.array([0, 0, 0, 1])
    want = 2 / np.log(3)
    for mask in (-1e2, -1e5, -1e9, np.finfo(np.float32).min, -np.inf):
        logits = np.array([[2.0, 0.0, mask]] * 4, np.float32)
        np.testing.assert_allclose(calibration.fit_temperature(logits, y), want, rtol=1e-5)


def test_a_fitted_temperature_has_right_second_derivatives():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(12, 3))
    y = np.argmax(z + rng.gumbel(size=z.shape), 1)
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda z: calibration.fit_temperature(z, y)))

        def refit(z):
            """log T, where the mean NLL is least."""
            rows = np.arange(len(z))

            def slope(x):
                p = np.exp(z * np.exp(-x) - (z * np.exp(-x)).max(1, keepdims=True))
                return np.mean((p * z).sum(1) / p.sum(1) - z[rows, y])

            return optimize.brentq(slope, -5, 5, xtol=1e-13)

        direction = rng.normal(size=z.shape)
        along = (np.exp(refit(z + 1e-5 * direction)) - np.exp(refit(z - 1e-5 * direction))) / 2e-5
        np.testing.assert_allclose(np.sum(gradient(z) * direction), along, rtol=1e-6)
        second = jax.jvp(gradient, (z,), (direction,))[1]
        want = (gradient(z + 1e-5 * direction) - gradient(z - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(second, want, rtol=1e-5, atol=1e-8)


def test_entropy_falls_where_a_class_is_certain():
    for row in ([1.0, 0.0, 0.0], [1.0000001, 0.0, 0.0]):
        p = np.array(row, np.float32)
        assert vicinal.entropy(p) == 0
        np.testing.assert_allclose(jax.grad(vicinal.entropy)(p), [-1, 0, 0], rtol=1e-6)


def test_float64_sums_of_many_examples_keep_their_difference():
    """As evaluations add them up on the host; in float32 the two would be one number."""
    count, correct = np.array([5e7, 0.0]), np.array([4e7, 0.0])
    bins = calibration.CalibrationBins(count, correct + [0.25, 0.0], correct)  # pyright: ignore
    for error in _errors(bins)[:3]:
        np.testing.assert_allclose(error, 0.25 / 5e7, rtol=1e-6)


def test_bins_of_a_list_are_summed():
    parts = [calibration.calibration_bins(PROBS[k : k + 4], Y[k : k + 4]) for k in (0, 4)]
    _same(sum(parts), calibration.calibration_bins(PROBS, Y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.distillation_kl(None, T), "student_logits: expected an array, got None"),
        (lambda: losses.cross_entropy(S, None), "labels: expected an array, got None"),
        (lambda: losses.cross_entropy(S, Y.astype(float)), "labels: .*shape"),
        (lambda: losses.distillation_kl(S, T, axis=True), "axis: expected a Python int, got True"),
        (lambda: losses.cross_entropy(S, Y, axis=1.0), "axis: expected a Python int, got 1.0"),
        (lambda: losses.distillation_kl(S, T, temperature=True), "temperature: .*number, got True"),
        (lambda: losses.distillation_kl(S, T, temperature=2j), "temperature: .*number, got 2j"),
        (lambda: losses.distillation_kl(S, T, temperature=b"2"), "temperature: .*number, got b'2'"),
        (lambda: losses.distillation_kl(S, T, where="mask"), "where: expected an array, got str"),
        (lambda: calibration.calibration_bins(PROBS, Y[:1], where=MASK), r"labels: .*\(1,\)"),
        (lambda: calibration.calibration_bins(PROBS, 0, where=MASK), r"labels: .*got \(\)"),
        (lambda: calibration.calibration_bins(PROBS, None, where=MASK), "labels: .*got None"),
        (lambda: calibration.expected_calibration_error(PROBS), "bins: .*calibration_bins"),
        (lambda: calibration.brier_score(PROBS, PROBS), "labels: .*or cast indices to int32"),
        (lambda: vicinal.nonlinearity(PROBS, PROBS[:2], PROBS, LAM), "probs_j: .*probs_i"),
        (lambda: mixup.interpolate(LAM, S * 1j, S), "x_i: expected real numbers, got dtype compl"),
        (
            lambda: mixup.apply_mixup(mixup.MixupPlan(LAM[:2], np.array([0, 7])), S[:2]),
            r"plan.partner: .*from 0 to 1, got 0 to 7",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_traced_alpha_below_zero_is_seen():
    plan = jax.jit(lambda alpha: mixup.sample_mixup(jax.random.key(0), 4, alpha=alpha))(-1.0)
    assert np.isnan(plan.lam).all()


@pytest.mark.slow
def test_removed_classes_make_no_nan_on_the_way():
    s, t = (np.concatenate([z, np.full((B, 1), -np.inf, np.float32)], 1) for z in (S, T))
    names = [name for name in LOSSES if "soft" not in name]  # labels have no removed class
    want = {name: LOSSES[name][0](s, t, Y) for name in names}
    jax.clear_caches()  # what is cached is not looked at
    with jax.debug_nans(True):
        for name in names:
            _same(LOSSES[name][0](s, t, Y), want[name])
            jax.grad(lambda s, name=name: LOSSES[name][0](s, t, Y).sum())(s)
