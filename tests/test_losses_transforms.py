"""The losses under jit, vmap, checkpoint and shard_map; no recompilation; errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as ref
import pytest
from jax.sharding import PartitionSpec as P
from test_losses import LOSSES, draw, each_loss, marked

from mixkd_jax import losses

BATCH = 8
per_example = pytest.mark.parametrize(
    "loss",
    [marked(name, loss) for name, (loss, _) in LOSSES.items() if "relational" not in name],
)


@each_loss
def test_eager_jit_and_checkpoint_agree(loss, reference):
    del reference
    s, t, y = draw(0, BATCH, 5)
    eager = loss(s, t, y)
    np.testing.assert_allclose(jax.jit(loss)(s, t, y), eager, rtol=1e-6, atol=1e-7)

    def gradient(function):
        return jax.jit(jax.grad(lambda s: jnp.sum(function(s, t, y))))(s)

    remade = gradient(jax.checkpoint(lambda s, t, y: loss(s, t, y)))
    np.testing.assert_allclose(remade, gradient(loss), rtol=1e-5, atol=1e-6)


@per_example
def test_vmap_over_examples_and_leading_axes(loss):
    s, t, y = draw(1, BATCH, 5)
    want = jax.jit(loss)(s, t, y)
    assert want.shape == (BATCH,)
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(s, t, y), want, rtol=1e-6, atol=1e-7)
    folded = jax.jit(loss)(s.reshape(2, 4, 5), t.reshape(2, 4, 5), y.reshape(2, 4))
    np.testing.assert_allclose(folded, want.reshape(2, 4), rtol=1e-6, atol=1e-7)


@per_example
def test_shard_map_over_the_batch(loss):
    s, t, y = draw(2, BATCH, 5)
    split = jax.shard_map(
        jax.value_and_grad(lambda s, t, y: jax.lax.psum(jnp.sum(loss(s, t, y)), "data")),
        mesh=ref.data_mesh(),
        in_specs=P("data"),
        out_specs=(P(), P("data")),
    )
    value, gradient = jax.jit(split)(s, t, y)
    want = jax.jit(jax.value_and_grad(lambda s: jnp.sum(loss(s, t, y))))(s)
    np.testing.assert_allclose(value, want[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, want[1], rtol=1e-5, atol=1e-6)


OPTIONS = {
    "distillation_kl": ("temperature",),
    "distillation_loss": ("temperature", "kd_weight", "ce_weight"),
    "logit_standardization_kl": ("temperature",),
    "decoupled_kl": ("temperature", "target_weight", "nontarget_weight"),
    "sample_confidence_kl": ("temperature",),
    "masked_correlation_kl": ("temperature",),
    "relational_loss": ("temperature", "inter_weight", "intra_weight"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_changing_a_float_option_recompiles_nothing(name):
    s, t, y = draw(3, 4, 5)
    labels = (
        {}
        if name in ("distillation_kl", "logit_standardization_kl", "relational_loss")
        else {"labels": y}
    )
    traces = []

    @jax.jit
    def run(options):
        traces.append(1)
        return getattr(losses, name)(s, t, **labels, **options)

    for value in (1.0, 2.5):
        options = dict.fromkeys(OPTIONS[name], value)
        got = run(options)
        want = getattr(losses, name)(s, t, **labels, **options)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, want)
    assert len(traces) == 1


def test_gradient_in_the_temperature():
    s, t, _ = draw(4, 4, 5)

    def value(temperature):
        return losses.distillation_kl(s, t, temperature=temperature).sum()

    slope = (value(2.05) - value(1.95)) / 0.1
    np.testing.assert_allclose(jax.grad(value)(2.0), slope, rtol=1e-3)


S, T = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
Y = np.array([0, 2])
ERRORS = [
    (lambda: losses.distillation_kl(S, T[:, :2]), r"teacher_logits: .*\(2, 3\), got \(2, 2\)"),
    (lambda: losses.distillation_kl(S, T, temperature=0.0), r"temperature: .*above 0, got 0"),
    (lambda: losses.distillation_kl(S, T, temperature=-1), r"temperature: .*above 0, got -1"),
    (lambda: losses.distillation_kl(S, T, temperature=float("nan")), "temperature: .*got nan"),
    (lambda: losses.distillation_kl(S, T, temperature="sdt"), r'temperature: .*"std", got \'sdt\''),
    (lambda: losses.distillation_kl(S, T, temperature=None), "temperature: .*got None"),
    (lambda: losses.distillation_kl(S, T, temperature=np.ones(2)), r"temperature: .*shape \(2,\)"),
    (lambda: losses.distillation_kl(S, T, axis=2), r"student_logits: .*axis 2, got shape \(2, 3\)"),
    (lambda: losses.distillation_kl(S[:, :0], T[:, :0]), "student_logits: .*at least one class"),
    (lambda: losses.distillation_kl(S, T, where=np.ones(3)), "where: .*bool mask, got dtype float"),
    (lambda: losses.distillation_kl(S, T, where=np.ones(2, bool)), r"where: .*\(2, 3\), got"),
    (lambda: losses.distillation_kl(S, T, where=np.ones(2, bool)), r"where: .*where\[:, None\]"),
    (lambda: losses.distillation_kl(S, T, where=np.ones((2, 3))), r"where: .*where.astype\(bool\)"),
    (lambda: losses.cross_entropy(S, np.eye(3, dtype=int)[Y]), "labels: .*cast one-hot .*float32"),
    (lambda: losses.cross_entropy(S, Y.astype(float)), "labels: .*cast class indices to int32"),
    (lambda: losses.standardize(S, ddof=2), "ddof: .*got 2"),
    (lambda: losses.distillation_kl(S > 0, T), "student_logits: .*got dtype bool"),
    (lambda: losses.logit_standardization_kl(S, T, ddof=2), "ddof: .*got 2"),
    (lambda: losses.cross_entropy(S, np.array([0, 3])), "labels: .*from 0 to 2, got 0 to 3"),
    (lambda: losses.cross_entropy(S, np.array([-1, 0])), "labels: .*from 0 to 2, got -1 to 0"),
    (lambda: losses.cross_entropy(S, np.array([0])), r"labels: .*\(2,\), .*got \(1,\)"),
    (lambda: losses.cross_entropy(S, np.eye(3, dtype=int)[Y]), r"labels: .*got \(2, 3\)"),
    (lambda: losses.cross_entropy(S, T), "labels: .*sum 1.*got sum 3"),
    (lambda: losses.cross_entropy(S, np.array([[2.0, -1, 0]] * 2)), "labels: .*minimum -1"),
    (lambda: losses.cross_entropy(S, np.ones(2)), r"labels: .*\(2, 3\), got \(2,\)"),
    (lambda: losses.distillation_loss(S, T, ce_weight=0.5), "labels: .*ce_weight=0.5, got None"),
    (lambda: losses.distillation_loss(S, T, kd_weight=-1.0), "kd_weight: .*at least 0, got -1"),
    (lambda: losses.decoupled_kl(S, T, np.eye(3)[Y]), "labels: .*got dtype float"),
    (lambda: losses.decoupled_kl(S, T, Y, target_weight=-1), "target_weight: .*got -1"),
    (lambda: losses.sample_confidence_kl(S, T, Y, temperature=0), "temperature: .*got 0"),
    (lambda: losses.masked_correlation_kl(S, T, Y + 1), "labels: .*from 0 to 2, got 1 to 3"),
    (lambda: losses.relational_loss(S[0], T[0]), r"student_logits: .*got shape \(3,\)"),
    (lambda: losses.relational_loss(S, T, inter_weight=-2), "inter_weight: .*got -2"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[m for _, m in ERRORS])
def test_errors_name_the_argument_and_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
