import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.report import intervals
from mixkd_jax.report.records import read


def test_interval_is_student_s():
    values = np.random.default_rng(0).normal(3, 1, 6)
    found = intervals.interval(values)
    low, high = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    expected = {"mean": values.mean(), "std": values.std(ddof=1), "low": low, "high": high}
    assert found == pytest.approx({**expected, "seeds": 6})
    one = {"mean": 2.0, "std": None, "low": None, "high": None, "seeds": 1}
    assert intervals.interval([2.0]) == one
    assert intervals.interval([]) == {**one, "mean": None, "seeds": 0}


def test_differences_are_paired_by_seed(tmp_path):
    written = run_folders.make(tmp_path, seeds=4)
    (tmp_path / "arms/ce/2/evaluation.json").unlink()
    found = intervals.differences(read(tmp_path))
    assert list(found) == [
        *(f"{arm} - ce" for arm in ("mixup", "kd", "mixkd")),
        *(f"mixkd - {arm}" for arm in ("mixup", "kd")),
    ]
    for name, metrics in found.items():
        ours, theirs = name.split(" - ")
        seeds = [0, 1, 3] if theirs == "ce" else [0, 1, 2, 3]
        for metric, difference in metrics.items():
            a, b = (
                np.array([written[f"arms/{arm}/{s}"]["metrics"][metric] for s in seeds])
                for arm in (ours, theirs)
            )
            if metric == "overconfidence":
                a, b = np.abs(a), np.abs(b)
            low, high = stats.ttest_rel(a, b).confidence_interval(0.95)  # pyright: ignore[reportAttributeAccessIssue]
            won = np.sum(a > b) if metric == "accuracy" else np.sum(a < b)
            expected = {"mean": (a - b).mean(), "std": (a - b).std(ddof=1), "low": low}
            expected |= {"high": high, "seeds": len(seeds), "won": won}
            assert difference == pytest.approx(expected)


def test_an_arm_with_options_is_compared_with_the_baseline_and_its_base():
    arms = ["ce", "kd", "mixkd", "mixkd:temperature=4", "kd:temperature=4"]
    found = intervals.pairs(arms)
    assert [pair for pair in found if pair[0] == "mixkd:temperature=4"] == [
        ("mixkd:temperature=4", "ce"),
        ("mixkd:temperature=4", "mixkd"),
    ]
    assert ("mixkd", "kd") in found and ("mixkd", "kd:temperature=4") not in found
    assert len(found) == len(set(found)) == 7
    assert intervals.pairs(["mixkd:temperature=4"]) == []


def test_a_value_that_is_not_known_is_left_out(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=3)
    run_folders.change(tmp_path / "arms/kd/1/evaluation.json", "metrics", "nll", None)
    assert intervals.differences(read(tmp_path))["kd - ce"]["nll"]["seeds"] == 2


def test_numbers_of_analyses_by_seed(tmp_path):
    found = run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=("kd",), seeds=2))
    path = ("calibration", "scores", "aurc")
    values = intervals.analysis_values(read(tmp_path), "kd", *path)
    assert values == {s: found[f"arms/kd/{s}"]["calibration"]["scores"]["aurc"] for s in range(2)}
    assert intervals.analysis_values(read(tmp_path), "kd", "calibration", "nothing") == {}
    assert intervals.at({"a": {"b": 1}}, "a", "b", "c") is None


def test_lines_and_correlations_are_those_of_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    x = np.round(x, 1)  # with ties
    line = stats.linregress(x, y)
    assert intervals.slope(x, y) == pytest.approx(line.slope)  # pyright: ignore[reportAttributeAccessIssue]
    assert intervals.correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert intervals.rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert intervals.slope([1, 1], [1, 2]) is None and intervals.slope([1], [1]) is None
    assert intervals.correlation([1, 1], [1, 2]) == intervals.rank_correlation([1, 2], [3, 3]) == 0
