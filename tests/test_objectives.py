import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as reference
import pytest
import small

from mixkd_jax.config import ConfigError
from mixkd_jax.training import objectives
from mixkd_jax.training.objectives import OBJECTIVES, create_objective

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


def _loss(name):
    return small.loss(
        name=name,
        temperature="3",
        kd_weight=0.8,
        ce_weight=0.3,
        target_weight=1.5,
        nontarget_weight=2.5,
        confidence_weight=0.7,
        confidence_temperature=2.0,
        inter_weight=0.6,
        intra_weight=0.4,
    )


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("labels", [ONE_HOT, MIXED], ids=["one-hot", "mixed"])
@pytest.mark.parametrize("jitted", [False, True])
def test_every_objective_is_its_formula(name, labels, jitted):
    objective = create_objective(_loss(name))
    run = jax.jit(objective) if jitted else objective
    loss, parts = run(STUDENT, TEACHER, labels)
    kd, ce = KD[name](), reference.cross_entropy(STUDENT, labels)
    want = 0.8 * kd + 0.3 * ce
    if name == "rld":
        want = want + 0.7 * reference.sample_confidence_kl(STUDENT, TEACHER, CLASSES, 2.0)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert set(parts) == {"kd", "ce"}
    assert np.min(kd) > 1e-3
    np.testing.assert_allclose(parts["kd"], kd, rtol=2e-5)  # logged without its weight
    np.testing.assert_allclose(parts["ce"], ce, rtol=1e-5)


def test_the_standard_deviation_as_temperature():
    objective = create_objective(small.loss(temperature="std"))
    loss, _ = objective(jnp.asarray(STUDENT), jnp.asarray(TEACHER), jnp.asarray(MIXED))
    want = reference.distillation_kl(STUDENT, TEACHER, "std")  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_cross_entropy_asks_no_teacher():
    loss, parts = objectives.cross_entropy(jnp.asarray(STUDENT), None, jnp.asarray(MIXED))
    np.testing.assert_allclose(loss, reference.cross_entropy(STUDENT, MIXED), rtol=1e-5)
    assert set(parts) == {"ce"} and parts["ce"] is loss


def test_the_papers_default_is_kl_alone_at_2():
    loss, _ = create_objective(small.loss())(
        jnp.asarray(STUDENT), jnp.asarray(TEACHER), jnp.asarray(MIXED)
    )
    np.testing.assert_allclose(loss, reference.distillation_kl(STUDENT, TEACHER, 2.0), rtol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_finite_and_reach_no_teacher_weighted_0(name):
    def total(student, weight):
        objective = create_objective(small.loss(name=name, kd_weight=weight, confidence_weight=0.0))
        return jnp.mean(objective(student, jnp.asarray(TEACHER), jnp.asarray(MIXED))[0])

    grad = jax.grad(total)(jnp.asarray(STUDENT), 1.0)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-4
    assert not np.any(jax.grad(total)(jnp.asarray(STUDENT), 0.0))


def test_wrong_losses_are_refused():
    with pytest.raises(ConfigError, match='config.loss.name: expected one of kl, .*got "dkl"'):
        create_objective(small.loss(name="dkl"))
    for name in set(OBJECTIVES) - {"kl"}:
        with pytest.raises(ConfigError, match=f'loss.temperature: .*"{name}", got "std"'):
            create_objective(small.loss(name=name, temperature="std"))
