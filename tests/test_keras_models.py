"""The models of ImageNet without Keras or PyTorch: sizes, heads, freezing and precision."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkd_jax.models import create_model, heads, imagenet, pixel_statistics
from mixkd_jax.models.convnext import ConvNeXt
from mixkd_jax.models.network import Network
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.models.vit import ViT

# Weights without classifier, statistics included, as keras.applications, keras_hub and
# image-classifiers count them.
COUNTS = {
    "resnet18": 11_186_889,
    "resnet50": 23_587_712,
    "mobilenet_v2": 2_257_984,
    "resnet152v2": 58_331_648,
    "convnext_tiny": 27_820_128,
    "convnext_large": 196_230_336,
    "vit_b16": 85_798_656,
}
FEATURES = {
    "resnet18": 512,
    "resnet50": 2048,
    "mobilenet_v2": 1280,
    "resnet152v2": 2048,
    "convnext_tiny": 768,
    "convnext_large": 1536,
    "vit_b16": 768,
}


@functools.cache
def _shapes(name, **options):
    model = create_model(name, num_classes=7, dtype="bfloat16", **options)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    return model, images, jax.eval_shape(model.init, jax.random.key(0), images)


def _count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@functools.cache
def _small(kind="student", dtype="float32"):
    backbone = ResNet18(blocks=(1, 1), dtype=dtype)
    model = heads.Classifier(backbone, heads.make_head(kind, 5))
    images = jax.random.uniform(jax.random.key(1), (8, 32, 32, 3), maxval=255.0)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


def test_every_model_is_counted():
    keras = {name for name in imagenet.NAMES if not name.endswith("_torch")}
    assert keras == set(COUNTS) == set(FEATURES)


@pytest.mark.parametrize("name", COUNTS)
def test_backbones_have_as_many_weights_as_the_originals(name):
    _, _, variables = _shapes(name)
    assert sum(_count(tree["backbone"]) for tree in variables.values()) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    # Parameters with a thousand classes, as torchvision's documentation gives them.
    [
        ("resnet18_torch", 11_689_512),
        ("resnet50_torch", 25_557_032),
        ("mobilenet_v2_torch", 3_504_872),
        ("convnext_tiny_torch", 28_589_128),
        ("convnext_large_torch", 197_767_336),
        ("vit_b16_torch", 86_567_656),
        ("vit_b16_avg_torch", 86_567_656),
    ],
)
def test_pytorchs_variants_have_as_many_parameters_as_the_originals(name, expected):
    model = create_model(name, num_classes=1000)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert _count(variables["params"]) == expected
    assert set(variables["params"]["head"]) == {"logits"}


@pytest.mark.parametrize("name", COUNTS)
def test_logits_features_and_variables_are_float32(name):
    model, images, variables = _shapes(name)
    logits = jax.eval_shape(model.apply, variables, images)
    features = jax.eval_shape(functools.partial(model.apply, method="features"), variables, images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert (features.shape, features.dtype) == ((2, FEATURES[name]), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", COUNTS)
def test_heads_are_the_papers(name):
    student = name in ("resnet18", "resnet50", "mobilenet_v2")
    head = jax.tree.map(lambda leaf: leaf.shape, _shapes(name)[2]["params"]["head"])
    if student:
        assert head["hidden"] == {"kernel": (FEATURES[name], 256)}
        assert head["logits"] == {"kernel": (256, 7), "bias": (7,)}
        assert head["hidden_bn"] == {"scale": (256,), "bias": (256,)}
    else:
        assert head == {"logits": {"kernel": (FEATURES[name], 7), "bias": (7,)}}
    assert ("head" in _shapes(name)[2].get("batch_stats", {})) == student


@pytest.mark.parametrize(("kind", "rate"), [("student", 0.3), ("teacher", 0.3), ("imagenet", 0.0)])
def test_dropout_belongs_to_training_and_to_the_papers_heads(kind, rate):
    head = heads.make_head(kind, 256)
    features = jax.random.uniform(jax.random.key(1), (64, 256), minval=1.0, maxval=2.0)
    variables: dict[str, Any] = dict(head.init(jax.random.key(0), features, False))
    variables["params"]["logits"]["kernel"] = jnp.eye(256)  # logits show what dropout left
    logits: Any = head.apply(
        variables, features, True, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"]
    )
    # Half of what BatchNorm and ReLU of the student's give is zero without dropout.
    kept = 0.5 * (1 - rate) if kind == "student" else 1 - rate
    assert float((logits[0] != 0).mean()) == pytest.approx(kept, abs=0.02)
    kept = 0.5 if kind == "student" else 1
    variables.setdefault("batch_stats", {}).update(
        hidden_bn={"mean": 1.5 * jnp.ones(256), "var": jnp.ones(256)}
    )
    if kind == "student":
        variables["params"]["hidden"]["kernel"] = jnp.eye(256)
    evaluated: Any = head.apply(variables, features, False)
    assert float((evaluated != 0).mean()) == pytest.approx(kept, abs=0.02)


def test_a_frozen_backbone_keeps_statistics_and_gets_no_gradient():
    model, variables, images = _small()
    frozen = model.clone(train_backbone=False)

    @functools.partial(jax.jit, static_argnums=1)
    def gradients(params, module):
        def loss(params):
            logits, changed = module.apply(
                {**variables, "params": params},
                images,
                train=True,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return (logits**2).mean(), changed["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    for module, trained in ((frozen, False), (model, True)):
        grads, statistics = gradients(variables["params"], module)
        for part, expected in (("backbone", trained), ("head", True)):
            change = jax.tree.map(
                lambda a, b: bool((a != b).any()),
                statistics[part],
                variables["batch_stats"][part],
            )
            assert any(jax.tree.leaves(change)) == expected
            nonzero = [bool((leaf != 0).any()) for leaf in jax.tree.leaves(grads[part])]
            assert any(nonzero) == expected


def test_network_trains_the_head_alone_with_a_frozen_module():
    model, variables, images = _small()
    network = Network(model.clone(train_backbone=False), *pixel_statistics("resnet18"))
    _, statistics = network.train_logits(variables, images, jax.random.key(0))
    jax.tree.map(
        np.testing.assert_array_equal,
        statistics["backbone"],
        variables["batch_stats"]["backbone"],
    )


def test_bfloat16_computes_what_float32_does_to_its_precision():
    model, variables, images = _small()
    half, _, _ = _small(dtype="bfloat16")
    exact = jax.jit(model.apply)(variables, images)
    rough = jax.jit(half.apply)(variables, images)
    assert not np.array_equal(exact, rough)
    np.testing.assert_allclose(rough, exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_raw_pixels_reach_every_model_but_vit():
    pixels = jnp.array([0.0, 127.5, 255.0]).reshape(1, 1, 1, 3)
    for name in COUNTS:
        seen = Network(create_model(name, num_classes=2), *pixel_statistics(name))
        expected = (
            (np.array([0, 0.5, 1]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            if name == "vit_b16"
            else [0, 127.5, 255]
        )
        np.testing.assert_allclose(seen.preprocess(pixels).ravel(), expected, rtol=1e-5, atol=1e-5)


def test_keras_own_preprocessing():
    pixels = jnp.array([0.0, 127.5, 255.0])
    for name in ("mobilenet_v2", "resnet152v2"):
        mean, std, _ = pixel_statistics(name, pipeline="keras")
        np.testing.assert_allclose((pixels / 255 - mean[0]) / std[0], [-1, 0, 1], atol=1e-6)
    model = create_model("resnet50", num_classes=2)
    caffe = Network(model, *pixel_statistics("resnet50", pipeline="keras"))
    # Blue first, as keras.applications.resnet.preprocess_input makes it of RGB.
    expected = np.array([255, 127.5, 0]) - [103.939, 116.779, 123.68]
    seen = jax.jit(caffe.preprocess)(pixels.reshape(1, 1, 1, 3)).ravel()
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_pytorchs_own_preprocessing():
    usual = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False)
    for name in (name for name in imagenet.NAMES if name.endswith("_torch")):
        assert pixel_statistics(name, pipeline="torchvision") == usual
        expected = ((0.5,), (0.5,), False) if name.startswith("vit") else usual
        assert pixel_statistics(name, pipeline="timm") == expected
        with pytest.raises(ValueError, match="expected 'timm' or 'torchvision', got 'paper'"):
            pixel_statistics(name)


def test_the_position_embedding_follows_the_image_size():
    model = heads.Classifier(ViT(depth=1, width=8, heads=2, mlp_width=8), heads.LinearHead(3))
    for size, patches in ((32, 4), (64, 16)):
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        assert variables["params"]["backbone"]["position_embedding"].shape == (patches + 1, 8)


def test_the_last_norm_of_convnext_is_before_or_after_pooling():
    before = ConvNeXt(depths=(1, 1, 1, 1), widths=(4, 4, 4, 8))
    images = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3), maxval=255.0)
    variables = jax.jit(before.init, static_argnums=2)(jax.random.key(1), images, False)
    first, last = (
        np.asarray(jax.jit(module.apply, static_argnums=2)(variables, images, False))
        for module in (before, before.clone(pool_first=True))
    )
    np.testing.assert_allclose(last.mean(1), 0, atol=1e-5)  # normalised last
    assert np.abs(first - last).max() > 1e-2
    assert create_model("convnext_tiny", num_classes=2, head="imagenet").backbone.pool_first
    assert not create_model("convnext_tiny", num_classes=2).backbone.pool_first


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet50", 16, "images: expected at least 32 x 32 pixels"),
        ("vit_b16", 40, "divisible by the patch size 16, got 40 x 40"),
    ],
)
def test_a_wrong_image_size_is_refused(name, size, message):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(create_model(name, num_classes=2).init, jax.random.key(0), images)


def test_wrong_names_are_refused_with_the_right_ones():
    with pytest.raises(ValueError, match="head: expected one of student, teacher, imagenet; got"):
        create_model("resnet50", num_classes=2, head="linear")
    with pytest.raises(ValueError, match="model name: expected one of resnet18, resnet50"):
        pixel_statistics("resnet20")
    with pytest.raises(ValueError, match="'resnet50': expected 'paper' or 'keras', got 'timm'"):
        pixel_statistics("resnet50", pipeline="timm")
