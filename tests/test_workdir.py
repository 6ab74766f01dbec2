import json
import os
import subprocess

import jax
import pytest
import small
from etils import epath
from ml_collections import FrozenConfigDict

from mixkd_jax import files, workdir
from mixkd_jax.config import ConfigError

VALUES = small.default_values()


def _claimed(folder, values=VALUES):
    folder = epath.Path(folder)
    workdir.check(folder, values)
    workdir.claim(folder, values, "python run.py", {"name": "small", "skipped": 2})
    return folder


def _refusal(folder, values=VALUES):
    before = small.files(folder.parent)
    with pytest.raises(ConfigError) as caught:
        workdir.check(epath.Path(folder), values)
    assert small.files(folder.parent) == before  # nothing was written
    message = str(caught.value)
    assert message.startswith("--workdir: ") and str(folder) in message
    return message


def test_a_new_folder_gets_a_config(tmp_path):
    folder = tmp_path / "runs" / "a"
    workdir.check(epath.Path(folder), VALUES)
    assert not folder.parent.exists()
    _claimed(folder)
    about = json.loads((folder / "config.json").read_text())
    assert about["config"] == json.loads(json.dumps(VALUES.to_dict()))
    assert about["config"]["seeds"] == [0, 1, 2, 3, 4]
    assert about["versions"]["jax"] == jax.__version__
    assert set(about["versions"]) == {"python", "mixkd-jax", *workdir.PACKAGES}
    assert len(about["devices"]) == 8 and about["devices"][0].startswith("cpu:0")
    assert about["command"] == "python run.py"
    assert about["data"] == {"name": "small", "skipped": 2}
    assert small.files(folder) == {"config.json"}


def test_the_commit_is_that_of_the_checkout(tmp_path):
    about = json.loads((_claimed(tmp_path / "a") / "config.json").read_text())
    git = ["git", "-C", os.path.dirname(workdir.__file__), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True)
    if head.returncode:
        assert about["git_commit"] is None
    else:
        assert about["git_commit"].split("+")[0] == head.stdout.strip()


def test_an_empty_folder_is_as_good_as_a_new_one(tmp_path):
    (tmp_path / "a").mkdir()
    assert (_claimed(tmp_path / "a") / "config.json").exists()


def test_the_same_config_is_continued_and_left_as_it_is(tmp_path):
    folder = _claimed(tmp_path / "a")
    (tmp_path / "a" / "teacher").mkdir()
    before = (folder / "config.json").read_bytes()
    workdir.check(folder, small.default_values())
    workdir.check(folder, VALUES.to_dict())
    workdir.check(folder, FrozenConfigDict(VALUES))  # pyright: ignore[reportArgumentType]
    workdir.claim(folder, VALUES, "another command", {"name": "other"})
    assert (folder / "config.json").read_bytes() == before


def test_a_run_killed_while_it_wrote_its_config_goes_on(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json.new").write_text('{"conf')
    folder = _claimed(tmp_path / "a")
    assert small.files(folder) == {"config.json"}
    workdir.check(folder, VALUES)


def test_another_config_is_refused_by_the_fields_that_differ(tmp_path):
    _claimed(tmp_path / "a")
    other = small.default_values(
        seeds=(0, 1), loss__temperature="std", student__schedule__milestones=("5 epochs",)
    )
    message = _refusal(tmp_path / "a", other)
    assert "config.seeds is [0, 1, 2, 3, 4] there and [0, 1] here" in message
    assert 'config.loss.temperature is "2" there and "std" here' in message
    assert 'config.student.schedule.milestones is ["150 epochs", "180 epochs"' in message
    assert message.count(" there and ") == 3


def test_a_config_of_other_fields_is_refused(tmp_path):
    old = small.default_values().to_dict()
    del old["loss"]["ce_weight"]
    old["loss"]["alpha"] = 0.5
    _claimed(tmp_path / "a", old)
    message = _refusal(tmp_path / "a")
    assert "config.loss.ce_weight is null there and 0.0 here" in message
    assert "config.loss.alpha is 0.5 there and null here" in message


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"model_type": "bert"}', "\udcff"], ids=repr
)
def test_a_config_json_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "which holds something else" in _refusal(tmp_path / "a")


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("precious")
    assert "which holds something else" in _refusal(tmp_path / "a")
    assert "which holds something else" in _refusal(tmp_path / "a" / "thesis.tex")


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "can be written to" in _refusal(tmp_path / "file" / "runs" / "a")


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    """By its permissions, which root has to be told of."""
    asked = []

    def access(path, mode):
        asked.append((os.fspath(path), mode))
        return False

    monkeypatch.setattr(os, "access", access)
    assert "can be written to" in _refusal(tmp_path / "runs" / "a")
    assert asked == [(str(tmp_path), os.W_OK)]


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"ä": 1})
    assert json.loads(path.read_text("utf-8")) == {"ä": 1}
    with pytest.raises(ValueError):
        files.write_json(path, float("nan"))
    monkeypatch.setattr(type(epath.Path(path)), "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed before its last act
        files.write_json(path, {"b": 2})
    assert json.loads(path.read_text("utf-8")) == {"ä": 1}
