import json
import shutil

import pytest
import run_folders

from mixkd_jax.config import ConfigError
from mixkd_jax.folder import Folder, split_name, student_name
from mixkd_jax.report.records import by_model, read


def test_models_are_read_and_ordered(tmp_path):
    written = run_folders.make(tmp_path, seeds=2)
    records = read(tmp_path)
    assert records.evaluations == written
    assert list(records.evaluations) == list(records.times) == list(records.log) == list(written)
    assert records.arms == ["ce", "mixup", "kd", "mixkd"]
    assert records.seeds("kd") == [0, 1]
    assert records.warnings == [] and records.behind == {} and records.missing() == []


def test_arms_with_options_are_called_as_the_config_writes_them(tmp_path):
    arms = ("kd", "mixkd:temperature=4:alpha=0.5")
    run_folders.make(tmp_path, arms=arms, seeds=2)
    run_folders.add_recipes(tmp_path)
    records = read(tmp_path)
    assert records.arms == list(arms)
    assert records.recipe(arms[1])["options"]["temperature"] == 4.0
    assert list(by_model(records, records.log)) == ["teacher", *arms]


@pytest.mark.parametrize(
    "name", ["arms/ce/00", "arms/ce/-1", "arms/ce/x", "arms/ce", "arms/a:b/0", "arms//0", "teacher"]
)
def test_a_student_has_one_name(name):
    assert split_name(name) is None
    assert split_name(student_name("mixkd:temperature=4", 12)) == ("mixkd:temperature=4", 12)


def test_names_on_disk_are_those_of_the_folder(tmp_path):
    run_folders.make(tmp_path, arms=("kd",), seeds=12)
    (tmp_path / "arms/kd/007").mkdir()
    (tmp_path / "arms/readme").write_text("no arm")
    names = [f"arms/kd/{seed}" for seed in range(12)]
    assert Folder.at(tmp_path).model_names() == ["teacher", *names]


def test_log_keeps_the_last_record_of_a_step_and_counts_broken_lines(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"run": "teacher", "step": 20, "epoch": 1.0, "loss": 7.0}\n')
        log.write('{"run": "elsewhere", "step": 20}\n[1]\n\n')
        log.write('{"run": "teacher", "step": 5')
    records = read(tmp_path)
    assert [line["step"] for line in records.log["teacher"]] == [10, 20, 30, 40]
    assert records.log["teacher"][1]["loss"] == 7.0
    assert records.warnings == ["metrics.jsonl: 3 unreadable lines left out."]


def test_first_stages_are_no_models_of_their_own(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    before = read(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"run": "head/teacher", "step": 5}\n{"run": "head/student/0", "step": 5}\n')
    assert read(tmp_path) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        read(tmp_path)


def test_a_config_that_is_torn_is_named(tmp_path):
    run_folders.make(tmp_path)
    (tmp_path / "config.json").write_text('{"config": ')
    with pytest.raises(ConfigError, match=r"config\.json: is not JSON .* put back a copy"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["evaluation", "analysis", "time"])
@pytest.mark.parametrize("text", ["", '{"step": 4', "[]", "[" * 100_000, '{"step": "x"}', "\xff"])
def test_a_torn_file_counts_as_missing_and_is_named(tmp_path, kind, text):
    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, seeds=2))
    (tmp_path / f"arms/kd/1/{kind}.json").write_text(text, "latin-1")
    records = read(tmp_path)
    (warning,) = records.warnings
    assert warning.startswith(f"arms/kd/1/{kind}.json: ") and "counts as missing" in warning
    files = {
        "evaluation": records.evaluations,
        "analysis": records.analyses,
        "time": records.times,
    }[kind]
    assert "arms/kd/1" not in files and "arms/kd/0" in files
    assert records.missing() == (["kd: seed 1"] if kind == "evaluation" else [])


def test_students_of_an_earlier_step_are_set_apart(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"), seeds=2)
    run_folders.change(tmp_path / "arms/kd/0/evaluation.json", "step", 20)
    records = read(tmp_path)
    assert records.behind == {"arms/kd/0": 20}
    assert records.seeds("kd") == [1] and records.missing() == ["kd: seed 0"]


def test_an_analysis_of_another_step_than_the_evaluation_counts_as_missing(tmp_path):
    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=("kd",), seeds=2))
    run_folders.change(tmp_path / "arms/kd/0/analysis.json", "step", 20)
    records = read(tmp_path)
    assert list(records.analyses) == ["teacher", "arms/kd/1"]
    assert "arms/kd/0/analysis.json: of step 20" in records.warnings[0]


def test_lists_of_other_lengths_than_the_others_are_left_out(tmp_path):
    run_folders.make(tmp_path, arms=("kd",), seeds=2)
    path = tmp_path / "arms/kd/1/evaluation.json"
    bins = {name: [1.0] * 10 for name in ("count", "confidence", "correct")}
    run_folders.change(path, "bins", bins)
    assert read(tmp_path).seeds("kd") == [0]
    run_folders.change(tmp_path / "arms/kd/0/evaluation.json", "bins", "count", [1.0])
    assert "expected lists of 15 numbers" in read(tmp_path).warnings[0]


def test_what_is_missing(tmp_path):
    config = {"arms": ["ce", "mixup", "kd", "mixkd", "dkd"], "seeds": [0, 1, 2]}
    run_folders.make(tmp_path, config=config)
    (tmp_path / "arms/kd/1/evaluation.json").unlink()
    shutil.rmtree(tmp_path / "arms" / "mixkd")
    (tmp_path / "teacher/evaluation.json").unlink()
    expected = ["teacher", "kd: seed 1", "mixkd: seeds 0, 1, 2", "dkd: seeds 0, 1, 2"]
    assert read(tmp_path).missing() == expected


@pytest.mark.parametrize("config", [{}, {"arms": 5, "seeds": "0"}, {"seeds": [True, -1]}])
def test_what_the_files_show_begun_is_expected_where_the_config_names_none(tmp_path, config):
    run_folders.make(tmp_path, arms=("ce", "kd"), config=config)
    assert read(tmp_path).missing() == []
    (tmp_path / "arms/kd/2/evaluation.json").unlink()
    assert read(tmp_path).missing() == ["kd: seed 2"]


def test_seeds_that_the_config_names_are_expected(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), config={"arms": ["ce"], "seeds": [0, 2, 7]})
    assert read(tmp_path).missing() == ["ce: seed 7"]


def test_numbers_that_are_none_are_none(tmp_path):
    run_folders.make(tmp_path, arms=("kd",), seeds=1)
    path = tmp_path / "arms/kd/0/evaluation.json"
    text = path.read_text()
    for value in ("NaN", "-Infinity", "1e999", "1" * 5000):
        content = json.loads(text)
        content["metrics"]["nll"] = "here"
        path.write_text(json.dumps(content).replace('"here"', value))
        assert read(tmp_path).evaluations["arms/kd/0"]["metrics"]["nll"] is None


def test_updates_that_were_left_out_are_told(tmp_path):
    run_folders.make(tmp_path, arms=("kd",), seeds=1)
    lines = [{"run": "arms/kd/0", "step": step, "skipped_updates": 2.0} for step in (20, 40)]
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)
    told = "arms/kd/0: 4 updates were left out, for they were not finite."
    assert told in read(tmp_path).warnings
