import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from mixkd_jax import config
from mixkd_jax.config import ConfigError
from mixkd_jax.models import create_model
from mixkd_jax.training.optimizers import OPTIMIZERS, create_optimizer, decayed

RATES = [0.1, 0.05, 0.2]
RNG = np.random.default_rng(0)
START = {
    "dense": {"kernel": RNG.normal(size=(3, 4)), "bias": RNG.normal(size=4)},
    "norm": {"scale": RNG.normal(size=4), "bias": RNG.normal(size=4)},
}
GRADS = [jax.tree.map(lambda x: RNG.normal(size=x.shape), START) for _ in RATES]


def _settings(**changes):
    return dataclasses.replace(config.parse(small.default_values()).student.optimizer, **changes)


def _trained(settings):
    optimizer = create_optimizer(settings, lambda step: jnp.asarray(RATES)[step], path="optimizer")
    params = jax.tree.map(jnp.float32, START)
    state = optimizer.init(params)
    for grads in GRADS:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, grads), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _by_hand(rule, weight_decay):
    """Applies `rule(param, grad, memory, step, decay)` to each parameter in float64."""
    params = {}
    for layer, leaves in START.items():
        for name, value in leaves.items():
            value, memory = value.copy(), {}
            for step, grads in enumerate(GRADS):
                decay = weight_decay if name == "kernel" else 0.0
                value = rule(value, grads[layer][name], memory, step, decay)
            params.setdefault(layer, {})[name] = value
    return params


def _same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, want)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_pytorchs(momentum, nesterov):
    """The rule of torch.optim.SGD's documentation, dampening 0."""
    settings = _settings(name="sgd", momentum=momentum, nesterov=nesterov, weight_decay=0.03)

    def rule(param, grad, memory, step, decay):
        grad = grad + decay * param
        memory["b"] = momentum * memory["b"] + grad if step else grad
        direction = grad + momentum * memory["b"] if nesterov else memory["b"]
        return param - RATES[step] * direction

    _same(_trained(settings), _by_hand(rule, 0.03))


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam_and_adamw_are_those_of_the_papers(decoupled):
    name = "adamw" if decoupled else "adam"
    settings = _settings(name=name, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1)

    def rule(param, grad, memory, step, decay):
        grad = grad if decoupled else grad + decay * param
        memory["m"] = 0.8 * memory.get("m", 0) + 0.2 * grad
        memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * grad**2
        m, v = memory["m"] / (1 - 0.8 ** (step + 1)), memory["v"] / (1 - 0.95 ** (step + 1))
        direction = m / (np.sqrt(v) + 1e-3) + (decay * param if decoupled else 0)
        return param - RATES[step] * direction

    _same(_trained(settings), _by_hand(rule, 0.1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_0_changes_nothing_but_by_the_gradient(name):
    optimizer = create_optimizer(
        _settings(name=name, weight_decay=0.0), lambda step: 0.1, path="optimizer"
    )
    params = jax.tree.map(jnp.float32, START)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", ["cnn", "resnet8", "wrn-16-1", "mobilenet_v2", "vit_b16"])
def test_no_bias_or_normalisation_is_decayed(name):
    model = create_model(name, num_classes=10)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    flags = jax.tree_util.tree_leaves_with_path(decayed(params))
    names = {True: set(), False: set()}
    for path, flag in flags:
        names[flag].add(path[-1].key)
    assert {"bias", "scale"} >= names[False] and "kernel" in names[True]
    assert not {"bias", "scale"} & names[True]


def test_clipping_is_by_the_global_norm_and_comes_first():
    plain = _settings(name="sgd", momentum=0.0, nesterov=False, weight_decay=0.0)
    clipped = dataclasses.replace(plain, clip_norm=0.5)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    for grads, factor in (
        ({"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}, 0.1),  # of norm 5
        ({"a": jnp.array([0.3, 0.0]), "b": jnp.array([0.2])}, 1.0),
    ):
        optimizer = create_optimizer(clipped, lambda step: 1.0, path="optimizer")
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        want = jax.tree.map(lambda grad, factor=factor: -factor * grad, grads)
        _same(updates, want)
    decayed_first = dataclasses.replace(clipped, weight_decay=100.0)
    optimizer = create_optimizer(decayed_first, lambda step: 1.0, path="optimizer")
    params = {"kernel": jnp.ones((2, 2))}
    grads = {"kernel": jnp.full((2, 2), 2.0)}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    _same(updates, {"kernel": -(0.25 + 100.0) * np.ones((2, 2))})


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match='optimizer.name: expected one of sgd, adam, .*"sdg"'):
        create_optimizer(_settings(name="sdg"), lambda step: 0.1, path="optimizer")
