"""The models of Keras that ours are compared with, on JAX and with random weights."""

from typing import Any

import h5py
import jax
import keras
import numpy as np
import pytest
from keras.src.applications import convnext, resnet
from keras.src.legacy.saving import legacy_h5_format

layers = keras.layers
NONE: Any = None  # Keras declares these arguments as strings


def raw_input(size):
    """The input of the paper's teachers: the Lambda is in their files as Python bytecode."""
    inputs = keras.Input((size, size, 3), name="input_raw224")
    return inputs, layers.Lambda(lambda im: im, name="identity")(inputs)


# The paper's own teachers end in a softmax, which has no weights.
def teacher(inputs, features, classes):
    x = layers.Dropout(0.3)(features)
    logits = layers.Dense(classes, name="logits")(x)
    return keras.Model(inputs, logits)


def student(inputs, features, classes):
    x = layers.Dense(256, use_bias=False)(features)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(layers.Dropout(0.3)(x)))


def resnet50(size, classes, blocks=(3, 4, 6, 3)):
    def stacks(x):
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
            stride = 2 if stage else 1
            name = f"conv{stage + 2}"
            x = resnet.stack_residual_blocks_v1(x, width, count, stride1=stride, name=name)
        return x

    base = resnet.ResNet(
        stacks, False, True, False, NONE, input_shape=(size, size, 3), pooling="avg"
    )
    return student(base.input, base.output, classes)


def resnet152v2(size, classes, blocks=(3, 8, 36, 3)):
    def stacks(x):
        for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
            stride = 2 if stage < 3 else 1
            name = f"conv{stage + 2}"
            x = resnet.stack_residual_blocks_v2(x, width, count, stride1=stride, name=name)
        return x

    inputs, x = raw_input(size)
    base = resnet.ResNet(stacks, True, True, False, NONE, input_tensor=x)
    return teacher(inputs, layers.GlobalAveragePooling2D()(base.output), classes)


def mobilenet_v2(size, classes):
    base = keras.applications.MobileNetV2(
        include_top=False, weights=NONE, input_shape=(size, size, 3), pooling="avg"
    )
    return student(base.input, base.output, classes)


def convnext_teacher(size, classes, depths, widths, name):
    inputs, x = raw_input(size)
    base = convnext.ConvNeXt(
        list(depths), list(widths), name=name, include_top=False, input_tensor=x
    )
    return teacher(inputs, layers.GlobalAveragePooling2D()(base.output), classes)


def convnext_imagenet(size, classes, depths, widths, name):
    return convnext.ConvNeXt(
        list(depths),
        list(widths),
        name=name,
        classes=classes,
        input_shape=(size, size, 3),
        classifier_activation=NONE,
    )


def vit(size, classes, **options):
    keras_hub = pytest.importorskip("keras_hub", reason="needs keras_hub: pip install keras-hub")
    backbone = keras_hub.models.ViTBackbone(image_shape=(size, size, 3), patch_size=16, **options)
    inputs = keras.Input((size, size, 3), name="input_raw224")
    return teacher(inputs, backbone(inputs)[:, 0, :], classes)


def resnet18(size, classes):
    """The image-classifiers package's, which needs a Keras too old to be installed beside ours."""

    def conv(x, filters, kernel, name, stride=1):
        if kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2)(x)
        return layers.Conv2D(filters, kernel, stride, use_bias=False, name=name)(x)

    def norm_relu(x, name):
        x = layers.BatchNormalization(momentum=0.99, epsilon=2e-5, name=name)(x)
        return layers.Activation("relu")(x)

    inputs = keras.Input((size, size, 3), name="data")
    x = layers.BatchNormalization(momentum=0.99, epsilon=2e-5, scale=False, name="bn_data")(inputs)
    x = norm_relu(conv(x, 64, 7, "conv0", 2), "bn0")
    x = layers.MaxPooling2D(3, 2, name="pooling0")(layers.ZeroPadding2D(1)(x))
    for stage in range(4):
        for block in range(2):
            name = f"stage{stage + 1}_unit{block + 1}_"
            stride, filters = (2 if stage and not block else 1), 64 * 2**stage
            y = norm_relu(x, f"{name}bn1")
            shortcut = conv(y, filters, 1, f"{name}sc", stride) if block == 0 else x
            y = norm_relu(conv(y, filters, 3, f"{name}conv1", stride), f"{name}bn2")
            x = layers.Add()([conv(y, filters, 3, f"{name}conv2"), shortcut])
    features = layers.GlobalAveragePooling2D()(norm_relu(x, "bn1"))
    return student(inputs, features, classes)


def randomize(model, seed=0):
    """Sets every weight at random: no BatchNorm, bias or scale stays as it was initialised."""
    rng = np.random.default_rng(seed)
    for weight in weights(model):
        name, shape = weight.path.split("/")[-1], weight.shape
        if name in ("gamma", "moving_variance") or "layer_scale" in weight.path:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            fan_in = np.prod(shape[:2] if "depthwise" in weight.path else shape[:-1])
            value = rng.normal(0, np.sqrt(1 / fan_in), shape)
        else:
            value = rng.normal(0, 0.1, shape)
        weight.assign(value.astype("float32"))


def forward(model):
    """Returns a jitted function of (weights, images, training): (output, updated weights)."""

    def call(values, images, training):
        trainable, rest = values
        return model.stateless_call(trainable, rest, images, training=training)

    return jax.jit(call, static_argnums=2)


def values(model):
    """Returns what `forward` takes as weights."""
    return (
        [weight.value for weight in model.trainable_variables],
        [weight.value for weight in model.non_trainable_variables],
    )


def calibrate(model, call, images, seed=1):
    """Sets the moving statistics near those of a batch, so that no activation saturates."""
    rng = np.random.default_rng(seed)
    _, updated = call(values(model), images, True)
    new = dict(zip([w.path for w in model.non_trainable_variables], updated, strict=True))

    def of_batch(weight, momentum):
        after, before = np.asarray(new[weight.path]), np.asarray(weight.value)
        return (after - momentum * before) / (1 - momentum)

    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            mean = of_batch(layer.moving_mean, layer.momentum)
            variance = of_batch(layer.moving_variance, layer.momentum)
            variance = np.maximum(variance, 0.01 * variance.mean())
            layer.moving_mean.assign(mean + 0.2 * np.sqrt(variance) * rng.normal(size=mean.shape))
            layer.moving_variance.assign(variance * rng.uniform(0.8, 1.25, variance.shape))


def weights(model):
    """Returns the weights that belong to layers, without the state of dropout's generator."""
    return [weight for weight in model.weights if "seed_generator" not in weight.path]


def save_legacy(model, path):
    """Writes the format of keras.applications' downloads."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
