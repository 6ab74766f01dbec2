"""Reading Keras files without Keras: what is accepted, what is refused, and how clearly."""

import functools
import io
import json
import marshal
import pickle
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'mixkd-jax[weights]'")

from mixkd_jax.models import create_model, heads  # noqa: E402
from mixkd_jax.models.convnext import ConvNeXt  # noqa: E402
from mixkd_jax.models.resnet18 import ResNet18  # noqa: E402
from mixkd_jax.weights import WeightsError, load_backbone, load_keras  # noqa: E402

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
def _variables():
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([rng.normal(size=leaf.shape).astype("float32") for leaf in leaves])


def _arrays(part, name):
    params = _variables()["params"][part][name]
    statistics = _variables()["batch_stats"].get(part, {}).get(name, {})
    ordered = [params.get(key) for key in ("kernel", "scale", "bias")]
    ordered += [statistics.get(key) for key in ("mean", "var")]
    return [array for array in ordered if array is not None]


def _write(file, dtype="float32", names=None, skip=(), head=("dense",)):
    """Writes Keras 3's structure; `names` gives groups their attribute, as from Keras 3.6 on."""
    groups = [("backbone", *layer) for layer in BACKBONE] + [("head", g, "logits") for g in head]
    for part, group, name in groups:
        if group in skip:
            continue
        target = file.create_group(f"layers/{group}/vars")
        if names is not None:
            target.attrs["name"] = names.get(group, name)
        for index, array in enumerate(_arrays(part, name)):
            target[str(index)] = array.astype(dtype)


def _h5(path, edit=lambda file: None, **options):
    with h5py.File(path, "w") as file:
        _write(file, **options)
        edit(file)
    return path


def _zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def _content(**options):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        _write(file, **options)
    return buffer.getvalue()


def _keras(path, config=CONFIG, extra=(), **options):
    content = _content(**options)
    members = [("metadata.json", "{}"), ("config.json", json.dumps(config))]
    return _zip(path, [*members, ("model.weights.h5", content), *extra])


def _load(path):
    return load_keras(path, TINY, SHAPE)


def _assert_loads(path, rtol=0):
    loaded = _load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(_variables())
    for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(_variables()), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=rtol)


def _refused(path, *messages):
    with pytest.raises(WeightsError) as caught:
        _load(path)
    assert str(path) in str(caught.value)
    for message in messages:
        assert re.search(message, str(caught.value)), str(caught.value)


def test_a_keras_file_and_its_weights_alone(tmp_path):
    _assert_loads(_keras(tmp_path / "a.keras"))
    _assert_loads(_keras(tmp_path / "b.keras", names={}))
    _assert_loads(_h5(tmp_path / "a.weights.h5"))
    _assert_loads(str(_h5(tmp_path / "b.weights.h5", names={})))


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 0), ("float16", 1e-3)])
def test_other_float_types_become_float32(tmp_path, dtype, rtol):
    path = _h5(tmp_path / "a.weights.h5", dtype=dtype)
    loaded = _load(path)["params"]["head"]["logits"]["kernel"]
    assert loaded.dtype == jnp.float32
    np.testing.assert_allclose(loaded, _arrays("head", "logits")[0], rtol=rtol, atol=1e-6)


def test_bfloat16_is_read_as_keras_writes_it(tmp_path):
    bias = jnp.asarray([0.5, -2.0, 3.140625], jnp.bfloat16)

    def edit(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.asarray(bias).view("V2")
        file["layers/dense/vars/1"].attrs["dtype"] = "bfloat16"

    loaded = _load(_h5(tmp_path / "a.weights.h5", edit))
    np.testing.assert_array_equal(loaded["params"]["head"]["logits"]["bias"], bias)


def test_state_of_the_optimizer_and_of_dropout_is_ignored(tmp_path):
    def edit(file):
        file["optimizer/vars/0"] = np.zeros(3)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "uint32")

    _assert_loads(_h5(tmp_path / "a.weights.h5", edit))


def _legacy(path, root="", chunk=None, skip=()):
    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        layers = [("input_1", []), *((n, _arrays("backbone", n)) for _, n in BACKBONE)]
        layers = [*layers, ("my_dense", _arrays("head", "logits"))]
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


@pytest.mark.parametrize("options", [{}, {"root": "model_weights"}, {"chunk": 4}])
def test_legacy_files(tmp_path, options):
    _assert_loads(_legacy(tmp_path / "a.h5", **options))


