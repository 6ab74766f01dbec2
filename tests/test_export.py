"""Exported models: files that stand alone answer as the model does."""

import dataclasses
import inspect
import json
import pathlib
import re
import subprocess
import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained
from PIL import Image
from safetensors.numpy import load_file, save_file

import mixkd_jax
from mixkd_jax import export
from mixkd_jax.cli import main
from mixkd_jax.export import card, onnx
from mixkd_jax.model import ModelError
from mixkd_jax.models import create_model
from mixkd_jax.models.network import Network


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return trained.photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    trained.run(photos, folder)
    return folder


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "small"
    assert export.export(run / "arms/mixkd/0", folder) == str(folder)
    return folder


def test_an_exported_model_is_loaded_as_the_run_s_is(run, photos, out):
    ours, theirs = (mixkd_jax.load_model(path) for path in (run / "arms/mixkd/0", out))
    images = ours.read(photos / "test")
    np.testing.assert_array_equal(theirs.read(photos / "test"), images)
    np.testing.assert_array_equal(ours.logits(images), theirs.logits(images))
    for field in ("class_names", "metrics", "temperature", "image_shape", "about"):
        assert getattr(ours, field) == getattr(theirs, field)
    about = json.loads((out / "config.json").read_text())
    assert about["training"]["model"] == "arms/mixkd/0"
    assert about["training"]["recipe"]["loss"] == "kl"
    assert about["metrics"]["accuracy"] == ours.metrics["accuracy"]


def test_the_card_s_own_code_runs_without_the_package(run, photos, out):
    """In another process, where importing the package fails, as it stands on the card."""
    readme = (out / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.S | re.M)
    assert len(blocks) == 2
    photo = sorted((photos / "test").rglob("*.jpg"))[3]
    (out / "photo.jpg").write_bytes(photo.read_bytes())
    code = "import sys\nsys.modules['mixkd_jax'] = None\n" + "\n".join(blocks)
    code += "\nprint(probabilities.tolist())\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.strip().splitlines()
    (found,) = mixkd_jax.load_model(out).predict(photo, calibrated=True)
    assert first.split()[0] == found.class_name
    assert float(first.split()[1]) == pytest.approx(found.probability, abs=1e-4)
    np.testing.assert_allclose(json.loads(last)[0], found.probabilities, atol=1e-4)


def test_stablehlo_and_onnx_answer_alike_for_any_batch(run, out):
    import onnxruntime

    model = mixkd_jax.load_model(run / "arms/mixkd/0")
    exported = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    for count in (1, 5):
        shape = (count, *model.image_shape)
        images = np.random.default_rng(count).integers(0, 256, shape, np.uint8)
        want = {
            "logits": model.logits(images),
            "probabilities": model.probabilities(images, calibrated=True),
        }
        first = exported.call(images)
        second = dict(zip(("logits", "probabilities"), session.run(None, {"images": images})))  # noqa: B905
        for name, values in want.items():
            np.testing.assert_allclose(first[name], values, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(second[name], values, rtol=1e-4, atol=1e-4)


# Every kind of layer; the largest share theirs with these.
@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn", (8, 8, 1)), ("resnet8", (16, 20, 3)), ("wrn-16-1", (16, 16, 3))]
    + [
        pytest.param(name, (36, 32, 3), marks=pytest.mark.slow)
        for name in ("resnet50", "resnet152v2", "mobilenet_v2", "convnext_tiny", "vit_b16")
    ],
)
def test_onnx_runtime_repeats_the_answers_of_every_family(name, shape):
    import onnxruntime

    size = 32 if max(shape) > 20 else 0
    network = Network(create_model(name, num_classes=5), (0.3,), (0.4,), image_size=size)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(0), shape)
    rng = np.random.default_rng(0)

    def vary(x):  # statistics and biases that are not all 0 and 1; kernels are random already
        return np.asarray(x) + rng.uniform(0, 0.05 * (x.ndim == 1), x.shape).astype(np.float32)

    variables = jax.tree.map(vary, variables)
    graph = onnx.convert(lambda images: {"logits": network.logits(variables, images)}, shape)
    session = onnxruntime.InferenceSession(graph)
    for count in (1, 3):
        images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
        want = np.asarray(jax.jit(network.logits)(variables, images))
        (found,) = session.run(None, {"images": images})
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_onnx_runtime_turns_channels_round_as_the_network_does():
    import onnxruntime

    network = Network(create_model("cnn", num_classes=5), (0.1, 0.2, 0.3), (0.4,), bgr=True)
    shape = (8, 8, 3)
    variables = jax.jit(network.init, static_argnums=1)(jax.random.key(0), shape)
    graph = onnx.convert(lambda images: {"logits": network.logits(variables, images)}, shape)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    (found,) = onnxruntime.InferenceSession(graph).run(None, {"images": images})
    want = np.asarray(network.logits(variables, images))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    turned = dataclasses.replace(network, bgr=False, mean=network.mean[::-1])
    np.testing.assert_allclose(turned.logits(variables, images[..., ::-1]), want, rtol=1e-5)


