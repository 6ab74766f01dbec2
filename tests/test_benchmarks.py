"""What the benchmarks count, against published numbers."""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys

import jax
import pytest
import small

sys.path.append(str(small.ROOT / "benchmarks"))  # where a script finds the others

from benchmarks import compile as compiling  # noqa: E402
from benchmarks import scaling, step  # noqa: E402
from mixkd_jax.models import create_model
from mixkd_jax.models.network import Network

# Multiplications and additions of one image of 224 pixels, in units of 1e9, of their papers; of
# ResNet-50 that of Keras, whose strides are in the first convolution of a block.
PUBLISHED = {
    "resnet18": 1.8,
    "resnet50": 3.9,
    "resnet152v2": 10.9,
    "mobilenet_v2": 0.30,
    "convnext_tiny": 4.5,
    "convnext_large": 34.4,
    "vit_b16": 17.6,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_work_is_counted_as_published(name):
    model = create_model(name, num_classes=1000, head="imagenet")
    counted = step.multiply_adds(Network(model, (0.0,), (1.0,)), (224, 224, 3))
    assert counted / 1e9 == pytest.approx(PUBLISHED[name], rel=0.02)


def peers(*arguments):
    script = small.ROOT / "benchmarks/peers.py"
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=small.ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("model", ["resnet8", "cnn"])
def test_peers_agree_in_their_losses_and_are_timed_in_turn(tmp_path, model):
    pytest.importorskip("torchvision", reason="needs torchvision, of the extra bench")
    out = tmp_path / "peers.json"
    pair = (f"--teacher={model}", f"--student={model}", "--image-size=8")
    pair += ("--batch-size=8", "--num-examples=16")
    done = peers(*pair, "--repeats=2", "--modes=channels_last,bfloat16", f"--out={out}")
    assert not done.returncode, done.stderr
    found = json.loads(out.read_text())
    assert [row[""] for row in found["rows"]] == [
        "mixkd_jax",
        "PyTorch, channels_last",
        "PyTorch, bfloat16",
    ]
    own, other = found["losses"].values()
    assert own == pytest.approx(other, rel=1e-3) and len(set(own)) == len(own) == 5
    assert all(row["ms a step"] > 0 for row in found["rows"])


def test_decoding_is_timed_by_size_and_threads(tmp_path):
    pytest.importorskip("grain", reason="needs grain, of the extra stream")
    script, out = small.ROOT / "benchmarks/decode.py", tmp_path / "decode.json"
    flags = ("--image-size=32", "--batch-size=4", "--batches=1", "--repeats=1", f"--out={out}")
    subprocess.run([sys.executable, str(script), *flags], check=True, capture_output=True)
    rows = json.loads(out.read_text())["rows"]
    assert {row["stored"] for row in rows} == {"500x375", "341x256"}
    assert all(row["images/s"] > 0 and row["kB"] > 1 for row in rows)


def test_compiling_is_timed_in_turn_and_at_once(tmp_path):
    script, out = small.ROOT / "benchmarks/compile.py", tmp_path / "compile.json"
    flags = ("--teacher=cnn", "--student=cnn", "--image-size=8", "--batch-size=4", "--repeats=1")
    subprocess.run([sys.executable, str(script), *flags, f"--out={out}"], check=True)
    (row,) = json.loads(out.read_text())["rows"]
    assert row.keys() == {"in turn", "at once", *compiling.PARTS}
    assert all(seconds > 0 for seconds in row.values())


@pytest.mark.slow
def test_whole_runs_are_timed_in_turn(tmp_path):
    script, out = small.ROOT / "benchmarks/whole.py", tmp_path / "whole.json"
    flags = ("--repeats=1", f"--other={small.ROOT}", f"--out={out}")
    short = ("--config.seeds=0", "--config.arms=ce", "--config.teacher.duration=4 steps")
    command = [sys.executable, str(script), *flags, "--", *short]
    one_device = os.environ | {"XLA_FLAGS": ""}  # digits' batches aren't for the eight of the tests
    subprocess.run(command, check=True, capture_output=True, env=one_device)
    found = json.loads(out.read_text())
    assert [row["way"] for row in found["rows"]] == ["other", "empty cache", "full cache"]
    for row in found["rows"][1:]:
        assert 0 < row["total"] < row["seconds"]
    assert not {"compile", "total"} & {name for name, x in found["rows"][0].items() if x}


def test_the_page_has_what_was_found_of_whole_runs_and_of_compiling():
    page = " ".join((small.ROOT / "docs/performance.md").read_text().split())
    found = json.loads((small.ROOT / "docs/results/whole.json").read_text())
    for way, label in (("empty cache", "with an empty cache"), ("full cache", "with a full one")):
        own = [row for row in found["rows"] if row["way"] == way]
        *first, last = (f"{row['seconds']:.0f}" for row in own)
        ratio = found["medians"][way] / found["medians"]["other"]
        assert f"| {label} | {', '.join(first)} and {last} | {ratio:.2f} |" in page
        names = ("compile", "train", "evaluate", "checkpoint", "analyse", "other")
        parts = [statistics.median(row[name] for row in own) for name in names]
        parts.append(statistics.median(row["seconds"] - row["total"] for row in own))
        line = " | ".join(f"{seconds:.1f}" for seconds in parts)
        assert f"| {way} | {line} | {statistics.median(row['cpu'] for row in own):.0f} |" in page
    ratios = [
        json.loads((small.ROOT / f"docs/results/compile-{pair}.json").read_text())["ratio"]
        for pair in ("wrn", "resnet", "cnn")
    ]
    assert "it takes {:.2f}, {:.2f} and {:.2f} times as long".format(*ratios) in page


def test_peers_say_which_models_pytorch_has(tmp_path):
    pytest.importorskip("torchvision", reason="needs torchvision, of the extra bench")
    done = peers("--teacher=resnet152v2")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "expected cnn, a CIFAR ResNet or WRN, or one of resnet50, " in done.stderr


def test_devices_tell_each_other_gradients_and_statistics_and_nothing_else():
    """Batches, images and the teacher's logits stay where they are."""
    options = {"teacher": "resnet8", "student": "resnet8", "image_size": 8, "num_classes": 10}
    options |= {"per_device": 2, "batch_size": 16, "dtype": "float32"}
    mesh = scaling.sharding.data_mesh(jax.devices()[:8])
    network, (fit,) = step.planned(
        argparse.Namespace(**options), scaling.Shapes(16, (8, 8, 3)), mesh
    )
    query, update = scaling.programs(network, fit, argparse.Namespace(**options))
    assert scaling.collectives(query) == []
    found = scaling.collectives(update)
    assert scaling.counted(found).keys() == {"all-reduce"}
    state = fit.abstract_state
    parameters, statistics = (
        4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for tree in (state.params, state.batch_stats)
    )
    # Of each BatchNorm the mean and the mean square, and both again in the backward pass; metrics.
    sent = sum(size for _, size in found)
    assert parameters < sent <= parameters + 2 * statistics + 64


def test_collectives_are_read_off_a_program():
    text = """
  %all-reduce.1 = (f32[16,3]{1,0}, bf16[4]{0}) all-reduce(%a, %b), to_apply=%add
  %gather = f32[8,2]{1,0} all-gather-start(f32[1,2]{1,0} %c), dimensions={0}
  %done = f32[8,2]{1,0} all-gather-done(f32[8,2]{1,0} %gather)
  %x = f32[] add(f32[] %all-reduce.1, f32[] %y)
"""
    expected = [("all-reduce", 4 * 48 + 2 * 4), ("all-gather", 64)]
    assert scaling.collectives(text) == expected
