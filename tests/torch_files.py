"""Small safetensors files written by hand, as RepDistiller names a ResNet-8's weights."""

import functools
import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixkd_jax.models import create_model
from mixkd_jax.weights import WeightsError, load_weights

SHAPE = (32, 32, 3)
MODEL = create_model("resnet8", num_classes=5)
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32"}
# Of each layer: its name, its place in the variables, and the shape of its weight in PyTorch.
LAYERS = [
    ("conv1", ("stem",), (16, 3, 3, 3)),
    ("bn1", ("stem_norm",), (16,)),
    ("layer1.0.conv1", ("blocks_0", "Conv_0"), (16, 16, 3, 3)),
    ("layer1.0.bn1", ("blocks_0", "BatchNorm_0"), (16,)),
    ("layer1.0.conv2", ("blocks_0", "Conv_1"), (16, 16, 3, 3)),
    ("layer1.0.bn2", ("blocks_0", "BatchNorm_1"), (16,)),
    ("layer2.0.conv1", ("blocks_1", "Conv_0"), (32, 16, 3, 3)),
    ("layer2.0.bn1", ("blocks_1", "BatchNorm_0"), (32,)),
    ("layer2.0.conv2", ("blocks_1", "Conv_1"), (32, 32, 3, 3)),
    ("layer2.0.bn2", ("blocks_1", "BatchNorm_1"), (32,)),
    ("layer2.0.downsample.0", ("blocks_1", "Conv_2"), (32, 16, 1, 1)),
    ("layer2.0.downsample.1", ("blocks_1", "BatchNorm_2"), (32,)),
    ("layer3.0.conv1", ("blocks_2", "Conv_0"), (64, 32, 3, 3)),
    ("layer3.0.bn1", ("blocks_2", "BatchNorm_0"), (64,)),
    ("layer3.0.conv2", ("blocks_2", "Conv_1"), (64, 64, 3, 3)),
    ("layer3.0.bn2", ("blocks_2", "BatchNorm_1"), (64,)),
    ("layer3.0.downsample.0", ("blocks_2", "Conv_2"), (64, 32, 1, 1)),
    ("layer3.0.downsample.1", ("blocks_2", "BatchNorm_2"), (64,)),
    ("fc", ("classifier",), (5, 64)),
]


@functools.cache
def weights():
    """Returns the state_dict, and the same as Flax has it: by collection, layer and name."""
    rng, state, flax = np.random.default_rng(0), {}, {}

    def add(name, shape, place, axes):
        state[name] = rng.normal(size=shape).astype("float32")
        flax[place] = state[name].transpose(axes)

    for name, place, shape in LAYERS:
        if len(shape) > 1:
            axes = (2, 3, 1, 0) if len(shape) == 4 else (1, 0)
            add(f"{name}.weight", shape, ("params", *place, "kernel"), axes)
        else:
            add(f"{name}.weight", shape, ("params", *place, "scale"), None)
            add(f"{name}.running_mean", shape, ("batch_stats", *place, "mean"), None)
            add(f"{name}.running_var", shape, ("batch_stats", *place, "var"), None)
            state[f"{name}.num_batches_tracked"] = np.int32(7)
        if len(shape) < 3:
            add(f"{name}.bias", shape[:1], ("params", *place, "bias"), None)
    return state, flax


def state(**changes):
    """Returns a copy of the weights; a change of None leaves one out."""
    changed = weights()[0] | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in changed.items() if value is not None}


def write(path, tensors, edit=lambda header: None, size=None, cut=None):
    """Writes the format by hand; `edit` and `size` make its header lie, `cut` truncates it."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        array = np.asarray(array)
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    edit(header)
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if size is None else size) + text + data
    path.write_bytes(content[:cut])
    return path


def load(path, model=MODEL):
    return load_weights(path, model, SHAPE)


def assert_loads(path, rtol=0.0):
    loaded = load(path)
    assert len(jax.tree.leaves(loaded)) == len(weights()[1])
    for place, want in weights()[1].items():
        got = functools.reduce(lambda tree, key: tree[key], place, loaded)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol / 100, err_msg=str(place))


def assert_refused(path, *messages, model=MODEL):
    with pytest.raises(WeightsError) as caught:
        load(path, model)
    assert str(path) in str(caught.value)
    for message in messages:
        assert re.search(message, str(caught.value)), str(caught.value)
