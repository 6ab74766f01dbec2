"""What the benchmarks count, against published numbers."""

import json
import subprocess
import sys

import pytest
import small

from benchmarks import step
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


def test_peers_agree_in_their_losses_and_are_timed_in_turn(tmp_path):
    pytest.importorskip("torchvision", reason="needs torchvision, of the extra bench")
    out = tmp_path / "peers.json"
    small_pair = ("--teacher=resnet8", "--student=resnet8", "--batch-size=8", "--num-examples=16")
    done = peers(*small_pair, "--repeats=2", "--modes=channels_last", f"--out={out}")
    assert not done.returncode, done.stderr
    found = json.loads(out.read_text())
    assert [row[""] for row in found["rows"]] == ["mixkd_jax", "PyTorch, channels_last"]
    own, other = found["losses"].values()
    assert own == pytest.approx(other, rel=1e-3) and len(set(own)) == len(own) == 5
    assert all(row["ms a step"] > 0 for row in found["rows"])


def test_peers_say_which_models_pytorch_has(tmp_path):
    pytest.importorskip("torchvision", reason="needs torchvision, of the extra bench")
    done = peers("--teacher=resnet152v2")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "expected a CIFAR ResNet or WRN, or one of resnet50, " in done.stderr
