"""The CPU's BatchNorm is Flax's: against it, and against NumPy in float64."""

import functools

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkd_jax.models import batch_norm
from mixkd_jax.models.batch_norm import BatchNorm, normalize

# 16 values a channel at least: with fewer a variance may be next to nothing by chance.
SHAPES = [(8, 5, 7, 3), (24, 1, 1, 16), (2, 9, 1, 4), (1, 4, 4, 32)]
EPSILON = 1e-5


def drawn(shape, seed=None):
    rng = np.random.default_rng(seed)
    x, g = rng.standard_normal((2, *shape))
    scale, bias = rng.uniform(0.5, 2, shape[-1]), rng.standard_normal(shape[-1])
    return [a.astype(np.float32) for a in (3 * x + 2, scale, bias, g)]


def reference(x, scale, bias, g):
    """y, mean, variance, and the gradients of sum(g y), in float64 and in closed form."""
    x, scale, bias, g = (a.astype(np.float64) for a in (x, scale, bias, g))
    every = tuple(range(x.ndim - 1))
    mean, var = x.mean(every), x.var(every)
    normal = (x - mean) / np.sqrt(var + EPSILON)
    along = normal * (g * normal).mean(every)
    in_x = scale / np.sqrt(var + EPSILON) * (g - g.mean(every) - along)
    return normal * scale + bias, mean, var, in_x, (g * normal).sum(every), g.sum(every)


def both(x, scale, bias, g):
    function = functools.partial(normalize, epsilon=EPSILON)
    (y, mean, var), pull = jax.vjp(function, x, scale, bias)
    return (y, mean, var, *pull((g, jnp.zeros_like(mean), jnp.zeros_like(var))))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f], ids=["jit", "plain"])
def test_values_and_gradients_are_those_of_numpy(shape, wrap):
    arrays = drawn(shape)
    for got, want in zip(wrap(both)(*map(jnp.asarray, arrays)), reference(*arrays), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * max(1, np.abs(want).max()))


def layer(kind, dtype, **options):
    return kind(use_running_average=False, momentum=0.8, epsilon=1e-3, dtype=dtype, **options)


UNUSUAL = [
    {"use_scale": False},
    {"use_scale": False, "use_bias": False},
    {"param_dtype": "bfloat16"},
    {"use_fast_variance": False},
    {"force_float32_reductions": False},
    {"axis": (-1,)},
]


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, *UNUSUAL], ids=str)
def test_a_training_step_is_that_of_flax(dtype, options):
    x, _, _, g = drawn((8, 6, 5, 12))
    x = x.astype(dtype or "float32")
    ours, flax = (layer(kind, dtype, **options) for kind in (BatchNorm, nn.BatchNorm))
    variables = ours.init(jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(flax.init(jax.random.key(0), x))

    def step(module):
        def loss(params, x):
            changed = {**variables, "params": params}
            y, updates = module.apply(changed, x, mutable=["batch_stats"])
            return jnp.sum(y.astype(jnp.float32) * g), (y, updates)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(variables.get("params", {}), x)

    got, want = step(ours), step(flax)
    rough = 2e-2 if dtype == "bfloat16" else 1e-4

    def close(a, b):
        assert a.dtype == b.dtype
        a, b = (np.asarray(v, np.float32) for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=rough, atol=rough * max(1, np.abs(b).max()))

    jax.tree.map(close, got, want)


def test_channels_that_are_constant_stay_finite():
    x, scale, bias, g = drawn((4, 6, 6, 5))
    x[..., 1], x[..., 2] = 1e4, 0
    found = both(*map(jnp.asarray, (x, scale, bias, g)))
    assert all(np.isfinite(a).all() for a in found)
    np.testing.assert_allclose(found[0][..., 2], np.full((4, 6, 6), bias[2]), rtol=1e-6)


def test_mean_and_variance_have_no_gradient():
    x, scale, bias, _ = map(jnp.asarray, drawn((4, 3, 3, 2)))
    for which in (1, 2):
        found = jax.grad(lambda x, k=which: normalize(x, scale, bias, EPSILON)[k].sum())(x)
        np.testing.assert_array_equal(found, np.zeros_like(x))


def test_what_is_missing_is_named_as_flax_names_it():
    x = jnp.asarray(drawn((4, 3, 3, 2))[0])
    module = BatchNorm(use_running_average=False)
    variables = module.init(jax.random.key(0), x)
    with pytest.raises(flax.errors.ScopeCollectionNotFound, match="params"):
        module.apply({"batch_stats": variables["batch_stats"]}, x, mutable=["batch_stats"])
    with pytest.raises(flax.errors.ScopeParamShapeError, match="scale"):
        short = {"scale": jnp.ones(1), "bias": jnp.ones(1)}
        module.apply({**variables, "params": short}, x, mutable=["batch_stats"])
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        module.apply(variables, x)


def test_it_is_for_training_on_a_cpu(monkeypatch):
    x = jnp.asarray(drawn((4, 3, 3, 2))[0])
    used = []

    def noted(*args):
        used.append(args)
        return normalize(*args)

    monkeypatch.setattr(batch_norm, "normalize", noted)
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x, use_running_average=False)
    evaluated = module.apply(variables, x, use_running_average=True)
    expected = nn.BatchNorm().apply(variables, x, use_running_average=True)
    np.testing.assert_array_equal(np.asarray(evaluated), np.asarray(expected))
    flat = jnp.ones((4, 2))
    module.apply(variables, flat, use_running_average=False, mutable=["batch_stats"])
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        module.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    for options in UNUSUAL:
        other = BatchNorm(use_running_average=False, **options)
        other.init_with_output(jax.random.key(0), x)
        other.apply(other.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    assert not used
    module.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    assert len(used) == 1
