import functools
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mixkd_jax.models import create_model, imagenet, layers, model_names, standardize
from mixkd_jax.models.cnn import PatchConv
from mixkd_jax.models.wrn import PreActivationBlock

SMALL = ("cnn", "resnet8", "wrn-16-1")  # one a family
X4 = (32, 64, 128, 256)
CIFAR = (16, 16, 32, 64)


@functools.cache
def _shapes(name, classes, channels=3):
    """Returns the shapes of a model's variables without computing anything."""
    model = create_model(name, num_classes=classes)
    images = jnp.zeros((1, 32, 32, channels))
    return jax.eval_shape(model.init, jax.random.key(0), images)


def _apply(module, *args, **kwargs) -> Any:
    """Applies without the union type that Flax declares for what comes back."""
    return module.apply(*args, **kwargs)


def _count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@functools.cache
def _initialised(name, dtype="float32", **options):
    model = create_model(name, num_classes=10, dtype=dtype, **options)
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 1))
    return model, jax.jit(model.init)(jax.random.key(0), images), images


def _resnet_parameters(depth, widths, classes):
    """Counts by the papers: 9ab a 3x3 convolution, ab a 1x1, 2a a BatchNorm, ac + c the end."""
    stem, *stages = widths
    total, width = 27 * stem + 2 * stem, stem
    for stage, filters in enumerate(stages):
        for block in range((depth - 2) // 6):
            total += 9 * width * filters + 9 * filters * filters + 2 * 2 * filters
            if block == 0 and (stage > 0 or width != filters):
                total += width * filters + 2 * filters
            width = filters
    return total + width * classes + classes


def _wrn_parameters(depth, factor, classes):
    total, width = 27 * 16, 16
    for filters in (16 * factor, 32 * factor, 64 * factor):
        for _ in range((depth - 4) // 6):
            total += 2 * width + 9 * width * filters + 2 * filters + 9 * filters * filters
            total += width * filters if width != filters else 0
            width = filters
    return total + 2 * width + width * classes + classes


@pytest.mark.parametrize(
    ("name", "expected"),
    [(f"resnet{d}", _resnet_parameters(d, CIFAR, 100)) for d in (8, 14, 20, 32, 44, 56, 110)]
    + [(f"resnet{d}x4", _resnet_parameters(d, X4, 100)) for d in (8, 32)]
    + [
        (f"wrn-{d}-{k}", _wrn_parameters(d, k, 100))
        for d, k in ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10))
    ],
)
def test_parameter_counts_follow_from_the_layers(name, expected):
    assert _count(_shapes(name, 100)["params"]) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The counts that users of RepDistiller and mdistiller report for CIFAR-100.
        ("resnet8x4", 1_233_540),
        ("resnet20", 278_324),
        ("resnet32", 472_756),
        ("resnet32x4", 7_433_860),
        ("resnet56", 861_620),
        ("resnet110", 1_736_564),
        ("wrn-16-2", 703_284),
        ("wrn-40-1", 569_780),
        ("wrn-40-2", 2_255_156),
    ],
)
def test_parameter_counts_of_the_distillation_literature(name, expected):
    assert _count(_shapes(name, 100)["params"]) == expected


@pytest.mark.parametrize(
    ("name", "millions"),
    # He et al., table 6, whose shortcuts have no parameters: ours have two of 1x1 and BatchNorm.
    [("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)],
)
def test_parameter_counts_of_the_resnet_paper(name, millions):
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    count = _count(_shapes(name, 10)["params"]) - projections
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("name", "millions"),
    # Zagoruyko and Komodakis, tables 2 and 4.
    [("wrn-40-1", 0.6), ("wrn-40-2", 2.2), ("wrn-28-10", 36.5)],
)
def test_parameter_counts_of_the_wrn_paper(name, millions):
    assert _count(_shapes(name, 10)["params"]) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", sorted(set(model_names()) - set(imagenet.NAMES)))
def test_every_model_gives_float32_logits_and_features(name):
    model = create_model(name, num_classes=7, dtype="bfloat16")
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits = jax.eval_shape(model.apply, variables, images)
    features = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert features.dtype == jnp.float32
    assert variables["params"]["classifier"]["kernel"].shape == (features.shape[1], 7)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_what_float32_does_to_its_precision(name):
    model, variables, images = _initialised(name)
    half = create_model(name, num_classes=10, dtype="bfloat16")
    want = jax.jit(model.apply)(variables, images)
    got = jax.jit(half.apply)(variables, images)
    assert not np.array_equal(got, want)
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("name", SMALL)
def test_training_updates_statistics_with_finite_gradients(name):
    model, variables, images = _initialised(name)

    @jax.jit
    def value_and_grad(params):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.square(logits - 1).mean(), updates["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, stats), grads = value_and_grad(variables["params"])
    for old, new in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(stats), strict=True
    ):
        assert new.dtype == jnp.float32 and not np.array_equal(old, new)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_is_pure_and_per_example(name):
    model, variables, images = _initialised(name)
    evaluate = jax.jit(functools.partial(model.apply, mutable=["batch_stats", "intermediates"]))
    logits, updates = evaluate(variables, images)
    assert not updates.get("intermediates")
    jax.tree.map(
        np.testing.assert_array_equal, updates["batch_stats"], dict(variables["batch_stats"])
    )
    np.testing.assert_allclose(evaluate(variables, images[:3])[0], logits[:3], rtol=1e-4, atol=1e-5)


def test_batchnorm_follows_pytorch_momentum_and_epsilon():
    norm = layers.BatchNorm(use_running_average=False)
    x = np.array([[1.0], [5.0]], np.float32)
    variables = norm.init(jax.random.key(0), x)
    y, updates = _apply(norm, variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - 3) / np.sqrt(4 + 1e-5), rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.9 * 0 + 0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [0.9 * 1 + 0.1 * 4], rtol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_sharded_training_uses_the_statistics_of_the_global_batch(name):
    model, variables, images = _initialised(name)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, updates = train(variables, images)
    devices = jax.devices()[: min(8, jax.device_count())]
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices)
    sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    copies = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    got_logits, got_updates = train(copies, sharded)
    np.testing.assert_allclose(got_logits, logits, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), got_updates, updates
    )


