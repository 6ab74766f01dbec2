"""What is set for CPUs, and what is left to the user."""

import json
import os
import subprocess
import sys

import pytest

from mixkd_jax import cpu

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
OTHER = "--xla_cpu_enable_fast_math=false"
CODE = """
import json, os, sys
from mixkd_jax import cpu
cpu.tune()
assert "jax" not in sys.modules or not sys.modules["jax"]._src.xla_bridge.backends_are_initialized()
again = os.environ.get("XLA_FLAGS", "")
cpu.tune()
assert os.environ.get("XLA_FLAGS", "") == again
import jax
total = float(jax.jit(lambda x: x @ x)(jax.numpy.ones((600, 600))).sum())
print(json.dumps([cpu.is_tuned(), again, total]))
"""


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({}, f"{FLAG}="),
        ({"XLA_FLAGS": OTHER}, f"{OTHER} {FLAG}="),
        ({"XLA_FLAGS": f"{FLAG}=-reduce"}, f"{FLAG}=-reduce"),
        ({"MIXKD_TUNE_CPU": "0"}, ""),
    ],
)  # fmt: skip
def test_what_the_user_has_set_stays(given, want):
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "MIXKD_TUNE_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=clean | given, capture_output=True, text=True, check=True
    )
    tuned, flags, total = json.loads(done.stdout)
    if not cpu.is_needed():  # with a jaxlib to which the flag isn't passed
        want = given.get("XLA_FLAGS", "")
    assert flags == want and total == 600**3
    assert tuned == want.endswith(f"{FLAG}=")
