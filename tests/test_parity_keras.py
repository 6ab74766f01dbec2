"""Our models give what Keras' give with the same weights, which pass through files by Keras."""

import collections
import functools
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported
keras = pytest.importorskip("keras", reason="needs Keras: pip install keras h5py")

import keras_references as references  # noqa: E402
from smooth_images import smooth_images  # noqa: E402

from mixkd_jax.models import create_model, heads, pixel_statistics  # noqa: E402
from mixkd_jax.models.convnext import ConvNeXt  # noqa: E402
from mixkd_jax.models.network import Network  # noqa: E402
from mixkd_jax.models.resnet_imagenet import ResNetV1, ResNetV2  # noqa: E402
from mixkd_jax.models.vit import ViT  # noqa: E402
from mixkd_jax.weights import load_weights  # noqa: E402

# Keras 3 converts JAX arrays to NumPy without the keyword `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = 10
TINY: dict[str, Any] = {"depths": (1, 1, 2, 1), "widths": (16, 32, 48, 64)}
SMALL_VIT = {"num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}


def _classifier(backbone, head):
    return heads.Classifier(backbone, heads.make_head(head, CLASSES))


# Our model and Keras', both with fewer blocks where the family is deep: a family's layers are all
# there. By name: the full ones, compared in the slow test.
SMALL = {
    "resnet18": lambda: create_model("resnet18", num_classes=CLASSES),
    "resnet50": lambda: _classifier(ResNetV1(blocks=(1, 2, 2, 1)), "student"),
    "mobilenet_v2": lambda: create_model("mobilenet_v2", num_classes=CLASSES),
    "resnet152v2": lambda: _classifier(ResNetV2(blocks=(2, 2, 3, 2)), "teacher"),
    "convnext_tiny": lambda: _classifier(ConvNeXt(**TINY), "teacher"),
    "convnext_imagenet": lambda: _classifier(ConvNeXt(**TINY, pool_first=True), "imagenet"),
    "vit_b16": lambda: _classifier(ViT(depth=2, width=32, heads=4, mlp_width=64), "teacher"),
}
SMALL_KERAS = {
    "resnet18": references.resnet18,
    "resnet50": functools.partial(references.resnet50, blocks=(1, 2, 2, 1)),
    "mobilenet_v2": references.mobilenet_v2,
    "resnet152v2": functools.partial(references.resnet152v2, blocks=(2, 2, 3, 2)),
    "convnext_tiny": functools.partial(references.convnext_teacher, **TINY, name="convnext_tiny"),
    "convnext_imagenet": functools.partial(
        references.convnext_imagenet, **TINY, name="convnext_tiny"
    ),
    "vit_b16": functools.partial(references.vit, **SMALL_VIT),
}
FULL_KERAS = {
    "resnet18": references.resnet18,
    "resnet50": references.resnet50,
    "mobilenet_v2": references.mobilenet_v2,
    "resnet152v2": references.resnet152v2,
    "convnext_tiny": functools.partial(
        references.convnext_teacher,
        depths=(3, 3, 9, 3),
        widths=(96, 192, 384, 768),
        name="convnext_tiny",
    ),
    "convnext_large": functools.partial(
        references.convnext_teacher,
        depths=(3, 3, 27, 3),
        widths=(192, 384, 768, 1536),
        name="convnext_large",
    ),
    "vit_b16": functools.partial(
        references.vit, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072
    ),
}
WITH_STATISTICS = ["resnet18", "resnet50", "mobilenet_v2", "resnet152v2"]


class Pair(NamedTuple):
    network: Network
    variables: dict[str, Any]
    keras_model: Any
    call: Any
    pixels: np.ndarray
    keras_images: np.ndarray


def _pair(name, model, keras_model, size, folder):
    """Random weights in Keras, saved by Keras, loaded by us; pixels and what the paper feeds."""
    statistics = pixel_statistics(name.replace("imagenet", "tiny"))
    pixels = smooth_images(4, size)
    images = pixels
    if name == "vit_b16":
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        images = ((pixels / 255 - mean) / std).astype("float32")
    references.randomize(keras_model)
    call = references.forward(keras_model)
    references.calibrate(keras_model, call, images)
    path = Path(folder) / f"{name}.keras"
    keras_model.save(path)
    variables = load_weights(path, model, (size, size, 3))
    return Pair(Network(model, *statistics), variables, keras_model, call, pixels, images)


@functools.cache
def _small(name):
    with tempfile.TemporaryDirectory() as folder:
        return _pair(name, SMALL[name](), SMALL_KERAS[name](64, CLASSES), 64, folder)


def _assert_same_logits(pair, tolerance):
    ours = np.asarray(jax.jit(pair.network.logits)(pair.variables, pair.pixels))
    values = references.values(pair.keras_model)
    theirs = np.asarray(pair.call(values, pair.keras_images, False)[0])
    spread = np.abs(theirs - theirs.mean(0)).max()
    assert spread > 0.01 * np.abs(theirs).max()  # the logits do depend on the image
    assert np.abs(ours - theirs).max() <= tolerance * spread


def _tolerance(name):
    return 3e-4 if name == "mobilenet_v2" else 1e-4


SLOW = ("convnext_tiny", "mobilenet_v2", "resnet152v2")
each_small = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SMALL]
)


