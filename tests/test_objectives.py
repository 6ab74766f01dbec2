import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as reference
import pytest

from mixkd_jax import objectives
from mixkd_jax.objectives import OBJECTIVES, PRESETS

RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)).astype(np.float32) * 2
CLASSES = np.array([0, 1, 2, 3, 4, 0])
ONE_HOT = np.eye(5, dtype=np.float32)[CLASSES]
# The class with the larger weight is the first one's: CLASSES still names it.
TEACHER += 5 * ONE_HOT  # or RLD would leave no class to compare
MIXED = (0.7 * ONE_HOT + 0.3 * np.roll(ONE_HOT, 1, axis=0)).astype(np.float32)

KD = {
    "kl": lambda: reference.distillation_kl(STUDENT, TEACHER, 3.0),
    "lskd": lambda: reference.logit_standardization_kl(STUDENT, TEACHER, 3.0),
    "dkd": lambda: reference.decoupled_kl(STUDENT, TEACHER, CLASSES, 3.0, 1.5, 2.5),
    "rld": lambda: reference.masked_correlation_kl(STUDENT, TEACHER, CLASSES, 3.0),
    "dist": lambda: reference.relational_loss(STUDENT, TEACHER, 3.0, 0.6, 0.4),
}


OPTIONS = {
    "temperature": 3.0,
    "kd_weight": 0.8,
    "ce_weight": 0.3,
    "ddof": 0,
    "target_weight": 1.5,
    "nontarget_weight": 2.5,
    "confidence_weight": 0.7,
    "confidence_temperature": 2.0,
    "inter_weight": 0.6,
    "intra_weight": 0.4,
}


def _options(name, **changes):
    """Those of OPTIONS that an objective has."""
    return {k: (OPTIONS | changes)[k] for k in objectives.options(OBJECTIVES[name])}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("labels", [ONE_HOT, MIXED], ids=["one-hot", "mixed"])
@pytest.mark.parametrize("jitted", [False, True])
def test_every_objective_is_its_formula(name, labels, jitted):
    """Also with numbers that are traced, as a training step gives them."""
    objective, options = OBJECTIVES[name], _options(name)
    if jitted:
        words = {k: v for k, v in options.items() if type(v) is int}
        numbers = {k: v for k, v in options.items() if k not in words}
        run = jax.jit(lambda s, t, y, **numbers: objective(s, t, y, **words, **numbers))
        loss, parts = run(STUDENT, TEACHER, labels, **numbers)
    else:
        loss, parts = objective(STUDENT, TEACHER, labels, **options)
    kd, ce = KD[name](), reference.cross_entropy(STUDENT, labels)
    want = 0.8 * kd + 0.3 * ce
    if name == "rld":
        confidence = reference.sample_confidence_kl(STUDENT, TEACHER, CLASSES, 2.0)
        want = want + 0.7 * confidence
        np.testing.assert_allclose(parts.pop("confidence"), confidence, rtol=2e-5)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert set(parts) == {"kd", "ce"}
    assert np.min(kd) > 1e-3
    np.testing.assert_allclose(parts["kd"], kd, rtol=2e-5)  # logged without its weight
    np.testing.assert_allclose(parts["ce"], ce, rtol=1e-5)


def test_the_standard_deviation_as_temperature():
    loss, _ = objectives.kl(STUDENT, TEACHER, MIXED, temperature="std")
    want = reference.distillation_kl(STUDENT, TEACHER, "std")  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_cross_entropy_asks_no_teacher():
    loss, parts = objectives.cross_entropy(jnp.asarray(STUDENT), None, jnp.asarray(MIXED))
    np.testing.assert_allclose(loss, reference.cross_entropy(STUDENT, MIXED), rtol=1e-5)
    assert set(parts) == {"ce"} and parts["ce"] is loss


def test_the_papers_default_is_kl_alone_at_2():
    loss, _ = objectives.kl(STUDENT, TEACHER, MIXED)
    np.testing.assert_allclose(loss, reference.distillation_kl(STUDENT, TEACHER, 2.0), rtol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_finite_and_reach_no_teacher_weighted_0(name):
    def total(student, weight):
        options = _options(name, kd_weight=weight, ce_weight=0.0, confidence_weight=0.0)
        return jnp.mean(OBJECTIVES[name](student, TEACHER, MIXED, **options)[0])

    grad = jax.grad(total)(jnp.asarray(STUDENT), 1.0)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-4
    assert not np.any(jax.grad(total)(jnp.asarray(STUDENT), 0.0))


# Options are keyword arguments


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_option_has_a_default_and_says_what_it_is(name):
    options, told = objectives.options(OBJECTIVES[name]), objectives.describe(OBJECTIVES[name])
    assert {"temperature", "kd_weight", "ce_weight"} <= set(options) == set(told)
    for option in options.values():
        assert option.default is not option.empty and told[option.name], option.name
    assert {"kd", "ce"} <= set(objectives.check(name, OBJECTIVES[name], {}))


def test_presets_are_options_of_their_objectives():
    assert objectives.preset_names() == (*OBJECTIVES, *PRESETS)
    assert objectives.preset("dkd") == ("dkd", {})
    assert objectives.preset("kl-ce") == ("kl", {"kd_weight": 0.8, "ce_weight": 0.2})
    for name, options in PRESETS.values():
        assert options and set(options) <= set(objectives.options(OBJECTIVES[name]))
        objectives.check(name, OBJECTIVES[name], options)


def _mine(made):
    return lambda student_logits, teacher_logits, labels: made(student_logits)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda s: s[:, 0], r"expected \(loss, parts\) with parts a dict"),
        (lambda s: (s[:, 0], s[:, 0]), r"expected \(loss, parts\) with parts a dict"),
        (lambda s: (s, {}), r"expected loss to have .* each of 4 examples.* float32\[4, 3\]"),
        (lambda s: (s[:, 0], {"a": s[0]}), r"expected a to have one floating .*float32\[3\]"),
        (lambda s: (s[:, 0] > 0, {}), r"expected loss to have one floating number.*bool\[4\]"),
        (lambda s: (s[:, 0], {"a": 1}), r"expected a to have one floating number.*int32\[\]"),
    ],
)
def test_what_an_objective_must_return_is_checked(made, message):
    with pytest.raises(TypeError, match=f"^loss mine: {message}"):
        objectives.check("mine", _mine(made), {})


def test_a_loss_for_the_whole_batch_is_right_too():
    whole = _mine(lambda s: (jnp.mean(s), {"a": jnp.mean(s), "b": s[:, 0]}))
    assert objectives.check("mine", whole, {}) == ("a", "b")
