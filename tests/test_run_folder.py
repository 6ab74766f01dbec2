import pytest
import run_folders

from mixkd_jax.evaluation import run_folder


def test_log_keeps_the_last_record_of_a_step_and_counts_broken_lines(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"run": "teacher", "step": 20, "epoch": 1.0, "loss": 7.0}\n')
        log.write('{"run": "elsewhere", "step": 20}\n[1]\n\n')
        log.write('{"run": "teacher", "step": 5')
    folder = run_folder.read(tmp_path)
    assert [record["step"] for record in folder.log["teacher"]] == [10, 20, 30, 40]
    assert folder.log["teacher"][1]["loss"] == 7.0
    assert folder.broken_lines == 3


def test_first_stages_are_no_runs_of_their_own(tmp_path):
    run_folders.make(tmp_path, arms=("ce",), seeds=1)
    before = run_folder.read(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"run": "head/teacher", "step": 5}\n{"run": "head/student/0", "step": 5}\n')
    assert run_folder.read(tmp_path) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        run_folder.read(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    run_folders.make(tmp_path)
    (tmp_path / "arms/kd/1/evaluation.json").write_text('{"metrics": ')
    with pytest.raises(ValueError, match=r"arms/kd/1/evaluation\.json: expected JSON"):
        run_folder.read(tmp_path)


def test_runs_are_read_and_ordered(tmp_path):
    written = run_folders.make(tmp_path, seeds=2)
    folder = run_folder.read(tmp_path)
    assert folder.evaluations == written
    assert list(folder.evaluations) == list(folder.times) == list(folder.log) == list(written)
    assert folder.arms() == ["ce", "mixup", "kd", "mixkd"]
    assert folder.seeds("kd") == [0, 1]
    assert folder.broken_lines == 0