def test_convolutions_start_with_he_fan_out():
    _, variables, _ = _initialised("resnet8")
    kernel = np.asarray(variables["params"]["blocks_2"]["Conv_1"]["kernel"])
    assert kernel.shape == (3, 3, 64, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.03)


def test_patch_convolution_equals_a_strided_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    patches, conv = PatchConv(5, jnp.float32), layers.conv(5, 3, stride=2, dtype=jnp.float32)
    variables: Any = patches.init(jax.random.key(1), x)
    kernel = variables["params"]["Dense_0"]["kernel"].reshape(3, 3, 3, 5)
    want = _apply(conv, {"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(_apply(patches, variables, x), want, rtol=1e-5, atol=1e-5)


def test_strided_convolutions_pad_both_sides():
    conv = layers.conv(1, 3, stride=2, dtype=jnp.float32)
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    y = conv.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)
    want = [[0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7]]
    np.testing.assert_allclose(np.asarray(y)[0, :1, :, 0], want)


def test_dropout_needs_a_key_only_when_it_trains():
    model: Any = create_model("wrn-16-1", num_classes=2, dropout=0.5)
    assert model.dropout == 0.5
    block = PreActivationBlock(filters=4, stride=1, dropout=0.5, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    variables = block.init(jax.random.key(1), x, False)
    train = functools.partial(_apply, block, variables, x, True, mutable=["batch_stats"])
    first, second = (train(rngs={"dropout": jax.random.key(seed)})[0] for seed in (0, 1))
    assert not np.array_equal(first, second)
    with pytest.raises(flax.errors.InvalidRngError):
        train()


def test_width_is_an_option_of_the_cnn():
    _, variables, _ = _initialised("cnn", width=4)
    assert variables["params"]["convs_1"]["Dense_0"]["kernel"].shape == (36, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet55", {}, "model name: expected one of cnn, .*resnet56.*got 'resnet55'.*did you"),
        ("wrn_40_2", {}, "did you mean 'wrn-40-2'"),
        ("cnn", {"widht": 3}, "option of model 'cnn': expected one of width; .*mean 'width'"),
        ("resnet20", {"width": 3}, r"'resnet20': expected one of \(none\); got 'width'"),
        ("cnn", {"width": 0}, "width: expected a positive integer, got 0"),
        ("wrn-16-1", {"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ("cnn", {"num_classes": 0}, "num_classes: expected a positive integer, got 0"),
        ("cnn", {"dtype": "int32"}, "dtype: expected a floating dtype, got 'int32'"),
    ],
)
def test_a_wrong_argument_names_the_right_ones(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **{"num_classes": 10, **options})


def test_models_refuse_images_that_are_not_preprocessed():
    model, variables, _ = _initialised("cnn")
    with pytest.raises(ValueError, match=r"images: .*uint8\[2, 8, 8, 1\]"):
        model.apply(variables, jnp.zeros((2, 8, 8, 1), jnp.uint8))
    with pytest.raises(ValueError, match=r"images: .*float32\[8, 8, 1\]"):
        model.apply(variables, jnp.zeros((8, 8, 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_standardize(dtype):
    images = np.array([[[[0, 51, 255]]]], dtype)
    got = jax.jit(standardize)(images, [0.5, 0.1, 0.0], [0.5, 0.2, 2.0])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(got).ravel(), [-1.0, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(
        standardize(jnp.asarray(images), 0.0, 1.0), images / 255.0, rtol=1e-3
    )


def test_standardize_refuses_another_number_of_channels():
    with pytest.raises(ValueError, match=r"std: expected 1 or 3 values .* got shape \[2\]"):
        standardize(jnp.zeros((1, 2, 2, 3)), 0.5, [1.0, 1.0])
