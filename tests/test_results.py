import ast
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import run_folders

from mixkd_jax.folder import TIMES
from mixkd_jax.report import report, results

ROOT = pathlib.Path(__file__).parents[1]


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def set_metric(root, run, name, value):
    run_folders.change(root / run / "evaluation.json", "metrics", name, value)


def test_means_and_sample_deviations_are_those_of_numpy(tmp_path):
    written = run_folders.make(tmp_path, seeds=4)
    collected = results.collect(tmp_path)
    assert collected["teacher"] == written["teacher"]["metrics"]
    assert list(collected["arms"]) == ["ce", "mixup", "kd", "mixkd"]
    for arm, metrics in collected["arms"].items():
        assert list(metrics) == list(run_folders.METRICS)
        for name, statistics in metrics.items():
            values = [written[f"arms/{arm}/{seed}"]["metrics"][name] for seed in range(4)]
            assert statistics["values"] == values
            deviation = np.sqrt(np.sum((np.array(values) - np.mean(values)) ** 2) / 3)
            np.testing.assert_allclose(statistics["mean"], np.mean(values), rtol=1e-12)
            np.testing.assert_allclose(statistics["std"], deviation, rtol=1e-12)


def test_wins_are_seeds_strictly_better_than_ce_in_each_metric_s_direction(tmp_path):
    written = run_folders.make(tmp_path, seeds=6)
    wins = results.collect(tmp_path)["wins"]
    assert list(wins) == ["mixup", "kd", "mixkd"]
    cost = {name: lambda x: x for name in run_folders.METRICS}
    cost |= {"accuracy": lambda x: -x, "overconfidence": abs}
    for arm, metrics in wins.items():
        for name in run_folders.METRICS:
            ours, theirs = (
                np.array([cost[name](written[f"arms/{a}/{s}"]["metrics"][name]) for s in range(6)])
                for a in (arm, "ce")
            )
            assert metrics[name] == {"wins": int(np.sum(ours < theirs)), "seeds": 6}


def test_a_tie_is_no_win_and_only_seeds_of_both_arms_count(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=3)
    for seed, (ce, kd) in enumerate([(0.5, 0.5), (0.5, 0.6), (0.5, 0.4)]):
        set_metric(tmp_path, f"arms/ce/{seed}", "accuracy", ce)
        set_metric(tmp_path, f"arms/kd/{seed}", "accuracy", kd)
    assert results.collect(tmp_path)["wins"]["kd"]["accuracy"] == {"wins": 1, "seeds": 3}
    (tmp_path / "arms/ce/2/evaluation.json").unlink()
    collected = results.collect(tmp_path)
    assert collected["wins"]["kd"]["accuracy"] == {"wins": 1, "seeds": 2}
    assert collected["seeds"] == {"ce": [0, 1], "kd": [0, 1, 2]}


def test_seeds_are_in_the_order_of_their_numbers(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=0)
    rng = np.random.default_rng(1)
    written = {seed: run_folders.add_run(tmp_path, f"arms/ce/{seed}", rng) for seed in (10, 2, 0)}
    collected = results.collect(tmp_path)
    assert collected["seeds"]["ce"] == [0, 2, 10]
    values = [written[seed]["metrics"]["nll"] for seed in (0, 2, 10)]
    assert collected["arms"]["ce"]["nll"]["values"] == values


@pytest.mark.parametrize(
    ("config", "order"),
    [
        ({"arms": ["rld", "mixkd", "ce"]}, ["rld", "mixkd", "ce", "dkd"]),
        ({}, ["ce", "mixkd", "dkd", "rld"]),
    ],
)
def test_arms_are_in_the_order_of_the_config_or_the_usual_one(tmp_path, config, order):
    run_folders.make(tmp_path, arms=("rld", "mixkd", "dkd", "ce"), seeds=1, config=config)
    assert list(results.collect(tmp_path)["arms"]) == order


def test_one_seed_has_no_deviation(tmp_path):
    run_folders.make(tmp_path, seeds=1)
    collected = results.collect(tmp_path)
    assert collected["arms"]["kd"]["ece"]["std"] is None
    assert "±" not in results.table(collected)


def test_images_that_were_left_out_are_told(tmp_path):
    run_folders.make(tmp_path, seeds=1)
    about = json.loads((tmp_path / "config.json").read_text())
    for skipped, told in ((0, False), (1200, True)):
        run_folders.write_json(
            tmp_path / "config.json", {**about, "data": {"name": "a", "skipped": skipped}}
        )
        collected = results.collect(tmp_path)
        assert collected["data"] == {"name": "a", "skipped": skipped}
        text = results.table(collected)
        assert ("Broken images that were left out: 1,200." in text.splitlines()) == told
    run_folders.write_json(tmp_path / "skipped.json", ["a.jpg", "b.jpg"])  # of streams
    assert results.collect(tmp_path)["data"] == {"name": "a", "skipped": 1202}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_value_that_is_not_finite_is_null_and_not_averaged_away(tmp_path, value):
    run_folders.make(tmp_path)
    set_metric(tmp_path, "arms/kd/1", "nll", value)
    read = strict(json.dumps(results.collect(tmp_path), allow_nan=False))
    statistics = read["arms"]["kd"]["nll"]
    assert statistics["values"][1] is None
    assert statistics["mean"] is None and statistics["std"] is None
    assert read["wins"]["kd"]["nll"]["seeds"] == 2
    assert results.MISSING in results.table(read).splitlines()[6].split()