@pytest.mark.parametrize("package", ["safetensors", "flatbuffers"])
def test_an_export_that_lacks_a_package_writes_nothing(run, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs {package}: pip install '.*\[weights\]'"):
        export.export(run / "arms/mixkd/0", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_has_no_operator_is_named():
    with pytest.raises(onnx.OnnxError, match="JAX's sort"):
        onnx.convert(lambda images: {"logits": jnp.sort(images.astype(jnp.float32), 1)}, (2, 2, 1))


class Api:
    """Stands in for `huggingface_hub.HfApi`: keeps what its methods are called with."""

    calls: list = []
    Real = huggingface_hub.HfApi

    def __getattr__(self, name):
        def call(*given, **named):
            arguments = (
                inspect.signature(getattr(self.Real, name)).bind(self, *given, **named).arguments
            )
            files = {}
            if folder := arguments.get("folder_path"):
                files = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
            Api.calls.append((name, arguments, files))
            return f"https://huggingface.co/{arguments['repo_id']}/commit/1"

        return call


def test_a_model_is_uploaded(run, out, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    assert export.export(run / "arms/mixkd/0", "hf://me/small").startswith("https://")
    (first, made, _), (second, sent, files) = Api.calls
    assert (first, second) == ("create_repo", "upload_folder")
    assert made["exist_ok"] and made["repo_id"] == sent["repo_id"] == "me/small"
    assert set(files) == {p.name for p in out.iterdir()} - {"photo.jpg"}
    assert files["config.json"] == (out / "config.json").read_bytes()
    assert b"# me/small" in files["README.md"]


def test_a_model_of_the_hub_is_loaded(out, monkeypatch):

    def fetch(repository, *, revision, allow_patterns):
        assert (repository, revision) == ("me/small", "v1")
        assert allow_patterns == ["config.json", "model.safetensors"]
        return str(out)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert mixkd_jax.load_model("hf://me/small@v1").class_names == trained.CLASSES


def test_the_card_has_the_hub_s_metadata(out):
    import yaml

    text = (out / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    (result,) = header["model-index"][0]["results"]
    measured = {metric["type"]: metric["value"] for metric in result["metrics"]}
    about = json.loads((out / "config.json").read_text())
    assert measured == {
        name: about["metrics"][name] for name in ("accuracy", "ece", "nll", "brier")
    }
    assert header["pipeline_tag"] == "image-classification"
    assert "distilled from a teacher on images mixed by mixup" in text
    for kind in ("ce", "mixup"):
        recipe = {"teacher_temperature": None, "mixup": {"alpha": 1.0} if kind == "mixup" else None}
        other = {**about, "calibrated": None, "training": {**about["training"], "recipe": recipe}}
        assert "without a teacher" in card.write(other, "a", has_onnx=False)


def test_weights_that_do_not_fit_are_named(out, tmp_path):
    arrays = load_file(out / "model.safetensors")
    (tmp_path / "config.json").write_text((out / "config.json").read_text())
    file = tmp_path / "model.safetensors"
    arrays["params/extra"] = np.zeros(2, np.float32)
    arrays["params/hidden/bias"] = np.zeros(3, np.float32)
    kernel = arrays.pop("params/classifier/kernel")
    save_file(arrays, file)
    with pytest.raises(ModelError) as error:
        mixkd_jax.load_model(tmp_path)
    for part in (str(file), "missing: params/classifier/kernel [16, 3]", "extra: params/extra [2]"):
        assert part in str(error.value)
    assert "shape: params/hidden/bias needs [16]" in str(error.value)
    arrays = load_file(out / "model.safetensors")
    arrays["params/classifier/kernel"] = np.full_like(kernel, np.nan)
    save_file(arrays, file)
    with pytest.raises(ModelError, match="not finite: params/classifier/kernel"):
        mixkd_jax.load_model(tmp_path)
    whole = (out / "model.safetensors").read_bytes()
    for damaged in (whole[:-7], whole[:100], b"\xff" * 8 + whole[8:], b"{}"):
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match="truncated or damaged"):
            mixkd_jax.load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "mixkd-jax model, version 1"}')
    with pytest.raises(ModelError, match="describes no model"):
        mixkd_jax.load_model(tmp_path)


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ModelError, match="--out: expected a new or an empty folder"):
        export.export(run / "teacher", tmp_path)
    with pytest.raises(ModelError, match="--out: expected hf://owner/repository"):
        export.export(run / "teacher", "hf://one")


def command(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, flags)])
    main()


