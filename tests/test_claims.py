"""The rules on numbers that were made to hold them, to break them, or to leave them open."""

import dataclasses
import json

import pytest
import run_folders

from mixkd_jax.report import claims
from mixkd_jax.report.records import read

ARMS = ("ce", "kd", "mixkd")


@pytest.fixture
def root(tmp_path):
    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=ARMS, seeds=3))
    return tmp_path


def verdict(root, name):
    return next(claim.verdict for claim in claims.judge(read(root)) if claim.name == name)


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
        run_folders.change(root / "teacher/analysis.json", *peak, name, value)
    assert verdict(root, "C1") == expected
    unknown = {"count": 0, "mean": None, "stderr": None}
    run_folders.change(root / "teacher/analysis.json", *peak, "structure", unknown)
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
        run_folders.change(root / f"arms/mixkd/{seed}/analysis.json", *path, gain)
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
    run_folders.set_metric(root, "ce", "accuracy", [0.78, 0.78, 0.80])
    run_folders.set_metric(root, "mixkd", "accuracy", ours)
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
    run_folders.set_metric(root, "ce", "overconfidence", ce)
    run_folders.set_metric(root, "mixkd", "overconfidence", mixkd)
    assert verdict(root, "C4") == expected


def test_what_needs_options_or_seeds_or_an_analysis_is_not_testable(tmp_path):
    run_folders.make(tmp_path, arms=ARMS, seeds=1)
    found = claims.judge(read(tmp_path))
    assert [claim.name for claim in found] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    testable = [claim.name for claim in found if claim.verdict != "not testable here"]
    assert testable == ["C4"]


def test_without_arms_nothing_is_testable(tmp_path):
    run_folders.make(tmp_path, arms=())
    assert {claim.verdict for claim in claims.judge(read(tmp_path))} == {"not testable here"}


def test_overconfidence_is_shown_against_both_baselines(root):
    for arm, gap in (("ce", 0.2), ("kd", 0.05), ("mixkd", -0.01)):
        run_folders.set_metric(root, arm, "overconfidence", [gap] * 3)
    (found,) = (claim for claim in claims.judge(read(root)) if claim.name == "C4")
    assert found.numbers["factors"] == pytest.approx({"ce": 20, "kd": 5})
    assert "factor of 20.0 against ce and 5.0 against kd" in found.shows


def test_linearity_is_also_compared_with_mixup_and_kd(root):
    peak = ("splits", "test", "mixed", "all", "peak", "nonlinearity", "mean")
    for arm, values in (("kd", (0.5, 0.6, 0.7)), ("mixkd", (0.4, 0.4, 0.4))):
        for seed, value in enumerate(values):
            run_folders.change(root / f"arms/{arm}/{seed}/analysis.json", *peak, value)
    (found,) = (claim for claim in claims.judge(read(root)) if claim.name == "C2")
    assert found.numbers["kd - mixkd"]["mean"] == pytest.approx(0.2)
    assert "kd - mixkd: +0.200 [-0.048, +0.448]" in found.shows


def test_numbers_are_strict_json(root):
    json.dumps([dataclasses.asdict(claim) for claim in claims.judge(read(root))], allow_nan=False)