def test_a_legacy_file_that_lacks_a_layer_names_its_weights(tmp_path):
    path = _legacy(tmp_path / "a.h5", skip=("my_dense",))
    _refused(path, r"missing: params/head/logits/kernel \[64, 3\]", "don't fit the model: 2 ")


def test_names_tell_layers_whose_order_differs(tmp_path):
    """Two convolutions of one shape, swapped in the file but named."""

    def swap(file):
        a, b = (file[f"layers/conv2d_{k}/vars/0"][()] for k in (1, 2))
        file["layers/conv2d_1/vars/0"][...] = b
        file["layers/conv2d_2/vars/0"][...] = a

    names = {"conv2d_1": "stage1_unit1_conv2", "conv2d_2": "stage1_unit1_conv1"}
    _assert_loads(_h5(tmp_path / "a.weights.h5", swap, names=names))


def test_two_layers_of_one_name_are_refused(tmp_path):
    path = _h5(tmp_path / "a.weights.h5", names={"conv2d_1": "stage1_unit1_conv2"})
    _refused(path, "names its layers as another architecture does: two claim each of conv2d_2")


def test_each_weight_that_does_not_fit_is_named(tmp_path):
    def edit(file):
        del file["layers/conv2d_1/vars/0"]
        file["layers/conv2d_1/vars/0"] = np.zeros((5, 5, 64, 64), "float32")
        del file["layers/batch_normalization_4/vars/3"]
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.zeros(3, "int32")
        file["layers/dense_1/vars/0"] = np.zeros((3, 2))
        file["elsewhere/vars/0"] = np.zeros(1)

    _refused(
        _h5(tmp_path / "a.weights.h5", edit, skip=("batch_normalization_1",)),
        "weights that don't fit the model: 9 ",
        r"shape: params/backbone/stage1_unit1_conv1/kernel needs \[3, 3, 64, 64\], the file has "
        r"/layers/conv2d_1/vars/0 \[5, 5, 64, 64\]",
        r"missing: batch_stats/backbone/bn1/var \[64\], as layers/batch_normalization_4/vars/3",
        r"missing: params/backbone/bn0/scale \[64\]",
        r"missing: batch_stats/backbone/bn0/mean \[64\]",
        "dtype: params/head/logits/bias needs floats, the file has int32",
        r"extra: /layers/dense_1/vars/0 \[3, 2\]",
        r"extra: /elsewhere/vars/0 \[1\]",
    )


def test_another_number_of_classes_is_a_clear_error(tmp_path):
    path = _keras(tmp_path / "a.keras")
    model = TINY.clone(head=heads.LinearHead(5))
    with pytest.raises(WeightsError, match=r"logits/bias needs \[5\], the file has .* \[3\]"):
        load_keras(path, model, SHAPE)


def test_a_model_that_keras_lacks_is_refused():
    with pytest.raises(TypeError, match="expected one of the models that Keras has.*; got CNN"):
        load_keras("any.keras", create_model("cnn", num_classes=2), SHAPE)


@pytest.mark.parametrize("head", [(), ("dense",), ("dense", "dense_1")])
def test_load_backbone_takes_any_head_and_keeps_ours(tmp_path, head):
    model = TINY.clone(head=heads.StudentHead(7))
    variables = model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    path = _keras(tmp_path / "a.keras", head=head)
    loaded = load_backbone(path, model, SHAPE, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    for name, tree in loaded.items():
        jax.tree.map(np.testing.assert_array_equal, tree["head"], variables[name]["head"])
        jax.tree.map(
            np.testing.assert_array_equal, tree["backbone"], _variables()[name]["backbone"]
        )


def test_load_backbone_refuses_another_backbone(tmp_path):
    variables = TINY.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))

    def edit(file):
        file["layers/conv2d_4/vars/0"] = np.zeros((1, 1, 64, 64))

    with pytest.raises(WeightsError, match=r"extra: /layers/conv2d_4/vars/0"):
        load_backbone(_h5(tmp_path / "a.weights.h5", edit), TINY, SHAPE, variables)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_truncated_files_are_refused(tmp_path, suffix):
    write = {".keras": _keras, ".weights.h5": _h5, ".h5": _legacy}[suffix]
    whole = write(tmp_path / f"whole{suffix}").read_bytes()
    for share in (0, 0.0001, 0.01, 0.3, 0.9, 0.999):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        _refused(path, "damaged|expected a zip")