@each_small
def test_logits_equal_those_of_keras(name):
    _assert_same_logits(_small(name), _tolerance(name))


@each_small
def test_every_weight_is_used_once(name):
    pair = _small(name)

    def fingerprints(arrays):
        return collections.Counter(np.sort(np.asarray(a), axis=None).tobytes() for a in arrays)

    theirs = fingerprints(weight.value for weight in references.weights(pair.keras_model))
    assert set(theirs.values()) == {1}
    assert fingerprints(jax.tree.leaves(pair.variables)) == theirs
    expected = jax.eval_shape(pair.network.module.init, jax.random.key(0), pair.pixels)
    assert jax.tree.structure(expected) == jax.tree.structure(pair.variables)
    for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(pair.variables), strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)


@each_small
def test_constants_of_normalisation_are_those_of_keras(name):
    """Too small to show in the logits: epsilons, and the momentum of the statistics."""
    pair, ours = _small(name), set()

    def record(call, args, kwargs, context):
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.BatchNorm | nn.LayerNorm):
            ours.add((module.path, module.epsilon, getattr(module, "momentum", None)))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(pair.network.logits, pair.variables, pair.pixels)
    theirs = [
        (layer.epsilon, getattr(layer, "momentum", None))
        for layer in pair.keras_model._flatten_layers()
        if type(layer).__name__ in ("BatchNormalization", "LayerNormalization")
    ]
    assert len(theirs) > 4
    assert collections.Counter(constants[1:] for constants in ours) == collections.Counter(theirs)


@pytest.fixture
def as_users_compile():
    """With XLA's optimizations, which round less than the light compilation of the other tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "resnet50" else pytest.param(name, marks=pytest.mark.slow)
        for name in WITH_STATISTICS
    ],
)
def test_training_updates_the_statistics_as_keras_does(name, as_users_compile):
    pair = _small(name)
    step = jax.jit(pair.network.train_logits)
    _, ours = step(pair.variables, pair.pixels, jax.random.key(0))
    values = references.values(pair.keras_model)
    _, updated = pair.call(values, pair.keras_images, True)
    paths = [weight.path for weight in pair.keras_model.non_trainable_variables]
    compared = 0
    for path, before, theirs in zip(paths, values[1], updated, strict=True):
        layer, kind = path.split("/")[-2:]
        if kind not in ("moving_mean", "moving_variance"):
            continue
        tree = ours["backbone"].get(layer) or ours["head"]["hidden_bn"]
        got = np.asarray(tree["mean" if kind == "moving_mean" else "var"])
        change = np.asarray(theirs - before)
        assert np.abs(change).max() > 0
        error = np.abs(got - np.asarray(theirs)).max()
        assert error <= 1e-3 * np.abs(change).max() + 1e-6 * np.abs(before).max(), path
        compared += 1
    assert compared == len(jax.tree.leaves(ours))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "vit_b16"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_other_formats_give_the_same_variables(name, suffix, tmp_path):
    pair = _small(name)
    path = tmp_path / f"saved{suffix}"
    if suffix == ".h5":
        references.save_legacy(pair.keras_model, path)
    else:
        pair.keras_model.save_weights(path)
    loaded = load_weights(path, pair.network.module, (64, 64, 3))
    jax.tree.map(np.testing.assert_array_equal, loaded, pair.variables)


def test_a_vit_loads_from_weights_alone_and_from_a_flat_model(tmp_path):
    pair = _small("vit_b16")
    pair.keras_model.save_weights(tmp_path / "nested.weights.h5")
    backbone = next(layer for layer in pair.keras_model.layers if layer.name.startswith("vi_t"))
    logits = pair.keras_model.layers[-1]
    flat = keras.Model(backbone.input, logits(backbone.output[:, 0, :]))
    flat.save(tmp_path / "flat.keras")
    for file in ("nested.weights.h5", "flat.keras"):
        loaded = load_weights(tmp_path / file, pair.network.module, (64, 64, 3))
        jax.tree.map(np.testing.assert_array_equal, loaded, pair.variables)


def test_a_nested_backbone_loads_too(tmp_path):
    base = SMALL_KERAS["convnext_tiny"](64, CLASSES)
    features = keras.Model(base.input, base.layers[-3].output)
    inputs = keras.Input((64, 64, 3))
    nested = keras.Model(inputs, keras.layers.Dense(CLASSES)(features(inputs)))
    references.randomize(nested)
    nested.save(tmp_path / "nested.keras")
    loaded = load_weights(tmp_path / "nested.keras", SMALL["convnext_tiny"](), (64, 64, 3))
    kernel = loaded["params"]["head"]["logits"]["kernel"]
    np.testing.assert_array_equal(kernel, np.asarray(nested.layers[-1].kernel.value))
    scale = loaded["params"]["backbone"]["layernorm"]["scale"]
    np.testing.assert_array_equal(scale, np.asarray(base.layers[-4].gamma.value))


@pytest.mark.full
@pytest.mark.parametrize("name", FULL_KERAS)
def test_full_models_equal_keras_at_224_pixels(name, tmp_path):
    model = create_model(name, num_classes=100)
    pair = _pair(name, model, FULL_KERAS[name](224, 100), 224, tmp_path)
    _assert_same_logits(pair, _tolerance(name))
