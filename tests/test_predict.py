import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkd_jax import models
from mixkd_jax.data import Split
from mixkd_jax.evaluation.predict import create_predict, predict_all
from mixkd_jax.models.network import Network
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import OnDevice

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (21, 8, 8, 1)).astype(np.uint8)
NETWORK = Network(models.create_model("cnn", num_classes=5), (0.3,), (0.4,))
VARIABLES = jax.jit(NETWORK.init, static_argnums=1)(jax.random.key(0), (8, 8, 1))


def predict_with(batch_size, devices=None):
    mesh = sharding.data_mesh(devices)
    images = OnDevice.put(Split(IMAGES, np.zeros(21, np.int32)), mesh)
    variables = jax.device_put(VARIABLES, sharding.replicated(mesh))
    predict = create_predict(NETWORK, mesh=mesh, batch_size=batch_size)
    return predict, variables, images


@pytest.fixture(scope="module")
def pairs():
    i, j = RNG.integers(0, 21, (2, 30)).astype(np.int32)
    return i, j, RNG.random(30).astype(np.float32)


@pytest.mark.parametrize(("batch_size", "devices"), [(8, None), (13, 1)])
def test_predictions_are_the_network_s_for_the_mixture(pairs, batch_size, devices):
    i, j, lam = pairs
    predict, *of = predict_with(batch_size, jax.devices()[:devices])
    found = predict(*of, i, j, lam)
    weight = lam[:, None, None, None]
    mixed = (weight * IMAGES[i] + (1 - weight) * IMAGES[j]).astype(np.float32)
    mixed = jnp.asarray(mixed)
    np.testing.assert_allclose(
        found.logits, jax.jit(NETWORK.logits)(VARIABLES, mixed), rtol=1e-4, atol=1e-5
    )
    features = NETWORK.module.apply(VARIABLES, NETWORK.preprocess(mixed), method="features")
    np.testing.assert_allclose(found.features, np.asarray(features), rtol=1e-4, atol=1e-5)


def test_weight_one_predicts_for_the_image_itself():
    index = np.arange(21, dtype=np.int32)
    predict, *of = predict_with(8)
    found = predict(*of, index, index[::-1].copy(), np.ones(21, np.float32))
    own = jax.jit(NETWORK.logits)(VARIABLES, jnp.asarray(IMAGES, jnp.float32))
    np.testing.assert_allclose(found.logits, own, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(predict_all(predict, *of), found.logits)
