"""A whole run on a user's own folder, from the command line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import small
from PIL import Image

pytestmark = pytest.mark.slow

MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA")
CLASSES = ("cat", "dog", "eel")


def _image(seed, label):
    """An image of its own size and mode: noise, brighter in a third of its rows for each class."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(14, 40, 2)
    pixels = rng.integers(120, size=(height, width, 3), dtype=np.uint8)
    pixels[label * height // 3 : (label + 1) * height // 3] += 130
    return Image.fromarray(pixels).convert(MODES[seed % len(MODES)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """32 training and 20 test images of mixed sizes, modes and formats, and what is no image."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 32), ("test", 20)):
        for index in range(count):
            label = index % len(CLASSES)
            image = _image(index + 100 * (split == "test"), label)
            suffix = ".jpg" if image.mode in ("RGB", "L", "CMYK") and index % 2 else ".png"
            suffix = ".JPEG" if image.mode == "CMYK" else suffix  # which PNG doesn't have
            file = root / split / CLASSES[label] / f"{index}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A function from the pipeline to what the command wrote and said."""

    def command(pipeline):
        workdir = tmp_path_factory.mktemp(pipeline) / "run"
        fields = {
            "data.dir": root,
            "data.pipeline": pipeline,
            "arms": "ce,mixkd",
            "teacher.duration": "3 steps",
            "student.duration": "3 steps",
            "teacher.batch_size": 8,
            "student.batch_size": 8,
            "teacher.schedule.warmup": "1 steps",
            "student.schedule.warmup": "1 steps",
            "analysis.pairs": 8,
            "analysis.path_pairs": 2,
            "analysis.corrupted_images": 4,
            "log.every": "1 steps",
        }
        config = "--config=configs/folder.py:teacher=resnet8,student=resnet8"
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        done = subprocess.run(
            [sys.executable, "run.py", config, f"--workdir={workdir}", *flags],
            cwd=small.ROOT,
            env=os.environ | {"XLA_FLAGS": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return workdir, done

    return command


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["auto", "stream"])
def test_a_folder_of_mixed_images_is_trained_on_to_the_report(run, pipeline):
    workdir, done = run(pipeline)
    assert f"report: {workdir}/report.html" in done.stderr and "mixkd" in done.stdout
    assert "passed over what is no image: 1 .txt" in done.stderr
    page = (workdir / "report.html").read_text()
    assert "mixkd" in page

    about = json.loads((workdir / "config.json").read_text())
    assert about["data"]["num_classes"] == 3
    assert (about["data"]["student"], about["data"]["test"]) == (32, 20)
    height, width, channels = about["data"]["image_shape"]
    assert height == width and height % 8 == 0 and channels == 3  # of several sizes: found

    results = json.loads((workdir / "results.json").read_text())
    assert set(results["arms"]) == {"ce", "mixkd"}
    for arm in ("ce", "mixkd"):
        measured = json.loads((workdir / "arms" / arm / "0" / "evaluation.json").read_text())
        assert measured["step"] == 3 and sum(measured["bins"]["count"]) == 20
        assert (workdir / "arms" / arm / "0" / "analysis.json").exists()
    lines = small.lines(workdir)
    assert [(line["run"], line["step"]) for line in lines] == [
        (run, step) for run in ("teacher", "arms/ce/0", "arms/mixkd/0") for step in (1, 2, 3)
    ]
    assert {line.get("skipped") for line in lines} == {0.0 if pipeline == "stream" else None}
