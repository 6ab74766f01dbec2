"""The rules on numbers that were made to hold them, to break them, or to leave them open."""

import json

import pytest
import run_folders

from mixkd_jax.evaluation import claims
from mixkd_jax.evaluation.run_folder import read

ARMS = ("ce", "kd", "mixkd")


@pytest.fixture
def root(tmp_path):
    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=ARMS, seeds=3))
    return tmp_path


def change(root, run, file, path, value):
    """Sets one number of a JSON file."""
    target = root / run / file
    content = json.loads(target.read_text())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    target.write_text(json.dumps(content))


def verdict(root, name):
    return next(claim.verdict for claim in claims.judge(read(root)) if claim.name == name)


def set_metric(root, arm, metric, values):
    for seed, value in enumerate(values):
        change(root, f"arms/{arm}/{seed}", "evaluation.json", ("metrics", metric), value)


@pytest.mark.parametrize(
    ("excess", "reference", "structure", "expected"),
    [
        (0.30, 0.10, 0.2, "supported"),
        (0.11, 0.10, 0.2, "not supported"),  # 0.11 - 1.96 * 0.01 is below 0.10
        (0.30, 0.10, 0.70, "not supported"),  # 0.70 + 1.96 * 0.01 is above 0.707
    ],
)
def test_confusion(root, excess, reference, structure, expected):
    peak = ("splits", "test", "mixed", "different", "peak")
    means = {"outside_excess": excess, "outside_reference": reference, "structure": structure}
    for name, mean in means.items():
        value = {"count": 50, "mean": mean, "stderr": 0.01}
        change(root, "teacher", "analysis.json", (*peak, name), value)
    assert verdict(root, "C1") == expected
    unknown = {"count": 0, "mean": None, "stderr": None}
    change(root, "teacher", "analysis.json", (*peak, "structure"), unknown)
    assert verdict(root, "C1") == "not testable here"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.1, 0.11, 0.12], "supported"),
        ([0.1, -0.05, 0.12], "not supported"),
        ([-0.1, -0.11, -0.12], "not supported"),
    ],
)
def test_linearity(root, gains, expected):
    path = ("splits", "test", "mixed", "all", "peak", "linearity_gain", "mean")
    for seed, gain in enumerate(gains):
        change(root, f"arms/mixkd/{seed}", "analysis.json", path, gain)
    assert verdict(root, "C2") == expected


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([0.82, 0.83, 0.84], "supported"),
        ([0.82, 0.83, 0.70], "not supported"),
        ([0.72, 0.73, 0.74], "not supported"),
    ],
)
def test_accuracy(root, ours, expected):
    set_metric(root, "ce", "accuracy", [0.78, 0.78, 0.80])
    set_metric(root, "mixkd", "accuracy", ours)
    assert verdict(root, "C3") == expected


@pytest.mark.parametrize(
    ("ce", "mixkd", "expected"),
    [
        ([0.1, 0.2, 0.3], [0.02, -0.02, 0.01], "supported"),  # 0.2 / 0.0167
        ([0.1, 0.2, 0.3], [0.03, -0.03, 0.03], "not supported"),  # its mean size, not its mean
        ([-0.1, -0.2, 0.1], [0.01, 0.01, 0.01], "not testable here"),
    ],
)
def test_overconfidence(root, ce, mixkd, expected):
    set_metric(root, "ce", "overconfidence", ce)
    set_metric(root, "mixkd", "overconfidence", mixkd)
    assert verdict(root, "C4") == expected


def test_what_needs_several_runs_or_seeds_or_an_analysis_is_not_testable(tmp_path):
    run_folders.make(tmp_path, arms=ARMS, seeds=1)
    found = claims.judge(read(tmp_path))
    assert [claim.name for claim in found] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    testable = [claim.name for claim in found if claim.verdict != "not testable here"]
    assert testable == ["C4"]


def test_without_arms_nothing_is_testable(tmp_path):
    run_folders.make(tmp_path, arms=())
    assert {claim.verdict for claim in claims.judge(read(tmp_path))} == {"not testable here"}
