"""Trained models are loaded, and predict what their run measured."""

import gc
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import trained
from PIL import Image

import mixkd_jax
from mixkd_jax import calibration
from mixkd_jax.model import ModelError

FIELDS = ("accuracy", "ece", "nll", "brier", "overconfidence")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return trained.photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    trained.run(photos, folder)
    return folder


def scores(logits, labels):
    """Independent of the package's own: NumPy float64."""
    z = np.asarray(logits, np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    confidence, right = p.max(-1), p.argmax(-1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((confidence - right)[bins == k].sum()) for k in range(15)]
    return {
        "accuracy": right.mean(),
        "ece": sum(gaps) / len(labels),
        "nll": -np.log(p[np.arange(len(labels)), labels]).mean(),
        "brier": ((p - np.eye(p.shape[1])[labels]) ** 2).sum(-1).mean(),
        "overconfidence": (confidence - right).mean(),
    }


@pytest.mark.parametrize("name", ["teacher", "arms/mixkd/0"])
def test_the_results_come_out_again_from_the_files_of_the_test_images(run, photos, name):
    model = mixkd_jax.load_model(run / name)
    results = json.loads((run / "results.json").read_text())
    files = sorted((photos / "test").rglob("*.*"))
    labels = np.array([model.class_names.index(file.parent.name) for file in files])
    assert model.class_names == trained.CLASSES and len(files) == 15
    found = scores(model.logits(model.read(files)), labels)
    for field in FIELDS:
        known = results["teacher"] if name == "teacher" else results["arms"]["mixkd"]
        known = known[field] if name == "teacher" else known[field]["values"][0]
        assert found[field] == pytest.approx(known, abs=2e-5), field
        assert model.metrics[field] == known
    predictions = model.predict(photos / "test")
    assert [p.image for p in predictions] == [str(file) for file in files]
    right = [p.class_name == file.parent.name for p, file in zip(predictions, files, strict=True)]
    assert np.mean(right) == pytest.approx(found["accuracy"])


def test_the_temperature_is_that_of_the_held_out_images(run, photos):
    model = mixkd_jax.load_model(run / "arms/mixkd/0")
    images = model.read(photos / "test")
    logits = model.logits(images)
    assert model.temperature is not None and model.temperature > 0
    np.testing.assert_allclose(
        model.probabilities(images, calibrated=True),
        jax.nn.softmax(logits / model.temperature),
        rtol=1e-5,
    )
    np.testing.assert_allclose(model.probabilities(images), jax.nn.softmax(logits), rtol=1e-5)
    labels = np.array(
        [trained.CLASSES.index(f.parent.name) for f in sorted((photos / "test").rglob("*.*"))]
    )
    nll = calibration.negative_log_likelihood(logits / model.temperature, labels).mean()
    assert float(nll) == pytest.approx(model.about["calibrated"]["nll"], abs=2e-5)


def test_the_readme_s_lines_run(run, photos, monkeypatch, capsys):
    text = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    (code,) = (
        c for c in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) if "load_model" in c
    )
    monkeypatch.chdir(photos.parent)
    code = code.replace("runs/NAME", str(run)).replace('"photos"', repr(str(photos / "test")))
    exec(compile(code, "README.md", "exec"), {})
    assert "class_name=" in capsys.readouterr().out


def test_predictions_are_of_the_largest_probability(run, photos):
    model = mixkd_jax.load_model(run / "arms/mixkd/0")
    file = next((photos / "test" / "dog").iterdir())
    (found,) = model.predict(file)
    order = np.sort(found.probabilities)
    assert found.probability == pytest.approx(order[-1])
    assert found.margin == pytest.approx(order[-1] - order[-2])
    assert found.class_name == model.class_names[found.probabilities.argmax()]
    pixels = np.asarray(Image.open(file).convert("RGB"))
    (same,) = model.predict(pixels)
    np.testing.assert_array_equal(same.probabilities, found.probabilities)
    assert same.image == "0"


def test_logits_may_be_traced_and_batches_may_be_of_any_size(run):
    model = mixkd_jax.load_model(run / "teacher")
    images = np.random.default_rng(0).integers(0, 256, (70, *model.image_shape), np.uint8)
    logits = model.logits(images)
    assert logits.shape == (70, 3)
    np.testing.assert_allclose(jax.jit(model.logits)(images), logits, rtol=1e-4, atol=1e-4)
    assert model.features(images[:2]).shape[0] == 2
    assert "trained:small" in repr(model)


def test_images_that_cannot_be_read_are_named_and_the_others_predicted(run, photos, tmp_path):
    good = sorted((photos / "test").rglob("*.png"))[0]
    shutil.copy(good, tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(good.read_bytes()[:40])
    (tmp_path / "c.png").write_text("no image")
    model = mixkd_jax.load_model(run / "teacher")
    found = model.predict([tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.png", "gone.png"])
    assert [bool(p.error) for p in found] == [False, True, True, True]
    assert found[0].class_name and not found[1].class_name and np.isnan(found[1].probability)
    assert "b.jpg: cannot decode" in found[1].error and "none of JPEG" in found[2].error
    assert found[3].error == "gone.png: can't be read: No such file or directory"
    with pytest.raises(ModelError, match=r"b\.jpg: cannot decode"):
        model.read(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("photos", r"photos.*: expected a model \(runs/a/arms/mixkd/0, .*got a path that is none"),
        ("run/arms/kd/0", r"expected a model of the run .*, which has teacher, arms/mixkd/0"),
        ("hf://one", "expected hf://owner/repository"),
    ],
)
def test_what_is_no_model_is_refused(run, photos, path, message):
    path = path.replace("run/", f"{run}/").replace("photos", str(photos))
    with pytest.raises(ModelError, match=message):
        mixkd_jax.load_model(path)


def test_what_does_not_fit_a_model_is_refused(run):
    model = mixkd_jax.load_model(run / "teacher")
    with pytest.raises(ModelError, match=r"expected an array \[B, 16, 16, 3\], got shape \[2, 8"):
        model.logits(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ModelError, match="expected some"):
        model.predict([])


# What orbax leaves unfinished when it gives up is told of when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    files = [p for p in (copy / "teacher/6/state/d").iterdir() if p.is_file()]
    for file in files or pathlib.Path(copy / "teacher/6/state").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    with pytest.raises(ModelError, match="checkpoint .*(damaged|can't be read)"):
        mixkd_jax.load_model(copy / "teacher")
    gc.collect()
