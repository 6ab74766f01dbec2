import json
import os
import shutil
import subprocess

import jax
import pytest
import small
from etils import epath
from ml_collections import FrozenConfigDict

from mixkd_jax import config, files
from mixkd_jax.config import ConfigError
from mixkd_jax.folder import Folder
from mixkd_jax.run import lock, workdir

VALUES = small.default_values()


def _claimed(folder, values=VALUES):
    joined = workdir.joined(Folder.at(folder), values)
    workdir.claim(Folder.at(folder), joined, "python run.py", {"name": "small", "skipped": 2})
    return epath.Path(folder)


def _refusal(folder, values=VALUES):
    before = small.files(folder.parent)
    with pytest.raises(ConfigError) as caught:
        workdir.joined(Folder.at(folder), values)
    assert small.files(folder.parent) == before  # nothing was written
    message = str(caught.value)
    assert message.startswith("--workdir: ") and str(folder) in message
    return message


def test_a_new_folder_gets_a_config(tmp_path):
    folder = tmp_path / "runs" / "a"
    workdir.joined(Folder.at(folder), VALUES)
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
    head = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    if head is None or head.returncode:
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
    for values in (small.default_values(), VALUES.to_dict(), FrozenConfigDict(VALUES)):
        joined = workdir.joined(Folder.at(folder), values)  # pyright: ignore[reportArgumentType]
        workdir.claim(Folder.at(folder), joined, "another command", {"name": "other"})
    assert (folder / "config.json").read_bytes() == before


def test_a_run_killed_while_it_wrote_its_config_goes_on(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json.new").write_text('{"conf')
    folder = _claimed(tmp_path / "a")
    assert small.files(folder) == {"config.json"}
    workdir.joined(Folder.at(folder), VALUES)


def test_another_config_is_refused_by_the_fields_that_differ(tmp_path):
    _claimed(tmp_path / "a")
    other = small.default_values(
        seed=1, loss__temperature="std", student__schedule__milestones=("5 epochs",)
    )
    message = _refusal(tmp_path / "a", other)
    assert "config.seed is 0 there and 1 here" in message
    assert 'config.loss.temperature is null there and "std" here' in message
    assert 'config.student.schedule.milestones is ["150 epochs", "180 epochs"' in message
    assert message.count(" there and ") == 3


def test_a_config_of_other_fields_is_refused(tmp_path):
    old = small.default_values().to_dict()
    del old["loss"]["name"]
    old["loss"]["alpha"] = 0.5
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps({"config": old}))
    message = _refusal(tmp_path / "a")
    assert 'config.loss.name is null there and "kl" here' in message
    assert "config.loss.alpha is 0.5 there and null here" in message


def test_a_run_gets_arms_and_seeds_and_keeps_its_own(tmp_path):
    folder = _claimed(tmp_path / "a", small.default_values(arms=("ce", "kd"), seeds=(3, 0)))
    more = small.default_values(arms=("kd", "kd:temperature=4"), seeds=(1, 3))
    joined = workdir.joined(Folder.at(folder), more)
    assert joined["arms"] == ["ce", "kd", "kd:temperature=4"] and joined["seeds"] == [3, 0, 1]
    before = json.loads((folder / "config.json").read_text())
    workdir.claim(Folder.at(folder), joined, "python run.py --more", {})
    after = json.loads((folder / "config.json").read_text())
    assert after == {**before, "config": joined, "command": "python run.py --more"}


@pytest.mark.parametrize(
    ("best", "field", "value"),
    [
        ("ece", "log__every", "7 steps"),
        ("nll", "log__validate_every", "7 steps"),
        ("ece", "evaluation__num_bins", 7),
    ],
)
def test_what_chooses_the_best_state_may_not_differ(tmp_path, best, field, value):
    folder = _claimed(tmp_path / "a", small.default_values(checkpoint__best=best))
    other = small.default_values(checkpoint__best=best, **{field: value})
    assert f"config.{field.replace('__', '.')} is " in _refusal(folder, other)
    free = small.default_values(checkpoint__best="accuracy", evaluation__num_bins=7)
    old = _claimed(tmp_path / "b", small.default_values(checkpoint__best="accuracy"))
    workdir.joined(Folder.at(old), free)


def test_fields_that_change_no_model_may_differ(tmp_path):
    folder = _claimed(tmp_path / "a")
    free = [row.path for row in config.rows() if row.changes in ("measures", "nothing")]
    assert set(free) == {
        "config.data.dir",
        "config.data.download",
        "config.data.workers",
        "config.data.prefetch",
        "config.evaluation.batch_size",
        "config.evaluation.num_bins",
        *(f"config.analysis.{name}" for name in ("pairs", "path_pairs", "corrupted_images")),
        *(f"config.log.{name}" for name in ("every", "validate_every", "progress_seconds")),
        *(f"config.checkpoint.{name}" for name in ("every", "keep")),
        "config.compilation_cache",
    }
    other = small.default_values(
        data__dir="b", data__workers=1, evaluation__num_bins=3, log__every="7 steps"
    )
    joined = workdir.joined(Folder.at(folder), other)
    workdir.claim(Folder.at(folder), joined, "", {})
    about = json.loads((folder / "config.json").read_text())
    assert about["config"]["evaluation"]["num_bins"] == 3


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"model_type": "bert"}', "\udcff"], ids=repr
)
def test_a_config_json_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    refusal = _refusal(tmp_path / "a")
    assert "which holds something else" in refusal
    advice = "put back a copy, or name another folder"
    config_json = tmp_path / "a" / "config.json"
    assert refusal.endswith(f"{config_json} is damaged, or no run's; {advice}")


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


def test_names_that_are_not_utf8_are_written_and_read_again(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    files.write_json(tmp_path / "a.json", {"names": [name, "café"]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"names": [name, "café"]}


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    message = f"got {tmp_path / 'link'}, a link to {tmp_path / 'gone'}, which isn't there"
    with pytest.raises(ConfigError, match=message), lock.held(Folder.at(tmp_path / "link")):
        pass


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


@pytest.mark.parametrize(
    "name", ["tables", "lock", "metrics.jsonl", "arms", "arms/kd", "arms/kd/0", "teacher/time.json"]
)
def test_links_in_a_folder_are_not_followed(tmp_path, name):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    link = run / name
    link.parent.mkdir(parents=True)
    if "." in name or name == "lock":
        elsewhere.write_text("mine")
    else:
        elsewhere.mkdir()
    link.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=f"expected no links .*{name}, which"):
        with lock.held(Folder.at(run)):
            pass
    assert link.is_symlink() and (elsewhere.is_dir() or elsewhere.read_text() == "mine")
    link.unlink()
    (tmp_path / "linked").symlink_to(run)  # the folder itself may be one
    with lock.held(Folder.at(tmp_path / "linked")):
        pass
