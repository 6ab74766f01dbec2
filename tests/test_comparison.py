import json

import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.evaluation import comparison
from mixkd_jax.evaluation.run_folder import read


def test_interval_is_student_s():
    values = np.random.default_rng(0).normal(3, 1, 6)
    found = comparison.interval(values)
    low, high = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    assert found == pytest.approx({"mean": values.mean(), "low": low, "high": high, "seeds": 6})
    assert comparison.interval([2.0]) == {"mean": 2.0, "low": None, "high": None, "seeds": 1}
    assert comparison.interval([])["mean"] is None


def test_differences_are_paired_by_seed(tmp_path):
    written = run_folders.make(tmp_path, seeds=4)
    (tmp_path / "arms/ce/2/evaluation.json").unlink()
    found = comparison.differences(read(tmp_path))
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
            expected = {"mean": (a - b).mean(), "low": low, "high": high}
            assert difference == pytest.approx({**expected, "seeds": len(seeds), "won": won})


def test_a_value_that_is_not_known_is_left_out(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=3)
    path = tmp_path / "arms/kd/1/evaluation.json"
    content = json.loads(path.read_text())
    content["metrics"]["nll"] = None
    path.write_text(json.dumps(content))
    assert comparison.differences(read(tmp_path))["kd - ce"]["nll"]["seeds"] == 2


def test_numbers_of_analyses_by_seed(tmp_path):
    found = run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=("kd",), seeds=2))
    folder = read(tmp_path)
    path = ("calibration", "scores", "aurc")
    values = comparison.analysis_values(folder, "kd", *path)
    assert values == {s: found[f"arms/kd/{s}"]["calibration"]["scores"]["aurc"] for s in range(2)}
    assert comparison.analysis_values(folder, "kd", "calibration", "nothing") == {}
    assert comparison.at({"a": {"b": 1}}, "a", "b", "c") is None
