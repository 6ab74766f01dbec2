"""From safetensors files to variables: what is read, what doesn't fit, what is damaged."""

import pickle
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("safetensors", reason="needs safetensors: pip install 'mixkd-jax[weights]'")

import torch_files as files  # noqa: E402

from mixkd_jax.models import create_model, heads, resnet_imagenet  # noqa: E402
from mixkd_jax.weights import WeightsError, load_backbone, load_weights  # noqa: E402


def test_every_weight_goes_to_its_place(tmp_path):
    files.assert_loads(files.write(tmp_path / "a.safetensors", files.state()))
    files.assert_loads(str(files.write(tmp_path / "named.otherwise", files.state())))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_names_that_a_wrapper_lengthened(tmp_path, wrapper):
    wrapped = {wrapper + name: array for name, array in files.state().items()}
    files.assert_loads(files.write(tmp_path / "a.safetensors", wrapped))


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float64", 0.0), ("float16", 1e-3), ("bfloat16", 1e-2)]
)
def test_other_float_types_become_float32(tmp_path, dtype, rtol):
    tensors = {name: array.astype(jnp.dtype(dtype)) for name, array in files.state().items()}
    files.assert_loads(files.write(tmp_path / "a.safetensors", tensors), rtol)


def test_host_arrays_are_numpy(tmp_path):
    path = files.write(tmp_path / "a.safetensors", files.state())
    leaves = jax.tree.leaves(load_weights(path, files.MODEL, files.SHAPE, host=True))
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in leaves)
    assert all(leaf.flags.c_contiguous for leaf in leaves)


def test_hub_files_come_through_huggingface_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    path, asked = files.write(tmp_path / "blob", files.state()), []
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda *args, **kwargs: asked.append(args) or str(path)
    )
    files.assert_loads("hf://timm/resnet50.a1_in1k/model.safetensors")
    assert asked == [("timm/resnet50.a1_in1k", "model.safetensors")]


def test_each_weight_that_does_not_fit_is_named(tmp_path):
    tensors = files.state(
        conv1__weight=None,
        layer1__0__bn1__running_var=None,
        layer2__0__conv1__weight=np.zeros((32, 16, 5, 5), "float32"),
        fc__bias=np.zeros(5, "int32"),
        layer9__weight=np.zeros((2, 3), "float32"),
    )
    files.assert_refused(
        files.write(tmp_path / "a.safetensors", tensors),
        "weights that don't fit the model: 5 ",
        r"missing: params/stem/kernel \[16, 3, 3, 3\], as conv1.weight\n",
        r"missing: batch_stats/blocks_0/BatchNorm_0/var \[16\], as layer1.0.bn1.running_var\n",
        r"shape: params/blocks_1/Conv_0/kernel needs \[32, 16, 3, 3\], the file has "
        r"layer2.0.conv1.weight \[32, 16, 5, 5\]",
        "dtype: params/classifier/bias needs floats of 16 to 64 bits, the file has I32",
        r"extra: layer9.weight \[2, 3\]",
    )


def test_another_number_of_classes_is_a_clear_error(tmp_path):
    path = files.write(tmp_path / "a.safetensors", files.state())
    files.assert_refused(
        path,
        r"shape: params/classifier/kernel needs \[9, 64\], the file has fc.weight \[5, 64\]",
        "number of classes",
        model=create_model("resnet8", num_classes=9),
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    kernel, variance = np.ones((32, 16, 1, 1)), np.ones(64)
    kernel[0, 3], variance[1:] = value, value
    tensors = files.state(
        layer2__0__downsample__0__weight=kernel, layer3__0__bn2__running_var=variance
    )
    files.assert_refused(
        files.write(tmp_path / "a.safetensors", tensors),
        "weights that aren't finite: 2\n",
        "not finite: layer2.0.downsample.0.weight has 1 of 512 values NaN or inf",
        "not finite: layer3.0.bn2.running_var has 63 of 64 values NaN or inf",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20", r"\(its layers are those of the model 'resnet8'\)"),
        ("resnet8x4", "its layers are those of the model 'resnet8'"),
        ("wrn-16-2", "its layers are those of the model 'resnet8'"),
        ("vit_b16_torch", "its layers are those of the model 'resnet8'"),
        ("cnn", "PyTorch model, which this model isn't: choose the model 'resnet8'"),
        ("resnet50", "PyTorch model, which this model isn't: choose the model 'resnet8'"),
    ],
)
def test_the_right_model_is_named(tmp_path, name, message):
    path = files.write(tmp_path / "a.safetensors", files.state())
    files.assert_refused(path, message, model=create_model(name, num_classes=5))


