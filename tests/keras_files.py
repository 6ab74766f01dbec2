"""Small Keras files written by hand, for a tiny model; no Keras is needed."""

import functools
import io
import json
import re
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkd_jax.models import heads
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.weights import WeightsError, load_weights

SHAPE = (32, 32, 3)
CONFIG = {"class_name": "Functional", "config": {"layers": []}}
# The layers of the tiny model below, in Keras' order: written down by hand, apart from the reader.
BACKBONE = [
    ("batch_normalization", "bn_data"),
    ("conv2d", "conv0"),
    ("batch_normalization_1", "bn0"),
    ("batch_normalization_2", "stage1_unit1_bn1"),
    ("conv2d_1", "stage1_unit1_conv1"),
    ("batch_normalization_3", "stage1_unit1_bn2"),
    ("conv2d_2", "stage1_unit1_conv2"),
    ("conv2d_3", "stage1_unit1_sc"),
    ("batch_normalization_4", "bn1"),
]
TINY = heads.Classifier(ResNet18(blocks=(1,)), heads.LinearHead(3))


@functools.cache
def tiny_variables():
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape).astype("float32")
        return np.square(values) if path[-1].key == "var" else values

    return jax.tree_util.tree_map_with_path(draw, shapes)


def tiny_arrays(part, name):
    params = tiny_variables()["params"][part][name]
    statistics = tiny_variables()["batch_stats"].get(part, {}).get(name, {})
    ordered = [params.get(key) for key in ("kernel", "scale", "bias")]
    ordered += [statistics.get(key) for key in ("mean", "var")]
    return [array for array in ordered if array is not None]


def write_layers(file, dtype="float32", names=None, skip=(), head=("dense",)):
    """Writes Keras 3's structure; `names` gives groups their attribute, as from Keras 3.6 on."""
    groups = [("backbone", *layer) for layer in BACKBONE] + [("head", g, "logits") for g in head]
    for part, group, name in groups:
        if group in skip:
            continue
        target = file.create_group(f"layers/{group}/vars")
        if names is not None:
            target.attrs["name"] = names.get(group, name)
        for index, array in enumerate(tiny_arrays(part, name)):
            target[str(index)] = array.astype(dtype)


def write_h5(path, edit=lambda file: None, **options):
    with h5py.File(path, "w") as file:
        write_layers(file, **options)
        edit(file)
    return path


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def h5_content(**options):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write_layers(file, **options)
    return buffer.getvalue()


def write_keras(path, config=CONFIG, extra=(), **options):
    content = h5_content(**options)
    members = [("metadata.json", "{}"), ("config.json", json.dumps(config))]
    return write_zip(path, [*members, ("model.weights.h5", content), *extra])


def load(path):
    return load_weights(path, TINY, SHAPE)


def assert_loads(path, rtol=0):
    loaded = load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(tiny_variables())
    for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(tiny_variables()), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=rtol)


def assert_refused(path, *messages):
    with pytest.raises(WeightsError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    for message in messages:
        assert re.search(message, str(caught.value)), str(caught.value)


def write_legacy(path, root="", chunk=None, skip=()):
    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        layers = [("input_1", []), *((n, tiny_arrays("backbone", n)) for _, n in BACKBONE)]
        layers = [*layers, ("my_dense", tiny_arrays("head", "logits"))]
        layers = [(name, arrays) for name, arrays in layers if name not in skip]
        for name, arrays in layers:
            weights = [f"{name}/weight{index}:0" for index in range(len(arrays))]
            top.create_group(name).attrs["weight_names"] = [w.encode() for w in weights]
            for weight, array in zip(weights, arrays, strict=True):
                top[f"{name}/{weight}"] = array
        listed = [name.encode() for name, _ in layers]
        for index in range(0, len(listed), chunk or len(listed)):
            suffix = str(index // chunk) if chunk else ""
            top.attrs[f"layer_names{suffix}"] = listed[index : index + (chunk or len(listed))]
    return path