def test_only_evaluated_runs_count(tmp_path):
    run_folders.make(tmp_path)
    shutil.rmtree(tmp_path / "arms" / "kd")
    (tmp_path / "arms/mixkd/1/evaluation.json").unlink()
    (tmp_path / "teacher/evaluation.json").unlink()
    (tmp_path / "arms/ce/tmp").mkdir()
    collected = results.collect(tmp_path)
    assert collected["teacher"] == {}
    assert collected["seeds"] == {"ce": [0, 1, 2], "mixup": [0, 1, 2], "mixkd": [0, 2]}
    text = results.table(collected)
    assert "ce: 3, mixup: 3, mixkd: 2" in text and "teacher" not in text


def test_without_ce_there_are_no_wins(tmp_path):
    run_folders.make(tmp_path, arms=("kd", "mixkd"))
    assert results.collect(tmp_path)["wins"] == {}


def test_time_is_summed_over_runs(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=2)
    time = results.collect(tmp_path)["time"]
    files = [json.loads(path.read_text()) for path in tmp_path.rglob("time.json")]
    assert len(files) == 5
    for part in TIMES:
        np.testing.assert_allclose(time[part], np.sum([file[part] for file in files]))
    np.testing.assert_allclose(time["total"], np.sum([list(file.values()) for file in files]))


def test_a_metric_that_a_seed_lacks_is_not_averaged_over_the_others(tmp_path):
    run_folders.make(tmp_path)
    set_metric(tmp_path, "arms/kd/1", "extra", 1.0)
    extra = results.collect(tmp_path)["arms"]["kd"]["extra"]
    assert extra["values"] == [None, 1.0, None] and extra["mean"] is None


def test_the_total_is_the_time_on_the_wall_and_cpu_time_is_beside_it(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    known = results.collect(tmp_path)["time"]["total"]
    wall = {"wall": known + 30.0, "cpu": 1000.0, "sessions": 2}
    run_folders.write_json(tmp_path / "time.json", wall)
    time = results.collect(tmp_path)["time"]
    assert time["total"] == known + 30.0 and time["cpu"] == 1000.0
    assert time["other"] == pytest.approx(30.0)
    report.write(tmp_path)
    assert "in 2 sessions" in (tmp_path / "report.html").read_text()


def test_models_at_different_steps_are_never_averaged(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=3)
    run_folders.change(tmp_path / "arms/kd/0/evaluation.json", "step", 20)
    collected = results.collect(tmp_path)
    assert collected["seeds"] == {"ce": [0, 1, 2], "kd": [1, 2]}
    assert collected["behind"] == {"arms/kd/0": 20}
    assert "Not in the table: arms/kd/0, evaluated at step 20" in results.table(collected)


def test_warnings_are_told(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=2)
    (tmp_path / "arms/ce/1/evaluation.json").write_text("")
    assert "\nWarning: arms/ce/1/evaluation.json: " in results.table(results.collect(tmp_path))


def test_table_shows_each_figure_in_the_unit_of_its_column(tmp_path):
    written = run_folders.make(tmp_path, seeds=5)
    collected = results.collect(tmp_path)
    lines = results.table(collected).splitlines()
    assert max(map(len, lines)) <= 110
    names = [line.split()[0] for line in lines[3:8]]
    assert names == ["teacher", "ce", "mixup", "kd", "mixkd"]
    values = {
        name: np.array([written[f"arms/mixkd/{s}"]["metrics"][name] for s in range(5)])
        for name in run_folders.METRICS
    }
    scales = {"accuracy": 100, "ece": 100, "overconfidence": 100}
    decimals = {"nll": 3, "brier": 3, "nonlinearity": 4}
    for name, value in values.items():
        scale, digits = scales.get(name, 1), decimals.get(name, 2)
        sign = "+" if name == "overconfidence" else ""
        mean, std = scale * value.mean(), scale * value.std(ddof=1)
        assert f" {mean:{sign}.{digits}f} ± {std:.{digits}f}" in lines[7]
    wins = collected["wins"]["mixkd"]
    assert lines[7].endswith(f"{wins['accuracy']['wins']}/5, {wins['ece']['wins']}/5")


def test_table_as_markdown(tmp_path):
    run_folders.make(tmp_path)
    lines = results.table(results.collect(tmp_path), fmt="github").splitlines()
    assert all(line.startswith("|") and line.endswith("|") for line in lines[:7])
    assert "beats ce acc, ECE" in lines[0]


def test_results_load_neither_plotting_nor_training_libraries():
    heavy = "{'matplotlib', 'jinja2', 'flax', 'optax', 'orbax'}"
    code = f"import sys, mixkd_jax.report.results; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_nothing_of_a_report_imports_jax_or_what_trains():
    allowed = {"errors", "files", "folder", "report"}
    for path in (ROOT / "mixkd_jax/report").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                first, _, rest = name.partition(".")
                assert first not in ("jax", "flax", "optax", "orbax"), path
                assert first != "mixkd_jax" or rest.partition(".")[0] in allowed, path
