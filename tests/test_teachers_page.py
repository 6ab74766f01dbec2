"""The examples of docs/teachers.md run as they stand."""

import pathlib
import re

import pytest

from mixkd_jax.models import own

pytestmark = pytest.mark.slow  # whole runs of teachers of every kind

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "teachers.md").read_text(encoding="utf-8")
SETUP = re.findall(r"^```python setup\n(.*?)^```", PAGE, re.M | re.S)
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
RUNS = [code for code in BLOCKS if "experiment.run" in code]


@pytest.mark.parametrize("code", RUNS, ids=lambda code: re.findall(r'"runs/(\w+)"', code)[0])
def test_a_teacher_teaches(code, tmp_path, monkeypatch, capsys):
    for package in ("torch", "equinox"):
        if f"import {package}\n" in code:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for part in (*SETUP, code):
        exec(compile(part, "docs/teachers.md", "exec"), namespace)
    assert 0 <= float(capsys.readouterr().out) <= 1
    assert namespace["results"]["arms"]["mixkd"]["nll"]["mean"] > 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "report.html").exists()


def test_the_page_has_the_frameworks_and_the_setup():
    assert len(SETUP) == 1 and len(RUNS) == len(BLOCKS) - 1 == 5
    for name in ("flax import nnx", "import equinox", "import torch", "[first, second]"):
        assert sum(name in code for code in RUNS) == 1, name


def test_the_model_of_the_page_is_one(tmp_path, monkeypatch):
    (code,) = set(BLOCKS) - set(RUNS)
    (tmp_path / "page_nets.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for dtype in ("float32", "bfloat16"):
        module = own.create("page_nets:small", num_classes=5, dtype=dtype)
        own.check("page_nets:small", module, (9, 8, 3), 5)