def test_flipped_bytes_of_a_zip_are_noticed(tmp_path):
    whole = bytearray(_keras(tmp_path / "whole.keras").read_bytes())
    for position in np.random.default_rng(0).integers(len(whole) // 4, len(whole) // 2, 5):
        damaged = bytearray(whole)
        damaged[position] ^= 255
        path = tmp_path / "damaged.keras"
        path.write_bytes(damaged)
        _refused(path, "Bad CRC-32")


def test_damaged_structure_gives_no_other_error(tmp_path):
    """Bytes flipped anywhere in an HDF5 file: values may change unseen, but nothing else breaks."""
    whole = _h5(tmp_path / "whole.weights.h5").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for position in rng.integers(0, 4096, 60):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path = tmp_path / "damaged.weights.h5"
        path.write_bytes(damaged)
        try:
            _load(path)
        except WeightsError:
            refused += 1
    assert refused > 0


def test_other_files_are_refused(tmp_path):
    _refused(tmp_path / "absent.keras", "No such file")
    path = tmp_path / "pointer.keras"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    _refused(path, r"expected a zip .* or HDF5 file; it begins with b.version .")
    _refused(_zip(tmp_path / "a.keras", [("config.json", "{}")]), "expected one model.weights.h5")
    members = [("config.json", "{"), ("model.weights.h5", _content())]
    _refused(_zip(tmp_path / "b.keras", members), "config.json is no valid JSON")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil"])
def test_members_that_leave_the_folder_are_refused(tmp_path, name):
    path = _keras(tmp_path / "a.keras", extra=[(name, b"x")])
    _refused(path, "has an unsafe name")
    assert [item.name for item in tmp_path.iterdir()] == ["a.keras"]


def test_decompression_bombs_are_refused(tmp_path):
    members = [("config.json", "{}"), ("model.weights.h5", bytes(50 * 2**20))]
    path = _zip(tmp_path / "a.keras", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    _refused(path, "refused as a decompression bomb")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    """The directory of the zip declares fewer bytes than the member has."""
    path = _keras(tmp_path / "a.keras")
    whole = bytearray(path.read_bytes())
    start = whole.rindex(b"PK\x01\x02")  # the last entry is model.weights.h5's
    size = int.from_bytes(whole[start + 24 : start + 28], "little")
    whole[start + 24 : start + 28] = (size - 1000).to_bytes(4, "little")
    path.write_bytes(whole)
    _refused(path, "damaged|hasn't the")


def test_two_members_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = _keras(tmp_path / "a.keras", extra=[("model.weights.h5", b"x")])
    _refused(path, "expected one model.weights.h5 in the zip, got 2")


def _link(kind):
    def edit(file):
        del file["layers/dense/vars/1"]
        target = "/layers/batch_normalization/vars/1"
        link = {
            "soft": h5py.SoftLink(target),
            "external": h5py.ExternalLink("/etc/hostname", target),
            "hard": file[target],
        }[kind]
        file["layers/dense/vars/1"] = link

    return edit


def _loop(file):
    file["layers/dense/vars/again"] = file["layers"]


def _external_values(file):
    del file["layers/dense/vars/1"]
    file.create_dataset("layers/dense/vars/1", (3,), "float32", external=[("/etc/hostname", 0, 12)])


def _virtual_values(file):
    del file["layers/dense/vars/1"]
    layout = h5py.VirtualLayout((3,), "float32")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (3,))
    file.create_virtual_dataset("layers/dense/vars/1", layout)


def _compressed(file):
    del file["layers/dense/vars/1"]
    file.create_dataset("layers/dense/vars/1", data=np.zeros(3, "float32"), compression="gzip")


def _hollow(file):
    file.create_dataset("layers/bomb/vars/0", (2**40,), "float32", chunks=(1024,))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_link("soft"), "layers/dense/vars/1 is an external or soft link"),
        (_link("external"), "layers/dense/vars/1 is an external or soft link"),
        (_link("hard"), "is linked twice"),
        (_loop, "is linked twice"),
        (_external_values, "layers/dense/vars/1 has its values in another file"),
        (_virtual_values, "layers/dense/vars/1 has its values in another file"),
        (_compressed, "layers/dense/vars/1 is compressed"),
        (_hollow, r"layers/bomb/vars/0 declares shape \(1099511627776,\), but stores fewer"),
    ],
)
def test_hdf5_features_that_reach_out_or_blow_up_are_refused(tmp_path, edit, message):
    _refused(_h5(tmp_path / "a.weights.h5", edit), message)


