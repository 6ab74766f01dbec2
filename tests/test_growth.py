"""Runs of which no number depends on which others are trained, so that they can grow."""

import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import small

from mixkd_jax.config import ConfigError
from mixkd_jax.folder import student_name
from mixkd_jax.training import group, sharding
from mixkd_jax.training.preemption import Stopped

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")
EIGHT = (
    "ce",
    "kd",
    "mixkd:teacher_temperature=0.5",
    "mixkd:loss=dkd:kd_weight=0.5",
    "mixkd",
    "mixkd:temperature=std",
    "mixkd:alpha=0.3",
    "mixkd:temperature=4",
)
FIRST, MORE = ("ce", "mixkd"), ("mixkd:temperature=4", "kd:teacher_temperature=fit")
REPORTS = ("config.json", "time.json", "results.json", "report.html", "figures", "tables")


@pytest.fixture(autouse=True, scope="module")
def linear():
    with small.linear_models():
        yield


def _values(**changes):
    return small.values(
        **{
            "teacher__model": "linear",
            "student__model": "linear",
            "seeds": (0,),
            "checkpoint__every": "20 steps",  # each takes longer than all steps together
            "data__validation_examples": 16,
            "analysis__pairs": 10,
            "analysis__path_pairs": 2,
            "analysis__corrupted_images": 4,
            **changes,
        }
    )


def _json(path):
    return json.loads(pathlib.Path(path).read_text())


def _bytes(folder):
    """{name: content} of all files but the report's and those that tell the time."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in named.items()
        if not name.startswith((*REPORTS, "metrics.jsonl"))
    }


def _state(folder, step=10):
    with ocp.PyTreeCheckpointer() as checkpointer:
        return small.bits(checkpointer.restore(folder / str(step) / "state"))


def _model(folder, name):
    """All that a run found of a model: its last state, its lines, and its measures as bytes."""
    root = pathlib.Path(folder)
    path = root / name
    lines = [line for line in small.lines(root) if line["run"] == name]
    measures = {file.name: file.read_bytes() for file in path.glob("[ae]*.json")}
    assert len(lines) == 4 and "evaluation.json" in measures
    return _state(path, 12 if name == "teacher" else 10), lines, measures


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_an_arm_is_the_same_alone_and_among_eight(tmp_path, monkeypatch, devices):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    monkeypatch.setattr(sharding, "data_mesh", lambda: mesh)
    small.run(tmp_path / "one", _values(arms=("mixkd",), analysis__pairs=0))
    small.run(tmp_path / "eight", _values(arms=EIGHT, analysis__pairs=0))
    for name in ("teacher", "arms/mixkd/0"):
        assert _model(tmp_path / "one", name) == _model(tmp_path / "eight", name)
    ends = [_state(tmp_path / "eight" / student_name(arm, 0)) for arm in EIGHT]
    params = {end["['params']['Dense_0']['kernel']"] for end in ends}
    assert len(params) == len(EIGHT)  # each arm does something else


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two arms and one seed; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    small.run(folder, _values(arms=FIRST))
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it."""
    import shutil

    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_that_gets_arms_and_a_seed_keeps_every_file(copied, tmp_path):
    before, text = _bytes(copied), (copied / "metrics.jsonl").read_text()
    small.run(copied, _values(arms=(*FIRST, *MORE), seeds=(0, 1)))
    after = _bytes(copied)
    assert {name for name in before if after.get(name) != before[name]} == set()
    assert (copied / "metrics.jsonl").read_text().startswith(text)
    about = _json(copied / "config.json")["config"]
    assert (about["arms"], about["seeds"]) == ([*FIRST, *MORE], [0, 1])

    # And all that is new is as it would have been from the start.
    small.run(tmp_path / "start", _values(arms=(*FIRST, *MORE), seeds=(0, 1)))
    names = [student_name(arm, s) for arm in (*FIRST, *MORE) for s in (0, 1)]
    for name in ("teacher", *names):
        assert _model(copied, name) == _model(tmp_path / "start", name), name