def test_a_file_of_an_unknown_model(tmp_path):
    path = files.write(tmp_path / "a.safetensors", {"w": np.ones(3, "float32")})
    files.assert_refused(path, "no model has its layers", model=create_model("cnn", num_classes=5))
    files.assert_refused(path, "missing: params/stem/kernel", r"extra: w \[3\]")
    files.assert_refused(files.write(tmp_path / "b.safetensors", {}), "missing: params/stem/kernel")


@pytest.mark.parametrize("classes", [5, 3, 0])
def test_load_backbone_takes_any_head_and_keeps_ours(tmp_path, classes):
    changes = {"fc__weight": None, "fc__bias": None}
    if classes:
        changes = {"fc__weight": np.ones((classes, 64)), "fc__bias": np.ones(classes)}
    path = files.write(tmp_path / "a.safetensors", files.state(**changes))
    model = create_model("resnet8", num_classes=7)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *files.SHAPE)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    loaded = load_backbone(path, model, files.SHAPE, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    ours = variables["params"]["classifier"]
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["classifier"], ours)
    want = files.weights()[1][("params", "blocks_2", "Conv_2", "kernel")]
    np.testing.assert_array_equal(loaded["params"]["blocks_2"]["Conv_2"]["kernel"], want)
    with pytest.raises(WeightsError, match="extra: layer9.weight"):
        extra = files.state(layer9__weight=np.ones(1))
        load_backbone(files.write(path, extra), model, files.SHAPE, variables)


def test_a_head_that_pytorch_lacks_is_refused(tmp_path):
    path = files.write(tmp_path / "a.safetensors", files.state())
    backbone = resnet_imagenet.ResNetV1(blocks=(1, 1, 1, 1), bottleneck=False, torch=True)
    model = heads.Classifier(backbone, heads.StudentHead(5))
    files.assert_refused(
        path, "one linear layer, here it has .*hidden.*: create the model with the head 'imagenet'",
        model=model,
    )  # fmt: skip


def _lie(name, **changes):
    return lambda header: header[name].update(changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cut": 0}, "header too small"),
        ({"cut": 7}, "header too small"),
        ({"cut": 500}, "invalid header length"),
        ({"cut": -1}, "incomplete metadata, file not fully covered"),
        ({"size": 2**62}, "header too large"),
        ({"size": 10**7}, "invalid header length"),
        ({"size": 10}, "invalid JSON"),
        (
            {"edit": _lie("conv1.weight", data_offsets=[0, 4])},
            "invalid shape, data type, or offset",
        ),
        ({"edit": _lie("fc.bias", data_offsets=[0, 20])}, "invalid offset"),
        ({"edit": _lie("fc.bias", data_offsets=[2**62, 2**62 + 20])}, "invalid"),
        ({"edit": _lie("fc.bias", shape=[6])}, "invalid shape, data type, or offset"),
        ({"edit": _lie("fc.bias", shape=[2**62, 16])}, "overflow"),
        ({"edit": _lie("fc.bias", shape=[-5])}, "invalid JSON"),
        ({"edit": _lie("fc.bias", dtype="F31")}, "unknown variant `F31`"),
        ({"edit": lambda header: header.pop("conv1.weight")}, "invalid offset"),
        ({"edit": lambda header: header.pop("fc.bias")}, "file not fully covered"),
    ],
)
def test_damage_and_lying_headers_are_refused(tmp_path, options, message):
    path = files.write(tmp_path / "a.safetensors", files.state(), **options)
    files.assert_refused(path, "no whole safetensors file, truncated or damaged: ", message)


def test_no_change_of_a_header_does_harm(tmp_path):
    whole = files.write(tmp_path / "a.safetensors", files.state()).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for position in rng.integers(0, int.from_bytes(whole[:8], "little"), 60):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(damaged)
        try:
            files.load(path)
        except WeightsError:
            refused += 1
    assert refused > 50


def test_other_files_are_refused(tmp_path):
    files.assert_refused(tmp_path / "absent.safetensors", "No such file")
    files.assert_refused(tmp_path, "can't be read")
    path = tmp_path / "pointer.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    files.assert_refused(path, "no whole safetensors file")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_read(tmp_path, monkeypatch, zipped):
    path, ran = tmp_path / "teacher.pth", []
    content = pickle.dumps({"model": 0}, protocol=2)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("teacher/data.pkl", content)
    else:
        path.write_bytes(content)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *args, **kwargs: ran.append(args))
    files.assert_refused(
        path,
        r"torch.load\('.*teacher.pth', map_location=\"cpu\", weights_only=True\)\n",
        r"safetensors.torch.save_file\(.*, '.*teacher.safetensors'\)$",
    )
    assert not ran


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = files.write(tmp_path / "a.safetensors", files.state())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    files.assert_refused(path, r"needs safetensors: pip install 'mixkd-jax\[weights\]'")
