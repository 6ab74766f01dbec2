"""From Keras files to variables: what is read, and what does not fit."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'mixkd-jax[weights]'")

import keras_files as files  # noqa: E402

from mixkd_jax.models import create_model, heads  # noqa: E402
from mixkd_jax.models.convnext import ConvNeXt  # noqa: E402
from mixkd_jax.weights import WeightsError, load_backbone, load_weights  # noqa: E402


def test_a_keras_file_and_its_weights_alone(tmp_path):
    files.assert_loads(files.write_keras(tmp_path / "a.keras"))
    files.assert_loads(files.write_keras(tmp_path / "b.keras", names={}))
    files.assert_loads(files.write_h5(tmp_path / "a.weights.h5"))
    files.assert_loads(str(files.write_h5(tmp_path / "b.weights.h5", names={})))


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 0), ("float16", 1e-3)])
def test_other_float_types_become_float32(tmp_path, dtype, rtol):
    path = files.write_h5(tmp_path / "a.weights.h5", dtype=dtype)
    loaded = files.load(path)["params"]["head"]["logits"]["kernel"]
    assert loaded.dtype == jnp.float32
    np.testing.assert_allclose(loaded, files.tiny_arrays("head", "logits")[0], rtol=rtol, atol=1e-6)


def test_bfloat16_is_read_as_keras_writes_it(tmp_path):
    bias = jnp.asarray([0.5, -2.0, 3.140625], jnp.bfloat16)

    def edit(file):
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.asarray(bias).view("V2")
        file["layers/dense/vars/1"].attrs["dtype"] = "bfloat16"

    loaded = files.load(files.write_h5(tmp_path / "a.weights.h5", edit))
    np.testing.assert_array_equal(loaded["params"]["head"]["logits"]["bias"], bias)


def test_state_of_the_optimizer_and_of_dropout_is_ignored(tmp_path):
    def edit(file):
        file["optimizer/vars/0"] = np.zeros(3)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "uint32")

    files.assert_loads(files.write_h5(tmp_path / "a.weights.h5", edit))


@pytest.mark.parametrize("options", [{}, {"root": "model_weights"}, {"chunk": 4}])
def test_legacy_files(tmp_path, options):
    files.assert_loads(files.write_legacy(tmp_path / "a.h5", **options))


def test_a_legacy_file_that_lacks_a_layer_names_its_weights(tmp_path):
    path = files.write_legacy(tmp_path / "a.h5", skip=("my_dense",))
    files.assert_refused(
        path, r"missing: params/head/logits/kernel \[64, 3\]", "don't fit the model: 2 "
    )


def test_names_tell_layers_whose_order_differs(tmp_path):
    """Two convolutions of one shape, swapped in the file but named."""

    def swap(file):
        a, b = (file[f"layers/conv2d_{k}/vars/0"][()] for k in (1, 2))
        file["layers/conv2d_1/vars/0"][...] = b
        file["layers/conv2d_2/vars/0"][...] = a

    names = {"conv2d_1": "stage1_unit1_conv2", "conv2d_2": "stage1_unit1_conv1"}
    files.assert_loads(files.write_h5(tmp_path / "a.weights.h5", swap, names=names))


def test_two_layers_of_one_name_are_refused(tmp_path):
    path = files.write_h5(tmp_path / "a.weights.h5", names={"conv2d_1": "stage1_unit1_conv2"})
    files.assert_refused(
        path, "names its layers as another architecture does: two claim each of conv2d_2"
    )


def test_each_weight_that_does_not_fit_is_named(tmp_path):
    def edit(file):
        del file["layers/conv2d_1/vars/0"]
        file["layers/conv2d_1/vars/0"] = np.zeros((5, 5, 64, 64), "float32")
        del file["layers/batch_normalization_4/vars/3"]
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = np.zeros(3, "int32")
        file["layers/dense_1/vars/0"] = np.zeros((3, 2))
        file["elsewhere/vars/0"] = np.zeros(1)

    files.assert_refused(
        files.write_h5(tmp_path / "a.weights.h5", edit, skip=("batch_normalization_1",)),
        "weights that don't fit the model: 9 ",
        r"shape: params/backbone/stage1_unit1_conv1/kernel needs \[3, 3, 64, 64\], the file has "
        r"/layers/conv2d_1/vars/0 \[5, 5, 64, 64\]",
        r"missing: batch_stats/backbone/bn1/var \[64\], as layers/batch_normalization_4/vars/3",
        r"missing: params/backbone/bn0/scale \[64\]",
        r"missing: batch_stats/backbone/bn0/mean \[64\]",
        "dtype: params/head/logits/bias needs floats of 16 to 64 bits, the file has int32",
        r"extra: /layers/dense_1/vars/0 \[3, 2\]",
        r"extra: /elsewhere/vars/0 \[1\]",
    )


def test_another_number_of_classes_is_a_clear_error(tmp_path):
    path = files.write_keras(tmp_path / "a.keras")
    model = files.TINY.clone(head=heads.LinearHead(5))
    with pytest.raises(WeightsError, match=r"logits/bias needs \[5\], the file has .* \[3\]"):
        load_weights(path, model, files.SHAPE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn", "expected one of the models that Keras has.*; got CNN"),
        ("resnet50_torch", "for a Keras file choose the model without '_torch'"),
    ],
)
def test_a_model_that_keras_lacks_is_refused(tmp_path, name, message):
    path = files.write_keras(tmp_path / "a.keras")
    with pytest.raises(TypeError, match=message):
        load_weights(path, create_model(name, num_classes=2), files.SHAPE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    def edit(file):
        file["layers/conv2d_1/vars/0"][0, 0, 0, 0] = value
        file["layers/dense/vars/1"][1:] = value

    files.assert_refused(
        files.write_h5(tmp_path / "a.weights.h5", edit),
        "weights that aren't finite: 2\n",
        "not finite: /layers/conv2d_1/vars/0 has 1 of 36864 values NaN or inf",
        "not finite: /layers/dense/vars/1 has 2 of 3 values NaN or inf",
    )


@pytest.mark.parametrize("head", [(), ("dense",), ("dense", "dense_1")])
def test_load_backbone_takes_any_head_and_keeps_ours(tmp_path, head):
    model = files.TINY.clone(head=heads.StudentHead(7))
    variables = model.init(jax.random.key(0), jnp.zeros((1, *files.SHAPE)))
    path = files.write_keras(tmp_path / "a.keras", head=head)
    loaded = load_backbone(path, model, files.SHAPE, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    for name, tree in loaded.items():
        jax.tree.map(np.testing.assert_array_equal, tree["head"], variables[name]["head"])
        jax.tree.map(
            np.testing.assert_array_equal,
            tree["backbone"],
            files.tiny_variables()[name]["backbone"],
        )


def test_load_backbone_refuses_another_backbone(tmp_path):
    variables = files.TINY.init(jax.random.key(0), jnp.zeros((1, *files.SHAPE)))

    def edit(file):
        file["layers/conv2d_4/vars/0"] = np.zeros((1, 1, 64, 64))

    with pytest.raises(WeightsError, match=r"extra: /layers/conv2d_4/vars/0"):
        load_backbone(
            files.write_h5(tmp_path / "a.weights.h5", edit), files.TINY, files.SHAPE, variables
        )


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
    path = files.write_keras(tmp_path / "a.keras", config=config)
    model = heads.Classifier(
        ConvNeXt(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4)), heads.LinearHead(3)
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(path, model, files.SHAPE)


@pytest.mark.parametrize("config", [[], {}, {"config": {"layers": [1]}}])
def test_a_configuration_that_is_no_model_is_refused(tmp_path, config):
    model = heads.Classifier(
        ConvNeXt(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4)), heads.LinearHead(3)
    )
    with pytest.raises(WeightsError, match="config.json describes no Keras model"):
        load_weights(files.write_keras(tmp_path / "a.keras", config=config), model, files.SHAPE)


@pytest.mark.parametrize(
    "path", ["hf://owner/file.keras", "hf:owner/repo/file", "hf://owner/repo/../../file"]
)
def test_wrong_hub_paths_are_refused(path):
    with pytest.raises(WeightsError, match="expected hf://owner/repository/file"):
        files.load(path)


@pytest.mark.parametrize(("at", "revision"), [("", None), ("@v1.0", "v1.0")])
def test_hub_files_come_through_huggingface_hub(tmp_path, monkeypatch, at, revision):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    path, asked = files.write_keras(tmp_path / "a.keras"), []
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda *args, **kwargs: asked.append((args, kwargs)) or str(path)
    )
    files.assert_loads(f"hf://some.owner/some-repo{at}/cifar100/a.keras")
    assert asked == [(("some.owner/some-repo", "cifar100/a.keras"), {"revision": revision})]


def test_offline_the_hub_gives_a_clear_message(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="can't be fetched and isn't in the cache") as caught:
        files.load("hf://owner/repo/a.keras")
    assert "hf download owner/repo a.keras" in str(caught.value)


@pytest.mark.parametrize(
    ("module", "path"), [("huggingface_hub", "hf://owner/repo/a.keras"), ("h5py", "a.keras")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, module, path):
    if module == "h5py":
        path = files.write_keras(tmp_path / path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WeightsError, match=rf"needs {module}: pip install 'mixkd-jax\[weights\]'"):
        files.load(path)


def test_the_packages_of_the_extra_are_loaded_only_when_used():
    code = (
        "import sys, mixkd_jax.models, mixkd_jax.weights\n"
        "names = ('h5py', 'huggingface_hub', 'keras', 'safetensors', 'torch')\n"
        "print([m for m in names if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
