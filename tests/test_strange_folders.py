"""Folders of strangers: whatever they hold, a report and a comparison are made, or one message."""

import itertools
import json
import shutil

import pytest
import run_folders

from mixkd_jax.config import ConfigError
from mixkd_jax.report import results, sentences, tables
from mixkd_jax.report.panels import panels
from mixkd_jax.report.records import read
from mixkd_jax.report.report import _page  # pyright: ignore[reportPrivateUsage]

STRANGE = (None, True, -1, 1e308, 10**30, "x", "\ud800", [], ["x"], {}, {"x": None}, [[[]]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    arms = ("ce", "mixkd", "mixkd:temperature=4")
    run_folders.add_analyses(root, run_folders.make(root, arms=arms, seeds=2))
    run_folders.add_recipes(root)
    return root


def places(content, place=()):
    """All places of a JSON value, of lists the first entry alone."""
    entries = content.items() if isinstance(content, dict) else enumerate(content[:1])
    for name, entry in entries:
        yield (*place, name)
        if isinstance(entry, dict | list):
            yield from places(entry, (*place, name))


def show(root):
    """Everything of a report but its files: numbers, figures, tables, and the page's text."""
    records = read(root)
    summary = results.summarize(records)
    json.dumps(summary, allow_nan=False, ensure_ascii=False).encode()
    return _page(
        records, summary, {name: [] for name in panels(records, summary)}, tables.every(summary)
    )


FILES = ("config.json", "teacher/evaluation.json", "arms/mixkd/1/evaluation.json")
FILES += ("arms/mixkd/1/analysis.json", "teacher/time.json")
MOST = 25  # places of a file, evenly spread


@pytest.mark.parametrize("file", FILES)
def test_any_value_anywhere_is_survived(whole, tmp_path, file):
    """Places hold strange values in turn: numbers are made, and no traceback."""
    content = json.loads((whole / file).read_text())
    root = tmp_path / "run"
    shutil.copytree(whole, root)
    found = list(places(content))
    for place, value in zip(found[:: -(-len(found) // MOST)], itertools.cycle(STRANGE)):  # noqa: B905
        run_folders.change(root / file, *place, value)
        records = read(root)
        summary = results.summarize(records)
        json.dumps(summary, allow_nan=False, ensure_ascii=False).encode()
        sentences.facts(records, summary)
        (root / file).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("config.json", ("data",), {"name": "a", "class_names": "x", "skipped": "y"}),
        ("config.json", ("config", "teacher"), [1, {"deep": {"er": [None]}}]),
        ("config.json", ("versions",), {"jax": {"x": 1}}),
        ("arms/mixkd/1/evaluation.json", ("metrics", "nll"), None),
        ("arms/mixkd/1/evaluation.json", ("recipe", "options", "temperature"), ["hot"]),
        ("arms/mixkd/1/analysis.json", ("splits", "test", "mixed", "all", "bins"), {}),
        ("arms/mixkd/1/analysis.json", ("splits", "test", "mixed", "different", "peak"), {}),
        ("teacher/analysis.json", ("corruption",), None),
    ],
)
def test_the_page_is_made_of_strange_values(whole, tmp_path, file, place, value):
    root = tmp_path / "run"
    shutil.copytree(whole, root)
    run_folders.change(root / file, *place, value)
    assert "</html>" in show(root)


@pytest.mark.parametrize("name", ["$x$", "\\frac{1}{2}", "実験", "a b", "<i>", "=1+1", "x" * 120])
def test_any_name_of_an_arm_is_shown(tmp_path, name):
    run_folders.make(tmp_path, arms=("ce", name), seeds=1)
    page = show(tmp_path)
    assert name.replace("<", "&lt;").replace(">", "&gt;") in page


def test_two_spellings_of_a_seed_are_one_seed(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    shutil.copytree(tmp_path / "arms/ce/0", tmp_path / "arms/ce/00")
    assert read(tmp_path).seeds("ce") == [0]


def test_folders_in_the_place_of_files_and_the_reverse(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=1)
    (tmp_path / "arms/ce/0/evaluation.json").unlink()
    (tmp_path / "arms/ce/0/evaluation.json").mkdir()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "skipped.json").mkdir()
    records = read(tmp_path)
    assert records.arms == ["kd"] and len(records.warnings) == 2
    shutil.rmtree(tmp_path / "arms")
    (tmp_path / "arms").write_text("no folder")
    assert read(tmp_path).arms == []


@pytest.mark.parametrize("text", ["[]", "5", "null", "[" * 100_000, "\x00", '{"a": 1'])
def test_a_config_that_is_none_is_one_message(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json: .*put back a copy"):
        read(tmp_path)
