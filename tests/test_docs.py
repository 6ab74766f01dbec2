"""The examples of the ops run: doctests of their modules and the code of docs/ops.md."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest

from mixkd_jax import calibration, losses, mixup, representation, vicinal

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "ops.md").read_text(encoding="utf-8")
BLOCKS = {
    f"{title} {i}": code
    for title, section in re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", PAGE, re.M)
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", section, re.M | re.S))
}


def op_modules():
    for root in (mixup, losses, calibration, vicinal, representation):
        yield root.__name__
        for found in pkgutil.iter_modules(getattr(root, "__path__", []), root.__name__ + "."):
            yield found.name


@pytest.mark.parametrize("name", list(op_modules()))
def test_docstring_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    if "._" not in name and not hasattr(importlib.import_module(name), "__path__"):
        assert results.attempted > 0


@pytest.mark.parametrize("title", BLOCKS)
def test_code_of_the_page(title):
    exec(compile(BLOCKS[title], f"docs/ops.md: {title}", "exec"), {"__name__": "example"})


def test_the_page_has_an_example_for_each_kind_of_model_and_names_every_op():
    for kind in ("plain JAX", "Flax Linen", "Flax NNX", "by hand"):
        assert any(kind in title for title in BLOCKS), kind
    for module in (mixup, losses, calibration, vicinal, representation):
        for name in module.__all__:
            assert re.search(rf"\b{name}\b", PAGE), f"{name} is not on the page"