def test_lambda_bytecode_is_never_loaded(tmp_path, monkeypatch):
    """The configuration of a Lambda layer holds marshalled code; here nothing unmarshals it."""
    ran = []
    for module, name in ((marshal, "loads"), (pickle, "loads"), (pickle, "load")):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: ran.append(args))
    code = "4wEAAAAAAAAAAAAAAAEAAAADAAAA8wYAAACXAHwAUwCpAU4="
    function = {"class_name": "__lambda__", "config": {"code": code, "defaults": None}}
    layer = {"class_name": "Lambda", "config": {"name": "identity", "function": function}}
    config = {"class_name": "Functional", "config": {"layers": [layer]}}
    _assert_loads(_keras(tmp_path / "a.keras", config=config))
    assert not ran


@pytest.mark.parametrize(
    ("mean", "classes", "message"),
    [
        ([123.675, 116.28, 103.53], ["LayerNormalization", "GlobalAveragePooling2D"], "weights"),
        ([0, 0, 0], ["LayerNormalization"], r"Normalization: expected mean \[123.675"),
        ("?", ["LayerNormalization"], "Normalization: can't read its mean"),
        (None, [], "expected one Normalization layer in a ConvNeXt, got 0"),
        (
            [123.675, 116.28, 103.53],
            ["GlobalAveragePooling2D", "LayerNormalization"],
            "pools before its last LayerNormalization.*head 'imagenet'",
        ),
    ],
)
def test_what_only_the_configuration_tells_of_a_convnext(tmp_path, mean, classes, message):
    variance = [3409.976025, 3262.6944, 3291.890625]
    layers = [{"class_name": name, "config": {}} for name in classes]
    if mean is not None:
        constants = {"mean": mean, "variance": variance}
        layers = [{"class_name": "Normalization", "config": constants}, *layers]
    nested = {"class_name": "Functional", "config": {"layers": layers}}
    config = {"class_name": "Functional", "config": {"layers": [nested]}}
    path = _keras(tmp_path / "a.keras", config=config)
    model = heads.Classifier(
        ConvNeXt(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4)), heads.LinearHead(3)
    )
    with pytest.raises(WeightsError, match=message):
        load_keras(path, model, SHAPE)


@pytest.mark.parametrize("config", [[], {}, {"config": {"layers": [1]}}])
def test_a_configuration_that_is_no_model_is_refused(tmp_path, config):
    model = heads.Classifier(
        ConvNeXt(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4)), heads.LinearHead(3)
    )
    with pytest.raises(WeightsError, match="config.json describes no Keras model"):
        load_keras(_keras(tmp_path / "a.keras", config=config), model, SHAPE)


@pytest.mark.parametrize(
    "path", ["hf://owner/file.keras", "hf:owner/repo/file", "hf://owner/repo/../../file"]
)
def test_wrong_hub_paths_are_refused(path):
    with pytest.raises(WeightsError, match="expected hf://owner/repository/file"):
        _load(path)


@pytest.mark.parametrize(("at", "revision"), [("", None), ("@v1.0", "v1.0")])
def test_hub_files_come_through_huggingface_hub(tmp_path, monkeypatch, at, revision):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    path, asked = _keras(tmp_path / "a.keras"), []
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda *args, **kwargs: asked.append((args, kwargs)) or str(path)
    )
    _assert_loads(f"hf://some.owner/some-repo{at}/cifar100/a.keras")
    assert asked == [(("some.owner/some-repo", "cifar100/a.keras"), {"revision": revision})]


def test_offline_the_hub_gives_a_clear_message(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="can't be fetched and isn't in the cache") as caught:
        _load("hf://owner/repo/a.keras")
    assert "hf download owner/repo a.keras" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "path"), [("huggingface_hub", "hf://owner/repo/a.keras"), ("h5py", "a.keras")]
)
def test_a_missing_package_is_named(monkeypatch, module, path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WeightsError, match=rf"needs {module}: pip install 'mixkd-jax\[weights\]'"):
        _load(path)


def test_the_packages_of_the_extra_are_loaded_only_when_used():
    code = (
        "import sys, mixkd_jax.models, mixkd_jax.weights\n"
        "print([m for m in ('h5py', 'huggingface_hub', 'keras') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
