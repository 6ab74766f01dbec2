"""The paper's recipe as it is configured, at 224 pixels: it compiles and takes steps on a CPU."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from mixkd_jax import data, experiment, weights
from mixkd_jax.configs import cifar
from mixkd_jax.training import sharding

CLASSES = 100


def _dataset():
    """As CIFAR-100, but of 16 training and 8 test images."""
    rng = np.random.default_rng(0)

    def split(count):
        images = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        return data.Split(images, rng.integers(CLASSES, size=count, dtype=np.int32))

    return data.Dataset("cifar100", tuple(map(str, range(CLASSES))), split(16), split(8))


@pytest.mark.slow
def test_the_paper_trains_at_224_pixels(monkeypatch, tmp_path):
    """From a teacher's file, which is random here, through both stages to the report."""
    asked = []

    def load_weights(path, model, image_shape, *, host):
        assert host
        asked.append((path, image_shape))
        images = np.zeros((1, *image_shape), np.float32)
        return jax.jit(model.init)(jax.random.key(0), images)

    monkeypatch.setattr(weights, "load_weights", load_weights)
    one = sharding.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(sharding, "data_mesh", lambda: one)
    values = cifar.get_config("paper,teacher=convnext_tiny,student=resnet18")
    values.arms = ("mixkd",)
    values.analysis.pairs = values.analysis.corrupted_images = 0
    values.evaluation.batch_size = 8
    values.log.every = "1 steps"
    values.student.batch_size = values.teacher.batch_size = 8
    values.student.head_duration = "1 steps"
    values.student.duration = "2 steps"
    values.student.schedule.pieces = (("1 epochs", "linear", 5e-4), ("2 epochs", "cosine", 1e-4))
    found = experiment.run(values, tmp_path, dataset=_dataset())

    file = "hf://josemedina/KD-Teachers/cifar100/best_convnexttiny.keras"
    assert asked == [(file, (224, 224, 3))]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["run"], line["step"]) for line in lines] == [
        ("head/student/0", 1),
        ("arms/mixkd/0", 1),
        ("arms/mixkd/0", 2),
    ]
    head, first, second = lines
    assert head["loss"] == pytest.approx(head["ce"]) and "kd" not in head
    assert head["learning_rate"] == pytest.approx(1e-3)
    # Both steps are in the first epoch.
    assert first["learning_rate"] == second["learning_rate"] == pytest.approx(1e-5, rel=1e-5)
    for line in (first, second):
        assert line["loss"] == pytest.approx(line["kd"], rel=1e-3) and line["kd"] > 0
    assert set(found["arms"]) == {"mixkd"} and 0 <= found["teacher"]["accuracy"] <= 1
    assert (epath.Path(tmp_path) / "report.html").exists()