def test_arms_that_are_not_named_again_stay(copied):
    before = _bytes(copied)
    small.run(copied, _values(arms=("kd",)))
    after = _bytes(copied)
    assert {name for name in before if after.get(name) != before[name]} == set()
    assert "arms/kd/0/evaluation.json" in after
    assert _json(copied / "config.json")["config"]["arms"] == [*FIRST, "kd"]


def test_a_finished_run_may_differ_in_what_changes_no_result(copied, monkeypatch):
    before, log = _bytes(copied), (copied / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(group, "train", lambda *_: 1 / 0)
    small.run(
        copied,
        _values(
            arms=FIRST,
            log__every="1 steps",
            log__progress_seconds=3.0,
            log__validate_every="2 steps",
            checkpoint__every="2 steps",
            checkpoint__keep=5,
            evaluation__batch_size=24,
            data__dir="elsewhere",
            data__workers=1,
            data__download=False,
        ),
    )
    assert _bytes(copied) == before and (copied / "metrics.jsonl").read_bytes() == log


def test_what_is_measured_anew_is_measured_without_training(copied, monkeypatch):
    before = _bytes(copied)
    monkeypatch.setattr(group, "take_step", lambda *_: 1 / 0)
    small.run(copied, _values(arms=FIRST, evaluation__num_bins=7, analysis__pairs=12))
    after = _bytes(copied)
    for name in ("teacher", "arms/ce/0", "arms/mixkd/0"):
        old, new = (
            json.loads(before[f"{name}/evaluation.json"]),
            _json(copied / name / "evaluation.json"),
        )
        assert len(old["bins"]["count"]) == 15 and len(new["bins"]["count"]) == 7
        assert new["metrics"]["accuracy"] == old["metrics"]["accuracy"]
        analysis = _json(copied / name / "analysis.json")
        assert analysis["splits"]["test"]["pairs"] == 12
        assert len(analysis["calibration"]["reliability"]["count"]) == 7
    changed = {name for name in before if after.get(name) != before[name]}
    assert {name.rpartition("/")[2] for name in changed} == {
        "evaluation.json",
        "analysis.json",
        "time.json",
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"student__duration": "11 steps"}, ['student.duration is "10 steps" there and "11 st']),
        ({"loss__temperature": "3"}, ["loss.temperature is null there and "]),
        ({"mixup__alpha": 0.3, "seed": 1}, ["seed is 0 there and 1 here", "mixup.alpha is 1.0 th"]),
        ({"data__noise": 0.1}, ["data.noise is 0.0 there and 0.1 here"]),
    ],
    ids=str,
)
def test_what_would_change_a_model_is_refused_by_its_fields(finished, changes, named):
    before = small.files(finished)
    with pytest.raises(ConfigError, match="holds a run of another config: config.") as caught:
        small.run(finished, _values(arms=(*FIRST, "kd"), **changes))
    assert all(f"config.{part}" in str(caught.value) for part in named)
    assert str(caught.value).count(" there and ") == len(named)
    assert small.files(finished) == before


@pytest.mark.parametrize(
    "other",
    [
        lambda one: dataclasses.replace(one, class_names=(*one.class_names[:-1], "else")),
        lambda one: dataclasses.replace(one, train=one.train.subset(np.arange(len(one.train) - 1))),
        lambda one: dataclasses.replace(one, test=one.test.subset(np.arange(len(one.test) - 1))),
    ],
    ids=["class_names", "teacher", "test"],
)
def test_other_images_are_refused(finished, other, request):
    about = request.node.callspec.id
    before = small.files(finished)
    with pytest.raises(ConfigError, match=f"a run with other images: .*{about}: .* there, .* here"):
        small.run(finished, _values(seeds=(0, 1)), dataset=other(small.dataset()))
    assert small.files(finished) == before


