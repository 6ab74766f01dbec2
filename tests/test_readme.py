"""The README's Python runs as it stands, and its commands name what there is."""

import pathlib
import re

import pytest

from mixkd_jax import objectives

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EVERY = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
# That needs a trained model: tests/test_model.py runs it.
BLOCKS = [code for code in EVERY if "load_model" not in code]


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("\n")[0])
def test_python_blocks_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    if "print(" in code:
        assert 0 <= float(capsys.readouterr().out) <= 1
    else:
        assert objectives.OBJECTIVES["reverse"] is namespace["reverse"]


def test_links_and_configs_are_there():
    links = re.findall(r"\]\(((?!https?://)[^)#]+)\)", README)
    configs = re.findall(r"--config=([\w/]+\.py)", README)
    assert links and configs
    assert [path for path in [*links, *configs] if not (ROOT / path).exists()] == []


def test_modules_named_in_the_architecture_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:mixkd_jax|configs|tests|benchmarks|docs)/[\w/]+\.\w+)`", text))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