def test_the_command_predicts(run, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    for index, file in enumerate(sorted((photos / "test" / "eel").iterdir())[:2]):
        Image.open(file).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "z.jpg").write_text("no image")
    monkeypatch.chdir(tmp_path)
    flags = ("--mode=predict", f"--workdir={run}", "--model=arms/mixkd/0", "--images=photos")
    command(monkeypatch, *flags)
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "predictions.json").read_text())
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "file,class,probability,margin,error" and len(lines) == 4 == len(found) + 1
    want = mixkd_jax.load_model(run / "arms/mixkd/0").predict("photos")
    for row, line, one in zip(found, lines[1:], want, strict=True):
        assert line.startswith(f"{row['file']},") and row["file"] in shown
        assert row["class"] == (one.class_name or None)
        if not one.error:
            assert row["probability"] == pytest.approx(one.probability, abs=1e-6)
            assert row["margin"] == pytest.approx(one.margin, abs=1e-6)
    assert "none of JPEG" in found[2]["error"] and "none of JPEG" in shown


def test_the_command_fails_if_no_image_can_be_read(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, "--mode=predict", f"--model={run}/teacher", "--images=gone.png")
    told = capsys.readouterr().err
    assert ended.value.code and "--images: expected images that can be read" in told
    assert "gone.png: can't be read: No such file" in told and not list(tmp_path.iterdir())


def test_a_file_name_is_no_formula_in_the_csv(run, photos, tmp_path, monkeypatch):
    name = "=HYPERLINK(1).png"
    Image.open(next((photos / "test" / "eel").iterdir())).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "--mode=predict", f"--model={run}/teacher", f"--images={name}")
    (row,) = json.loads((tmp_path / "predictions.json").read_text())
    assert row["file"] == name
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1].startswith(f"'{name},")


def test_the_command_exports(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "teacher"
    command(monkeypatch, "--mode=export", f"--model={run}/teacher", f"--out={out}")
    assert str(out) in capsys.readouterr().out
    assert "It learned from labels alone." in (out / "README.md").read_text()
    with pytest.raises(SystemExit):
        command(monkeypatch, "--mode=export", f"--model={run}/nothing", f"--out={out}2")
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        command(monkeypatch, "--mode=predict", f"--model={run}/teacher")
    assert "--images: expected a value with --mode=predict" in capsys.readouterr().err