def test_a_run_stopped_at_random_steps_and_grown_meanwhile_ends_the_same(finished, tmp_path):
    """Arms are added to a group that is half trained; nothing differs in the end."""
    folder, chance = tmp_path / "run", random.SystemRandom()
    at = [chance.randrange(1, 12), *sorted(chance.sample(range(1, 10), 2))]
    arms = [("mixkd",), ("mixkd",), ("mixkd", "mixup")]
    for number, (step, chosen) in enumerate(zip(at, arms, strict=True)):

        def stop(now, step=step, number=number):
            trained = (folder / "teacher" / "evaluation.json").exists()
            return now == step and trained == (number > 0)

        with pytest.raises(Stopped):
            small.run(folder, _values(arms=chosen), stop=stop)
    small.run(folder, _values(arms=("mixkd", "mixup")))
    for name in ("teacher", "arms/mixkd/0"):
        assert _model(folder, name) == _model(finished, name), (name, at)
    assert len(_model(folder, "arms/mixup/0")[1]) == 4


def test_a_teacher_temperature_that_fits_is_the_one_of_the_validation_images(copied):
    small.run(copied, _values(arms=("mixkd:teacher_temperature=fit",)))
    fitted = _json(copied / "arms/mixkd~teacher_temperature=fit/0/evaluation.json")
    found = fitted["recipe"]["teacher_temperature"]
    # The analysis fits one too, of the teacher's own logits on the same images.
    want = _json(copied / "teacher/analysis.json")["calibration"]["temperature"]
    assert found == pytest.approx(want, rel=1e-5) and abs(found - 1) > 0.01
    plain = _json(copied / "teacher/evaluation.json")["metrics"]
    assert fitted["teacher"]["accuracy"] == plain["accuracy"]
    assert fitted["teacher"]["nll"] != plain["nll"]
    # Its student is that of the number, to the last bit.
    small.run(copied, _values(arms=(f"mixkd:teacher_temperature={found!r}",)))
    ends = [
        _state(copied / f"arms/mixkd~teacher_temperature={value}/0") for value in ("fit", found)
    ]
    assert ends[0] == ends[1]


# The command


def _command(here: pathlib.Path, *given):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, small.ROOT / "run.py", *given],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_run_is_made_and_grown_and_refuses_another_config(tmp_path):
    """From a plain list of arms; then with its folder alone; then with another teacher."""
    workdir, flag = tmp_path / "run", f"--workdir={tmp_path / 'run'}"
    given = ["--config=digits", flag, "--config.arms=ce,mixkd", "--config.seeds=0,"]
    given += ["--config.analysis.pairs=0", "--config.log.every=4 steps"]
    for model in ("teacher", "student"):
        given += [f"--config.{model}.duration=4 steps", f"--config.{model}.batch_size=40"]
    process = _command(tmp_path, *given)
    assert process.returncode == 0, process.stderr
    assert "new: 3 models, the teacher and 2 students" in process.stderr
    assert f"report: {workdir}/report.html" in process.stderr

    process = _command(tmp_path, flag, "--config.arms=mixkd,mixkd:temperature=4,mixkd:loss=dkd")
    assert process.returncode == 0, process.stderr
    arms = ["ce", "mixkd", "mixkd:temperature=4", "mixkd:loss=dkd"]
    assert list(json.loads((workdir / "results.json").read_text())["arms"]) == arms
    assert all(arm in process.stdout for arm in arms)
    assert "2 of 5 models left in 1 group" in process.stderr
    assert "seed 0, mixed: mixkd:temperature=4, mixkd:loss=dkd" in process.stderr

    before = {name: (workdir / name).stat().st_mtime_ns for name in small.files(workdir)}
    process = _command(tmp_path, flag, "--config.teacher.duration=5 steps")
    assert process.returncode == 1 and process.stdout == ""
    want = f"error: --workdir: {workdir} holds a run of another config: "
    differs = 'config.teacher.duration is "4 steps" there and "5 steps" here. '
    assert want + differs in process.stderr and "Traceback" not in process.stderr
    assert {name: (workdir / name).stat().st_mtime_ns for name in small.files(workdir)} == before
